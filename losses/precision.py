"""The precision that losses are computed in, whatever autocast makes of their inputs."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Lift half-precision values to float32. Leave float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
