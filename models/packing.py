"""Texts without their padding. R rows, L tokens of the longest, T tokens of all rows together, D width.

Captions are short and of very different lengths: of a padded batch nearly half is padding. Everything that treats
tokens one by one (projections, feed-forward, norms) runs on the T real tokens; only attention needs rows again.
"""

from torch import Tensor


class Packing:
    """Which places of a padded batch hold tokens: attention_mask (R, L), 1 = token, 0 = padding."""

    def __init__(self, attention_mask: Tensor) -> None:
        self.shape = attention_mask.shape
        self.may_be_attended = attention_mask[:, None, None].bool()  # (R, 1, 1, L)
        self.place = attention_mask.flatten().nonzero()[:, 0]  # (T,)
        self.column = self.place % attention_mask.shape[1]  # (T,)

    def pack(self, padded: Tensor) -> Tensor:
        """(R, L, ...) -> (T, ...)."""
        return padded.flatten(0, 1).index_select(0, self.place)

    def pad(self, packed: Tensor) -> Tensor:
        """(T, ...) -> (R, L, ...), zeros in the padding."""
        flat = packed.new_zeros((self.shape.numel(), *packed.shape[1:]))
        return flat.index_copy(0, self.place, packed).unflatten(0, self.shape)
