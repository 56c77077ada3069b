"""Operators that do in one launch what PyTorch does in several. How they are registered: operators.py.

Bias and GELU are not among them. The bias of a linear layer is added in its product's own launch, so a fused kernel
would launch as often as PyTorch: two forward (product, GELU) and four backward (GELU, two products, the bias's sum).
"""

from models.fused.operators import use_kernels
from models.fused.philox import Dropout
from models.fused.post_norm import NormAndStream, dropout_add_layer_norm
from models.fused.pre_norm import ResidualAndNorm, add_layer_norm, add_rms_norm
from models.fused.rows import gather_rows

__all__ = [
    "Dropout",
    "NormAndStream",
    "ResidualAndNorm",
    "add_layer_norm",
    "add_rms_norm",
    "dropout_add_layer_norm",
    "gather_rows",
    "use_kernels",
]
