"""Texts without their padding. R rows, L tokens of the longest, T tokens of all rows together, D width.

Captions are short and of very different lengths, so nearly half of a padded batch is padding. Whatever treats tokens
one by one (projections, feed-forward, norms) runs on the T real tokens. Only attention needs the rows back.
"""

from torch import Tensor
from torch.nn import functional as F

from dataset.texts import find, is_counted
from models.attention import KeyMask
from models.fused import gather_rows


class Packing:
    """Which places of a padded batch hold tokens.

    Args:
        attention_mask: (R, L), 1 = token, 0 = padding.
        at_most: as in `dataset.texts.Places`. On a GPU, T is this number, and the entries behind the last token belong
            to no place: their values are never read.
    """

    dropout_seed: Tensor | None = None  # of the pass over these texts, where dropout is drawn in fused operators

    def __init__(self, attention_mask: Tensor, at_most: int | None = None) -> None:
        self.shape = attention_mask.shape
        self.key_mask = KeyMask(attention_mask)
        flat, places = attention_mask.flatten(), attention_mask.numel()
        self._is_static = not is_counted(flat, at_most)
        self._place = find(flat, at_most, fill=places)[:, 0]  # (T,)
        # (R * L,) number of each token among the packed ones; -1 where there is none
        self._rank = flat.cumsum(0) * flat - 1 if self._is_static else flat.cumsum(0) - 1
        self._indices: dict[Packing, tuple[Tensor, Tensor]] = {}  # of `select`, for the layers that share a part
        self.column = self._place % attention_mask.shape[1]  # (T,)

    def pack(self, padded: Tensor) -> Tensor:
        """(R, L, ...) -> (T, ...)."""
        if self._is_static:
            return gather_rows(padded.flatten(0, 1), self._place, self._rank)
        return padded.flatten(0, 1).index_select(0, self._place)

    def pad(self, packed: Tensor) -> Tensor:
        """(T, ...) -> (R, L, ...), zeros in the padding."""
        if self._is_static:
            return gather_rows(packed, self._rank, self._place).unflatten(0, self.shape)
        flat = packed.new_zeros((self.shape.numel(), *packed.shape[1:])).index_copy(0, self._place, packed)
        return flat.unflatten(0, self.shape)

    def select(self, packed: Tensor, part: "Packing") -> Tensor:
        """Of all tokens (T, ...) those of a part of the places."""
        if not self._is_static:
            return packed.index_select(0, self._rank[part._place])
        if part not in self._indices:
            self._indices[part] = self._rank_of(part), part._rank_of(self)
        return gather_rows(packed, *self._indices[part])

    def _rank_of(self, other: "Packing") -> Tensor:
        """For each token of the other the number of the same place among the own tokens; -1 where there is none."""
        return F.pad(self._rank, (0, 1), value=-1)[other._place]
