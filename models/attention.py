"""Scaled dot-product attention in the dtype that `utils.precision` chooses for it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.precision import attention_dtype, product_dtype


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, *, dropout_prob: float = 0.0
) -> Tensor:
    """(..., L, D) over (..., S, D), twice -> (..., L, D), in the dtype of matrix products.

    Args:
        mask: broadcast to (..., L, S), True where a query may attend.
    """
    dtype, wanted = attention_dtype(queries), product_dtype(queries)
    if dtype == wanted:
        return F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p=dropout_prob)
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys, values = (x.to(dtype) for x in (queries, keys, values))
        return F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p=dropout_prob).to(wanted)
