"""Texts without their padding. R rows, L tokens of the longest, T tokens of all rows together, D width.

Captions are short and of very different lengths, so nearly half of a padded batch is padding. Whatever treats tokens
one by one (projections, feed-forward, norms) runs on the T real tokens. Only attention needs the rows back.
"""

from torch import Tensor

from dataset.texts import find, is_counted


class Packing:
    """Which places of a padded batch hold tokens.

    Args:
        attention_mask: (R, L), 1 = token, 0 = padding.
        at_most: as in `dataset.texts.Places`. On a GPU, T is this number, and the entries behind the last token belong
            to no place: their values are never read.
    """

    def __init__(self, attention_mask: Tensor, at_most: int | None = None) -> None:
        self.shape = attention_mask.shape
        self.may_be_attended = attention_mask[:, None, None].bool()  # (R, 1, 1, L)
        flat, places = attention_mask.flatten(), attention_mask.numel()
        self._rank = flat.cumsum(0) - 1  # (R * L,) number of each token among the packed ones
        self._place = find(flat, at_most, fill=places)[:, 0]  # (T,)
        self._spare = 0 if is_counted(flat, at_most) else 1
        self._source = self._place.clamp(max=places - 1)  # a place to read from, even where there is none
        self.column = self._place % attention_mask.shape[1]  # (T,)

    def pack(self, padded: Tensor) -> Tensor:
        """(R, L, ...) -> (T, ...)."""
        return padded.flatten(0, 1).index_select(0, self._source)

    def pad(self, packed: Tensor) -> Tensor:
        """(T, ...) -> (R, L, ...), zeros in the padding."""
        places = self.shape.numel()  # the spare row takes the entries that belong to no place
        flat = packed.new_zeros((places + self._spare, *packed.shape[1:])).index_copy(0, self._place, packed)
        return (flat[:places] if self._spare else flat).unflatten(0, self.shape)

    def select(self, packed: Tensor, part: "Packing") -> Tensor:
        """Of all tokens (T, ...) those of a part of the places."""
        return packed.index_select(0, self._rank[part._source].clamp(min=0))
