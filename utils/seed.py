"""Random seeds, and the random state of a process in the form that a checkpoint stores.

The state holds only tensors and plain numbers, so that torch.load(weights_only=True) reads it.
"""

import os
import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy's global generator, and torch on the CPU and on every GPU; seed in [0, 2**32)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def get_random_state() -> dict[str, Any]:
    """Return the state of Python's, NumPy's global and torch's generators (CPU and, if present, the current GPU)."""
    python_version, python_words, python_gauss = random.getstate()
    _, numpy_words, numpy_position, numpy_has_gauss, numpy_gauss = np.random.get_state(legacy=True)
    return {
        "python": {
            "version": python_version,
            "words": torch.tensor(python_words, dtype=torch.int64),  # (625,)
            "gauss": python_gauss,
        },
        "numpy": {
            "words": torch.from_numpy(np.asarray(numpy_words, dtype=np.int64)),  # (624,)
            "position": int(numpy_position),
            "has_gauss": int(numpy_has_gauss),
            "gauss": float(numpy_gauss),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Continue from a state of get_random_state. Without a GPU, the state of a GPU is ignored."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    words = numpy["words"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words, numpy["position"], numpy["has_gauss"], numpy["gauss"]))
    torch.set_rng_state(state["torch"].cpu())  # it lies on a GPU if the checkpoint was loaded onto one
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def make_deterministic() -> None:
    """Use deterministic kernels only; others raise RuntimeError. Call this before the first GPU operation."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
