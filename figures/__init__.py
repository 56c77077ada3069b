"""Pictures from runs and checkpoints: `python -m figures NAME`."""
