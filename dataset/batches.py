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
    """Texts, padded behind with zeros; all (B, L) int64."""

    input_ids: Tensor  # vocabulary ids; [CLS] first, no [SEP]
    attention_mask: Tensor  # 1 = token, 0 = padding
    attribute_ids: Tensor  # 0 = in no attribute chunk, k = in the text's k-th


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
    """Batch of samples of one kind: tensors stacked, texts padded to the longest, named tuples field by field."""
    first = samples[0]
    if isinstance(first, Tensor):
        return torch.stack(list(samples))
    if isinstance(first, Tokens):
        return Tokens(*(pad_sequence(list(field), batch_first=True) for field in zip(*samples, strict=True)))
    return type(first)(*(collate(field) for field in zip(*samples, strict=True)))


def to_device(batch: T, device: torch.device | str, non_blocking: bool = False) -> T:
    """The same named tuple with every tensor on the device."""
    moved = (
        field.to(device, non_blocking=non_blocking)
        if isinstance(field, Tensor)
        else to_device(field, device, non_blocking)
        for field in batch
    )
    return type(batch)(*moved)
