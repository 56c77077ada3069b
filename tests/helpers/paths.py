"""Where the tests find what they read."""

from pathlib import Path

ROOMS = ("utils", "dataset", "losses", "models", "evaluation", "training", "figures", "gallery")
REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
DEBUG_CONFIG = CONFIGS / "debug.yaml"
VECTORS = REPOSITORY / "tests" / "parity" / "vectors"
