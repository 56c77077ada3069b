"""A random draw by weights that lets a GPU work on."""

import torch
from torch import Tensor


def draw_index(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw an index of the last axis with chances in proportion to weights: (..., V) -> (...).

    It inverts the cumulative sum, with one random number per row. torch.multinomial draws one per entry, which takes
    several times as long on a vocabulary, and makes a GPU wait for its checks. Rows of zeros or NaN give any index.

    generator: on the device of weights; None = torch's global one.
    """
    cumulative = weights.cumsum(dim=-1)
    # In (0, total], so that the first entry to reach it exists and has a weight above 0.
    share = 1 - torch.rand((*weights.shape[:-1], 1), device=weights.device, generator=generator)
    index = torch.searchsorted(cumulative, share * cumulative[..., -1:])
    return index.squeeze(-1).clamp(max=weights.shape[-1] - 1)
