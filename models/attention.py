"""Scaled dot-product attention in the dtype that `utils.precision` chooses for it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.precision import attention_dtype, product_dtype


class KeyMask:
    """Which keys the queries of a row may attend to, as the kernels want it: 0 or minus infinity to be added.

    Every layer of a pass uses the same mask, which is made once for each dtype.
    """

    def __init__(self, allowed: Tensor) -> None:
        """allowed: (R, L), 0 = no query of the row may attend to the key."""
        self._forbidden = allowed[:, None, None] == 0  # (R, 1, 1, L)
        self._added: dict[torch.dtype, Tensor] = {}

    def added(self, dtype: torch.dtype) -> Tensor:
        """(R, 1, 1, L)."""
        if dtype not in self._added:
            allowed = torch.zeros((), dtype=dtype, device=self._forbidden.device)
            self._added[dtype] = torch.where(self._forbidden, float("-inf"), allowed)
        return self._added[dtype]


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: KeyMask | Tensor | None = None, *, dropout_prob: float = 0.0
) -> Tensor:
    """(R, heads, L, D) over (R, heads, S, D), twice -> (R, heads, L, D), in the dtype of matrix products.

    mask: of the keys, or bool and broadcast to (R, heads, L, S), True where a query may attend.
    """
    dtype, wanted = attention_dtype(queries), product_dtype(queries)
    added = mask.added(dtype) if isinstance(mask, KeyMask) else mask
    if dtype == wanted:
        return F.scaled_dot_product_attention(queries, keys, values, added, dropout_p=dropout_prob)
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys, values = (x.to(dtype) for x in (queries, keys, values))
        return F.scaled_dot_product_attention(queries, keys, values, added, dropout_p=dropout_prob).to(wanted)
