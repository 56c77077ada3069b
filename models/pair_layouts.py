"""How text-image pairs lie in memory while they are scored, and their attention in that layout.

P pairs, L tokens of the longest text, T tokens of the pairs one after another, D text width, I images, K image tokens,
S slots of n pairs.

- `PackedPairs`: any pairs, and every number is exact. Attention is called once for each length and each image. For a
  CPU, which computes padding as slowly as anything else.
- `SlottedPairs`: sizes that the host fixes, so that its indices, which lie on the device, may change from call to call.
  Attention is one call per sublayer. For a GPU, where calls are dear, and for its CUDA graphs.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from models.attention import KeyMask
from models.packing import Packing

MOST_ROWS = 2**15  # per call of attention; on a GPU, rows are blocks of a grid, whose number is limited

# queries (rows, n, D), keys and values (rows, m, 2 D), mask of the keys -> (rows, n, D)
Attend = Callable[[Tensor, Tensor, KeyMask | None], Tensor]


class TextStates(NamedTuple):
    """Texts before they see an image."""

    tokens: Tensor  # (all tokens, D), [CLS] of each text first; on the device
    start: Tensor  # (texts,) place of each [CLS]
    length: Tensor  # (texts,) in tokens


class PairLayout(Protocol):
    """Attention of P pairs. Each method returns a row for each of its queries: all T tokens, or [CLS] of each pair."""

    places: Tensor  # (T,) rows of `TextStates.tokens`, on the device
    class_token: Tensor  # (P,) place of each pair's [CLS] among the T, on the device

    def over_text(self, projected: Tensor, attend: Attend) -> Tensor:
        """projected (T, 3 D): queries, keys, values."""
        ...

    def class_over_text(self, queries: Tensor, keys_values: Tensor, attend: Attend) -> Tensor:
        """queries (P, D), keys_values (T, 2 D)."""
        ...

    def over_images(self, queries: Tensor, keys_values: Tensor, attend: Attend) -> Tensor:
        """queries (T, D), keys_values (I, K, 2 D)."""
        ...

    def class_over_images(self, queries: Tensor, keys_values: Tensor, attend: Attend) -> Tensor:
        """queries (P, D), keys_values (I, K, 2 D)."""
        ...

    def in_given_order(self, scores: Tensor) -> Tensor:
        """Scores (P,) in the order of the pairs that the layout was made of."""
        ...


class PackedPairs:
    """Self-attention runs over texts of equal length together; all tokens that attend to an image are one long query.

    Args: text_index, image_index: (P,) rows of texts, whose numbers are on the CPU, and of I images; on the CPU.
    """

    def __init__(self, texts: TextStates, text_index: Tensor, image_index: Tensor) -> None:
        self._device = texts.tokens.device
        # by length for self-attention, then by image, so that neighbours read the same keys
        self._order = (texts.length[text_index] * (image_index.max() + 1) + image_index).argsort()
        self._image_index = image_index[self._order]
        length = texts.length[text_index[self._order]]
        start = starts(length)
        lengths, count = length.unique_consecutive(return_counts=True)
        self._runs = [  # texts of equal length: (number, length)
            (min(MOST_ROWS, rows - first), length)
            for rows, length in zip(count.tolist(), lengths.tolist(), strict=True)
            for first in range(0, rows, MOST_ROWS)
        ]
        self._tokens = self._by_image(start, length)
        self._class_tokens = self._by_image(torch.arange(len(length)), torch.ones_like(length))
        self.places = send(_ranges(texts.start[text_index[self._order]], length), self._device)
        self.class_token = send(start, self._device)

    def over_text(self, projected: Tensor, attend: Attend) -> Tensor:
        width = projected.shape[1] // 3
        queries, keys_values = projected.split([width, 2 * width], dim=1)
        return self._over_text(queries, keys_values, self._runs, attend)

    def class_over_text(self, queries: Tensor, keys_values: Tensor, attend: Attend) -> Tensor:
        return self._over_text(queries, keys_values, [(rows, 1) for rows, _ in self._runs], attend)

    def over_images(self, queries: Tensor, keys_values: Tensor, attend: Attend) -> Tensor:
        return _over_groups(queries, keys_values, self._tokens, attend)

    def class_over_images(self, queries: Tensor, keys_values: Tensor, attend: Attend) -> Tensor:
        return _over_groups(queries, keys_values, self._class_tokens, attend)

    def in_given_order(self, scores: Tensor) -> Tensor:
        return torch.empty_like(scores).index_copy_(0, send(self._order, self._device), scores)

    def _over_text(
        self, queries: Tensor, keys_values: Tensor, per_text: list[tuple[int, int]], attend: Attend
    ) -> Tensor:
        """per_text: of each run, the number of texts and the queries of one."""
        parts = zip(
            queries.split([rows * length for rows, length in per_text]),
            keys_values.split([rows * length for rows, length in self._runs]),
            self._runs,
            strict=True,
        )
        attended = [
            attend(query.unflatten(0, (rows, -1)), key_value.unflatten(0, (rows, -1)), None).flatten(0, 1)
            for query, key_value, (rows, _) in parts
        ]
        return torch.cat(attended)

    def _by_image(self, start: Tensor, length: Tensor) -> "_Groups":
        images = self._image_index.unique()
        sizes = torch.zeros(int(images[-1]) + 1, dtype=torch.long).index_add_(0, self._image_index, length)[images]
        if len(images) == 1:
            return _Groups(images.tolist(), sizes.tolist(), None, None)
        pairs = self._image_index.argsort(stable=True)
        order = _ranges(start[pairs], length[pairs])
        inverse = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
        return _Groups(images.tolist(), sizes.tolist(), send(order, self._device), send(inverse, self._device))


class _Groups(NamedTuple):
    """n queries, grouped by the image to which they attend."""

    images: list[int]
    sizes: list[int]  # queries of each image
    order: Tensor | None  # (n,) the query at each position; None = they are already sorted
    inverse: Tensor | None  # (n,) the position of each query


def _over_groups(queries: Tensor, keys_values: Tensor, groups: _Groups, attend: Attend) -> Tensor:
    if groups.order is not None:
        queries = queries[groups.order]
    parts = zip(groups.images, queries.split(groups.sizes), strict=True)
    attended = torch.cat([attend(query[None], keys_values[image, None], None)[0] for image, query in parts])
    return attended if groups.inverse is None else attended[groups.inverse]


class SlottedPairs:
    """The pairs of a slot attend to one image, as one long query. Texts are padded for attention alone.

    Args:
        texts: all on the device.
        text_index: (P,) rows of texts, P = S * n; on the device, as is
        image_index: (S,) the image of each slot.
        longest: L, or more.
        at_most: T, or more. On a GPU as many tokens are computed, and what is behind the last one is never read.
    """

    def __init__(
        self, texts: TextStates, text_index: Tensor, image_index: Tensor, *, longest: int, at_most: int
    ) -> None:
        column = torch.arange(longest, device=text_index.device)
        length = texts.length[text_index]
        self._packing = Packing((column < length[:, None]).long(), at_most)
        self._image_index = image_index
        self.places = self._packing.pack(texts.start[text_index][:, None] + column)
        self.class_token = starts(length)

    def over_text(self, projected: Tensor, attend: Attend) -> Tensor:
        width = projected.shape[1] // 3
        queries, keys_values = self._packing.pad(projected).split([width, 2 * width], dim=-1)
        return self._packing.pack(attend(queries, keys_values, self._packing.key_mask))

    def class_over_text(self, queries: Tensor, keys_values: Tensor, attend: Attend) -> Tensor:
        return attend(queries[:, None], self._packing.pad(keys_values), self._packing.key_mask)[:, 0]

    def over_images(self, queries: Tensor, keys_values: Tensor, attend: Attend) -> Tensor:
        return self._packing.pack(self._over_slots(self._packing.pad(queries), keys_values, attend))

    def class_over_images(self, queries: Tensor, keys_values: Tensor, attend: Attend) -> Tensor:
        return self._over_slots(queries[:, None], keys_values, attend)[:, 0]

    def in_given_order(self, scores: Tensor) -> Tensor:
        return scores

    def _over_slots(self, queries: Tensor, keys_values: Tensor, attend: Attend) -> Tensor:
        """(P, m, D) -> (P, m, D)."""
        of_slots = queries.reshape(len(self._image_index), -1, queries.shape[-1])
        return attend(of_slots, keys_values[self._image_index], None).view_as(queries)


def starts(length: Tensor) -> Tensor:
    """Start of each of several packed texts: lengths (n,) -> (n,)."""
    return length.cumsum(0) - length


def send(index: Tensor, device: torch.device) -> Tensor:
    """Send an index to the device without waiting for it, so that the device never runs out of work."""
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index


def _ranges(start: Tensor, length: Tensor) -> Tensor:
    """Concatenate the ranges start[i], start[i] + 1, ... of length[i] numbers: (n,), (n,) -> (length.sum(),)."""
    return (start - starts(length)).repeat_interleave(length) + torch.arange(int(length.sum()))
