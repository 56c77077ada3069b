"""Everything around the model, one job per file: configuration, checkpoints, processes, log, metrics, seeds."""
