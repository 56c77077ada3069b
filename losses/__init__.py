"""Training losses: pure functions of tensors, one file each, in nats unless said otherwise; nothing here knows a model.

Every loss is a scalar that keeps its graph even where it has nothing to average (then it is 0), and is computed in
float32 or better, whatever the precision of its inputs and whether or not autocast is on.
"""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Lift half-precision values to float32 and leave float32 and float64 as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
