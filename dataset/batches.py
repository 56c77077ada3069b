"""What a loader yields. B batch, L longest text of the batch in tokens, H W pixels. A sample is the same without B.

Images are uint8, RGB, 0..255, not normalised: that happens on the device, by the image encoder's own mean and std.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dataset.texts import LENGTH_STEP, Texts, bucket_of, pad_texts

T = TypeVar("T", bound=tuple)


class TrainBatch(NamedTuple):
    """Image-text pairs. Both images are the same picture, each flipped or not on its own."""

    image_1: Tensor  # (B, 3, H, W) uint8
    image_2: Tensor  # (B, 3, H, W) uint8
    text_1: Texts  # the pair's own caption
    text_2: Texts  # the weak positive: the own caption, or any of the same person's
    person_id: Tensor  # (B,) int64, 0..people-1 of the training set
    replaced: Tensor  # (B,) int64, 1 = text_2 differs from text_1

    def first(self, pairs: int) -> "TrainBatch":
        """The first so many pairs."""
        fields: list[Any] = [field.first(pairs) if isinstance(field, Texts) else field[:pairs] for field in self]
        return TrainBatch(*fields)


class ImageBatch(NamedTuple):
    """Gallery images."""

    image: Tensor  # (B, 3, H, W) uint8
    person_id: Tensor  # (B,) int64, as in the annotations


class CaptionBatch(NamedTuple):
    """Query captions."""

    text: Texts
    person_id: Tensor  # (B,) int64, as in the annotations


def collate(samples: Sequence[Any]) -> Any:
    """Batch of samples of one kind: tensors stacked, texts padded to the longest, named tuples field by field.

    A batch that its set has made already is returned as it is.
    """
    if isinstance(samples, TrainBatch):
        return samples
    first = samples[0]
    if isinstance(first, Tensor):
        return torch.stack(list(samples))
    if isinstance(first, Texts):
        ids, mask, attributes = ([getattr(text, name) for text in samples] for name in Texts._fields[:3])
        return Texts(
            pad_sequence(ids, batch_first=True),
            pad_sequence(mask, batch_first=True),
            pad_sequence(attributes, batch_first=True),
        )
    return type(first)(*(collate(field) for field in zip(*samples, strict=True)))


def collate_for_gpu(samples: Sequence[Any], *, parts: int, shares: Sequence[float]) -> TrainBatch:
    """As collate, with texts of one of a few lengths and their bucket: most steps have tensors of the same shapes.

    Args:
        parts: of a batch that a step works on one after the other.
        shares: of the pairs of a part, the first ones, that go through the cross-modal encoder together.
    """
    batch = collate(samples)
    longest = max(text.input_ids.shape[1] for text in (batch.text_1, batch.text_2))
    length = -(-longest // LENGTH_STEP) * LENGTH_STEP
    texts = [pad_texts(text, length) for text in (batch.text_1, batch.text_2)]
    size = len(batch.person_id) // parts
    starts = range(0, len(batch.person_id), size)
    numbers = {size, *(math.ceil(size * share) for share in shares)}
    rows = [slice(start, start + number) for start in starts for number in numbers]
    bucket = bucket_of(texts, rows)
    text_1, text_2 = (text._replace(bucket=bucket) for text in texts)
    return batch._replace(text_1=text_1, text_2=text_2)


def to_device(batch: T, device: torch.device | str, non_blocking: bool = False) -> T:
    """The same named tuple with every tensor on the device."""

    def moved(field: Any) -> Any:
        if isinstance(field, Tensor):
            return field.to(device, non_blocking=non_blocking)
        return type(field)(*map(moved, field)) if isinstance(field, tuple) else field

    return moved(batch)
