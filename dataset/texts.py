"""Padded texts on their way from the loader through the text encoder. R rows, L tokens of the longest.

A GPU works behind the host's back. To ask it how many tokens a batch holds would make it finish its work first. So the
numbers of tokens are counted where a batch is collated, and travel with it on the CPU. They are rounded up, so that the
tensors of a step have the same shapes in most steps. On a CPU nobody has to wait: there the tokens are counted where
the number is needed, and it is exact.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

COUNTING_IS_FREE = frozenset({"cpu"})  # kinds of device
STEPS = 8  # numbers of tokens are rounded up to so many different values between 0 and R * L
LENGTH_STEP = 16  # on a GPU, L is rounded up to a multiple of this


class Places(NamedTuple):
    """Some places of a padded batch."""

    mask: Tensor  # (R, L), 0 = not one of them
    at_most: int | None = None  # so many of them; None = to be counted, for which a GPU has to be waited for


class Texts(NamedTuple):
    """Texts, padded with zeros behind their last token; (R, L) int64. collate adds the two numbers, on the CPU."""

    input_ids: Tensor  # vocabulary ids; [CLS] first, no [SEP]
    attention_mask: Tensor  # 1 = token, 0 = padding
    attribute_ids: Tensor  # 0 = in no attribute chunk, k = in the text's k-th
    num_tokens: Tensor | None = None  # (R,) int64
    num_in_chunks: Tensor | None = None  # (R,) int64, tokens in attribute chunks

    def first(self, rows: int) -> "Texts":
        """The first so many texts."""
        return Texts(*(None if field is None else field[:rows] for field in self))  # type: ignore[arg-type]

    def chosen(self, index: Tensor) -> "Texts":
        """Texts by row index (n,), on the device: the host does not know it, so any of them may be the longest."""
        ids, mask, chunks = (field[index] for field in self[:3])
        numbers = (None if field is None else field.max().expand(len(index)) for field in self[3:])
        return Texts(ids, mask, chunks, *numbers)

    def tokens(self) -> Places:
        return Places(self.attention_mask, self._rounded(self.num_tokens))

    def num_words(self) -> int | None:
        """Tokens but [CLS], rounded up; None = to be counted."""
        return None if self.num_tokens is None else self._rounded(self.num_tokens - 1)

    def class_tokens(self) -> Places:
        return Places(is_class_token(self.attention_mask), None if self.num_tokens is None else len(self.input_ids))

    def class_and_chunk_tokens(self) -> Places:
        number = None if self.num_in_chunks is None else self.num_in_chunks + 1
        return Places(is_class_token(self.attention_mask) | (self.attribute_ids > 0), self._rounded(number))

    def _rounded(self, numbers: Tensor | None) -> int | None:
        """Sum of the rows' numbers (R,), rounded up."""
        if numbers is None:
            return None
        places = self.input_ids.numel()
        step = max(1, math.ceil(places / STEPS))
        return min(places, step * math.ceil(int(numbers.sum()) / step))


class TextRows(NamedTuple):
    """Rows of a pass through the text encoder."""

    input_ids: Tensor  # (R, L)
    tokens: Places
    wanted: Places  # the places whose hidden states are needed


def is_class_token(attention_mask: Tensor) -> Tensor:
    """(R, L) like the mask: 1 at [CLS], the first token of each row."""
    return torch.cat([torch.ones_like(attention_mask[:, :1]), torch.zeros_like(attention_mask[:, 1:])], dim=1)


def join_texts(parts: Sequence[Texts]) -> Texts:
    """Texts of one length L, one part behind the other."""
    fields: list[Any] = [None if field[0] is None else torch.cat(field) for field in zip(*parts, strict=True)]
    return Texts(*fields)


def join_rows(parts: Sequence[TextRows]) -> TextRows:
    """Rows of any lengths, one part behind the other, padded to the longest."""
    length = max(part.input_ids.shape[1] for part in parts)

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([F.pad(tensor, (0, length - tensor.shape[1])) for tensor in tensors])

    def places(parts: Sequence[Places]) -> Places:
        numbers = [part.at_most for part in parts if part.at_most is not None]
        return Places(joined([part.mask for part in parts]), sum(numbers) if len(numbers) == len(parts) else None)

    ids, tokens, wanted = zip(*parts, strict=True)
    return TextRows(joined(ids), places(tokens), places(wanted))


def pad_texts(texts: Texts, multiple: int) -> Texts:
    """The same texts with L rounded up to a multiple."""
    missing = -texts.input_ids.shape[1] % multiple
    ids, mask, chunks = (F.pad(field, (0, missing)) for field in texts[:3])
    return Texts(ids, mask, chunks, *texts[3:])


def is_counted(chosen: Tensor, at_most: int | None) -> bool:
    """Whether `find` counts the places; if not, it takes at_most for their number."""
    return at_most is None or chosen.device.type in COUNTING_IS_FREE


def find(chosen: Tensor, at_most: int | None, *, fill: int) -> Tensor:
    """Indices of what is not 0, as `Tensor.nonzero` gives them: (places, dimensions of chosen).

    at_most: on a GPU the result has so many rows, and those behind the last place found hold `fill`.
    """
    if is_counted(chosen, at_most):
        return chosen.nonzero()
    assert at_most is not None
    return torch.nonzero_static(chosen, size=at_most, fill_value=fill)
