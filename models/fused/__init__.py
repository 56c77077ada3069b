"""Operators that do in one launch what PyTorch does in several. How they are registered: operators.py."""

from models.fused.layer_norm import NormAndStream, dropout_add_layer_norm
from models.fused.operators import use_kernels
from models.fused.philox import Dropout
from models.fused.rms_norm import ResidualAndNorm, add_rms_norm
from models.fused.rows import gather_rows

__all__ = [
    "Dropout",
    "NormAndStream",
    "ResidualAndNorm",
    "add_rms_norm",
    "dropout_add_layer_norm",
    "gather_rows",
    "use_kernels",
]
