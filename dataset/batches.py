"""What a loader yields. B batch, L longest text of the batch in tokens, H W pixels. A sample is the same without B.

Images are uint8, RGB, 0..255, not normalised: that happens on the device, by the image encoder's own mean and std.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

T = TypeVar("T", bound=tuple)


class Tokens(NamedTuple):
    """Texts, padded behind with zeros; (B, L) int64.

    collate adds the two counts, which stay on the CPU whatever device the batch is moved to: what they tell would
    otherwise have to be asked of a GPU, which would first finish its work.
    """

    input_ids: Tensor  # vocabulary ids; [CLS] first, no [SEP]
    attention_mask: Tensor  # 1 = token, 0 = padding
    attribute_ids: Tensor  # 0 = in no attribute chunk, k = in the text's k-th
    num_tokens: Tensor | None = None  # (B,) int64
    num_in_chunks: Tensor | None = None  # (B,) int64, tokens of attribute chunks


ON_CPU = ("num_tokens", "num_in_chunks")


class TrainBatch(NamedTuple):
    """Image-text pairs. Both images are the same picture, each flipped or not on its own."""

    image_1: Tensor  # (B, 3, H, W) uint8
    image_2: Tensor  # (B, 3, H, W) uint8
    text_1: Tokens  # the pair's own caption
    text_2: Tokens  # the weak positive: the own caption, or any of the same person's
    person_id: Tensor  # (B,) int64, 0..people-1 of the training set
    replaced: Tensor  # (B,) int64, 1 = text_2 differs from text_1


class ImageBatch(NamedTuple):
    """Gallery images."""

    image: Tensor  # (B, 3, H, W) uint8
    person_id: Tensor  # (B,) int64, as in the annotations


class CaptionBatch(NamedTuple):
    """Query captions."""

    text: Tokens
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
    if isinstance(first, Tokens):
        ids, mask, attributes = ([getattr(text, name) for text in samples] for name in Tokens._fields[:3])
        return Tokens(
            pad_sequence(ids, batch_first=True),
            pad_sequence(mask, batch_first=True),
            pad_sequence(attributes, batch_first=True),
            num_tokens=torch.tensor([len(text) for text in ids]),
            num_in_chunks=torch.stack([text.count_nonzero() for text in attributes]),
        )
    return type(first)(*(collate(field) for field in zip(*samples, strict=True)))


def to_device(batch: T, device: torch.device | str, non_blocking: bool = False) -> T:
    """The same named tuple with every tensor on the device, but for those ON_CPU."""

    def moved(name: str, field: Any) -> Any:
        if name in ON_CPU:
            return field
        if isinstance(field, Tensor):
            return field.to(device, non_blocking=non_blocking)
        return to_device(field, device, non_blocking)

    return type(batch)(*(moved(name, field) for name, field in zip(batch._fields, batch, strict=True)))  # type: ignore[attr-defined]
