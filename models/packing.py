"""Texts without their padding. R rows, L tokens of the longest, T tokens of all rows together, D width.

Captions are short and of very different lengths: of a padded batch nearly half is padding. Everything that treats
tokens one by one (projections, feed-forward, norms) runs on the T real tokens; only attention needs rows again.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Places(NamedTuple):
    """Some places of a padded batch."""

    mask: Tensor  # (R, L), 0 = not one of them
    at_most: int | None = None  # of them, where that is known: counting them would make a GPU finish its work first


def is_class_token(attention_mask: Tensor) -> Tensor:
    """(R, L) like the mask: 1 at [CLS], the first token of each row."""
    return torch.cat([torch.ones_like(attention_mask[:, :1]), torch.zeros_like(attention_mask[:, 1:])], dim=1)


class Packing:
    """Which places of a padded batch hold tokens: attention_mask (R, L), 1 = token, 0 = padding.

    at_most: as in Places. T is then this number; what is more than there are tokens stands for no place at all.
    """

    def __init__(self, attention_mask: Tensor, at_most: int | None = None) -> None:
        self.shape = attention_mask.shape
        self.may_be_attended = attention_mask[:, None, None].bool()  # (R, 1, 1, L)
        flat = attention_mask.flatten()
        self._rank = flat.cumsum(0) - 1  # (R * L,) of each token among the packed ones
        if at_most is None:
            self._spare, place = 0, flat.nonzero()[:, 0]  # (T,)
            self._source = place
        else:
            self._spare, place = 1, torch.nonzero_static(flat, size=at_most, fill_value=self.shape.numel())[:, 0]
            self._source = place.clamp(max=self.shape.numel() - 1)
        self._place = place
        self.column = place % attention_mask.shape[1]  # (T,)

    def pack(self, padded: Tensor) -> Tensor:
        """(R, L, ...) -> (T, ...)."""
        return padded.flatten(0, 1).index_select(0, self._source)

    def pad(self, packed: Tensor) -> Tensor:
        """(T, ...) -> (R, L, ...), zeros in the padding."""
        places = self.shape.numel()
        flat = packed.new_zeros((places + self._spare, *packed.shape[1:])).index_copy(0, self._place, packed)
        return (flat[:places] if self._spare else flat).unflatten(0, self.shape)

    def select(self, packed: Tensor, part: "Packing") -> Tensor:
        """Of all tokens (T, ...) those of a part of the places."""
        return packed.index_select(0, self._rank[part._source].clamp(min=0))
