"""Padded texts on their way from the loader through the text encoder. R rows, L tokens of the longest.

A GPU works behind the host's back. To ask it how many tokens a batch holds would make it finish its work first. So
tokens are counted where a batch is collated, and a `Bucket` travels with the texts: bounds so coarse that few batches
differ in them. The tensors of a step then have one of a few sets of shapes, as CUDA graphs need. On a CPU nobody has to
wait: there the tokens are counted where the number is needed, and it is exact.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

COUNTING_IS_FREE = frozenset({"cpu"})  # kinds of device
STEPS = 8  # a bucket counts in eighths of L
LENGTH_STEP = 16  # on a GPU, L is a multiple of this


class Places(NamedTuple):
    """Some places of a padded batch."""

    mask: Tensor  # (R, L), 0 = not one of them
    at_most: int | None = None  # so many of them; None = to be counted, for which a GPU has to be waited for


class Bucket(NamedTuple):
    """Bounds on the tokens of a batch's texts, in L / STEPS. They hold for each part that a step works on by itself."""

    tokens: int  # of a text, on average
    chunk_tokens: int  # of them in attribute chunks, on average
    most_chunk_tokens: int  # in attribute chunks of one text


class Texts(NamedTuple):
    """Texts, padded with zeros behind their last token; (R, L) int64."""

    input_ids: Tensor  # vocabulary ids; [CLS] first, no [SEP]
    attention_mask: Tensor  # 1 = token, 0 = padding
    attribute_ids: Tensor  # 0 = in no attribute chunk, k = in the text's k-th
    bucket: Bucket | None = None  # None = tokens are counted where their number is needed

    def first(self, rows: int) -> "Texts":
        """The first so many texts."""
        return Texts(self.input_ids[:rows], self.attention_mask[:rows], self.attribute_ids[:rows], self.bucket)

    def chosen(self, index: Tensor) -> "Texts":
        """Texts by row index (n,), on the device: the host does not know it, so each may be the longest."""
        bucket = self.bucket
        if bucket is not None:
            bucket = bucket._replace(tokens=STEPS, chunk_tokens=bucket.most_chunk_tokens)
        return Texts(self.input_ids[index], self.attention_mask[index], self.attribute_ids[index], bucket)

    def tokens(self) -> Places:
        return Places(self.attention_mask, None if self.bucket is None else self._bound(self.bucket.tokens))

    def num_words(self) -> int | None:
        """A bound on the tokens but [CLS]; None = to be counted."""
        return None if self.bucket is None else self._bound(self.bucket.tokens) - len(self.input_ids)

    def class_tokens(self) -> Places:
        return Places(is_class_token(self.attention_mask), None if self.bucket is None else len(self.input_ids))

    def class_and_chunk_tokens(self) -> Places:
        mask = is_class_token(self.attention_mask) | (self.attribute_ids > 0)
        bucket = self.bucket
        return Places(mask, None if bucket is None else len(mask) + self._bound(bucket.chunk_tokens))

    def _bound(self, eighths: int) -> int:
        """So many tokens at most, given a bound in L / STEPS for each text."""
        return -(-self.input_ids.numel() * eighths // STEPS)


class TextRows(NamedTuple):
    """Rows of a pass through the text encoder."""

    input_ids: Tensor  # (R, L)
    tokens: Places
    wanted: Places  # the places whose hidden states are needed


def is_class_token(attention_mask: Tensor) -> Tensor:
    """(R, L) like the mask: 1 at [CLS], the first token of each row."""
    return F.pad(attention_mask[:, :1], (0, attention_mask.shape[1] - 1))


def join_rows(parts: Sequence[TextRows]) -> TextRows:
    """Rows of any lengths, one part behind the other, padded to the longest."""
    length = max(part.input_ids.shape[1] for part in parts)

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        missing = [length - tensor.shape[1] for tensor in tensors]
        padded = [F.pad(tensor, (0, n)) if n else tensor for tensor, n in zip(tensors, missing, strict=True)]
        return torch.cat(padded)

    def places(parts: Sequence[Places]) -> Places:
        numbers = [part.at_most for part in parts if part.at_most is not None]
        return Places(joined([part.mask for part in parts]), sum(numbers) if len(numbers) == len(parts) else None)

    ids, tokens, wanted = zip(*parts, strict=True)
    return TextRows(joined(ids), places(tokens), places(wanted))


def pad_texts(texts: Texts, length: int) -> Texts:
    """The same texts with L = length."""
    missing = length - texts.input_ids.shape[1]
    ids, mask, chunks = (F.pad(field, (0, missing)) for field in texts[:3])
    return Texts(ids, mask, chunks, texts.bucket)


def bucket_of(texts: Sequence[Texts], parts: Iterable[slice]) -> Bucket:
    """The bucket of texts of one length L, on the CPU. parts: the rows that a step works on by themselves."""
    length = texts[0].input_ids.shape[1]
    tokens = [text.attention_mask.sum(dim=1) for text in texts]
    chunk_tokens = [(text.attribute_ids > 0).sum(dim=1) for text in texts]
    groups = list(parts)

    def mean(numbers: Sequence[Tensor]) -> int:
        return max(_eighths(int(row[part].sum()), len(row[part]) * length) for row in numbers for part in groups)

    return Bucket(mean(tokens), mean(chunk_tokens), max(_eighths(int(row.max()), length) for row in chunk_tokens))


def _eighths(number: int, places: int) -> int:
    """number / places in 1 / STEPS, rounded up."""
    return -(-number * STEPS // places)


def counting_is_free(device: torch.device) -> bool:
    return device.type in COUNTING_IS_FREE


def is_counted(chosen: Tensor, at_most: int | None) -> bool:
    """Whether `find` counts the places; if not, it takes at_most for their number."""
    return at_most is None or counting_is_free(chosen.device)


def find(chosen: Tensor, at_most: int | None, *, fill: int) -> Tensor:
    """Indices of what is not 0, as `Tensor.nonzero` gives them: (places, dimensions of chosen).

    at_most: on a GPU the result has so many rows, and those behind the last place found hold `fill`.
    """
    if is_counted(chosen, at_most):
        return chosen.nonzero()
    assert at_most is not None
    return torch.nonzero_static(chosen, size=at_most, fill_value=fill)
