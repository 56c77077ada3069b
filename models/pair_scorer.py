"""Matching scores of many text-image pairs at test time: those of `PersonSearchModel.match`, nothing computed twice.

P pairs, L tokens of a text, T tokens of several texts one after another, D text width, I images, K image tokens.

- Each text is encoded once up to the first layer that sees an image (`TextEncoder.before_images`). The keys and values
  of cross-attention are computed once per image and layer.
- There is no padding. Self-attention runs over texts of equal length together, cross-attention takes all tokens that
  attend to one image as one long query, and everything else sees T tokens.
- The matching head reads only [CLS], so in the last layer the other tokens serve as keys and values alone.

For inference only: there is no dropout.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from models.text_encoder import TextEncoder
from utils.memory import cut
from utils.precision import product_dtype

TOKENS_ENCODED_AT_A_TIME = 8192
MOST_ROWS = 2**15  # per call of attention; on a GPU, rows are blocks of a grid, whose number is limited


class TextStates(NamedTuple):
    """Texts before they see an image."""

    tokens: Tensor  # (T, D), [CLS] of each text first; on the device
    start: Tensor  # (texts,) place of each [CLS]; on the CPU
    length: Tensor  # (texts,) in tokens; on the CPU


class PairScorer:
    """Scores pairs with the current weights. Create it inside the same autocast, if any, in which it is used.

    Args:
        text_encoder: in evaluation mode.
        head: the matching head.
    """

    def __init__(self, text_encoder: TextEncoder, head: nn.Linear) -> None:
        self.text_encoder, self.head, self.sizes = text_encoder, head, text_encoder.sizes
        self.device, self.dtype = head.weight.device, product_dtype(head.weight)
        layers: list[Any] = list(text_encoder.bert.encoder.layer)
        self.layers = layers[text_encoder.first_cross :]  # those that see the image
        self.over_text = [_Joined(layer.attention.self, "query key value", self.dtype) for layer in self.layers]
        self.over_images = [_Joined(layer.crossattention.self, "key value", self.dtype) for layer in self.layers]

    def text_states(self, input_ids: Sequence[Tensor]) -> TextStates:
        """Encode texts (L,) of different lengths, without padding, up to the first layer that sees an image."""
        length = torch.tensor([len(ids) for ids in input_ids])
        by_length = length.argsort(stable=True)  # neighbours have nearly equal lengths, so there is hardly any padding
        tokens = []
        for rows in cut(length[by_length], TOKENS_ENCODED_AT_A_TIME):
            ids = pad_sequence([input_ids[row] for row in by_length[rows].tolist()], batch_first=True)
            mask = (torch.arange(ids.shape[1]) < length[by_length[rows], None]).long()
            num_tokens = int(length[by_length[rows]].sum())
            packed = self.text_encoder.before_images(_send(ids, self.device), _send(mask, self.device), num_tokens)
            tokens.append(packed.to(self.dtype))
        start = torch.empty_like(length)
        start[by_length] = _starts(length[by_length])
        return TextStates(torch.cat(tokens), start, length)

    def keys_values(self, image_tokens: Tensor) -> list[Tensor]:
        """image_tokens (I, K, image width), class token first -> (I, K, 2 D) for each layer that sees the image."""
        return [joined(image_tokens) for joined in self.over_images]

    def scores(self, texts: TextStates, keys_values: list[Tensor], text_index: Tensor, image_index: Tensor) -> Tensor:
        """Return the logit of "same person" for P pairs: (P,).

        Args:
            keys_values: of I images, from `keys_values`.
            text_index, image_index: (P,) rows of texts and of the I images, on the CPU.
        """
        # by length for self-attention, then by image, so that neighbours read the same keys
        order = (texts.length[text_index] * (image_index.max() + 1) + image_index).argsort()
        layout = _Layout(texts.length[text_index[order]], image_index[order], self.device)
        places = _ranges(texts.start[text_index[order]], layout.length)
        hidden = texts.tokens[_send(places, self.device)]  # (T, D)
        class_token = _send(layout.start, self.device)
        for number, layer in enumerate(self.layers):
            is_last = number == len(self.layers) - 1
            if number > 0:  # the texts' states include the first layer's self-attention
                hidden = self._attend_to_text(number, hidden, layout, class_token if is_last else None)
            elif is_last:
                hidden = hidden[class_token]
            groups = layout.pairs_by_image() if is_last else layout.tokens_by_image
            hidden = self._attend_to_images(number, hidden, keys_values[number], groups)
            hidden = layer.output(layer.intermediate(hidden), hidden).stream
        scores = self.head(hidden if self.layers else hidden[class_token])[:, 1]
        return torch.empty_like(scores).index_copy_(0, _send(order, self.device), scores)

    def _attend_to_text(self, number: int, hidden: Tensor, layout: "_Layout", class_token: Tensor | None) -> Tensor:
        """Self-attention sublayer: (T, D) -> (T, D), or (P, D) if only the tokens in class_token (P,) are needed."""
        width = hidden.shape[1]
        if class_token is None:
            queries, keys_values = self.over_text[number](hidden).split([width, 2 * width], dim=1)
            per_text = layout.runs
        else:
            keys_values = self.over_text[number](hidden, slice(width, None))
            hidden = hidden[class_token]
            queries = self.over_text[number](hidden, slice(width))
            per_text = [(rows, 1) for rows, _ in layout.runs]
        parts = zip(
            queries.split([rows * length for rows, length in per_text]),
            keys_values.split([rows * length for rows, length in layout.runs]),
            layout.runs,
            strict=True,
        )
        attended = [
            self._attend(query.unflatten(0, (rows, -1)), key_value.unflatten(0, (rows, -1))).flatten(0, 1)
            for query, key_value, (rows, _) in parts
        ]
        return self.layers[number].attention.output(torch.cat(attended), hidden).stream

    def _attend_to_images(self, number: int, hidden: Tensor, keys_values: Tensor, groups: "_Groups") -> Tensor:
        """Cross-attention sublayer: (n, D) -> (n, D), with keys_values (I, K, 2 D)."""
        queries = self.layers[number].crossattention.self.query(hidden)
        if groups.order is not None:
            queries = queries[groups.order]
        parts = zip(groups.images, queries.split(groups.sizes), strict=True)
        attended = torch.cat([self._attend(query[None], keys_values[image, None])[0] for image, query in parts])
        if groups.inverse is not None:
            attended = attended[groups.inverse]
        return self.layers[number].crossattention.output(attended, hidden).stream

    def _attend(self, queries: Tensor, keys_values: Tensor) -> Tensor:
        """queries (rows, n, D), keys_values (rows, m, 2 D) -> (rows, n, D)."""
        inputs = (queries, *keys_values.chunk(2, dim=-1))
        heads = (x.unflatten(-1, (self.sizes.num_attention_heads, -1)).transpose(1, 2) for x in inputs)
        return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


class _Joined:
    """Several projections of one input as one product. `part` selects a slice of their joined outputs."""

    def __init__(self, attention: Any, names: str, dtype: torch.dtype) -> None:
        parts = [getattr(attention, name) for name in names.split()]
        self.weight = torch.cat([part.weight for part in parts]).to(dtype)
        self.bias = torch.cat([part.bias for part in parts]).to(dtype)

    def __call__(self, x: Tensor, part: slice = slice(None)) -> Tensor:
        return F.linear(x, self.weight[part], self.bias[part])


class _Groups(NamedTuple):
    """n queries, grouped by the image to which they attend."""

    images: list[int]
    sizes: list[int]  # queries of each image
    order: Tensor | None  # (n,) the query at each position; None = they are already sorted
    inverse: Tensor | None  # (n,) the position of each query


class _Layout:
    """P pairs sorted by the length (P,) of their texts, packed into T tokens; image_index (P,)."""

    def __init__(self, length: Tensor, image_index: Tensor, device: torch.device) -> None:
        self.length, self.start, self.image_index, self.device = length, _starts(length), image_index, device
        lengths, count = length.unique_consecutive(return_counts=True)
        self.runs = [  # texts of equal length: (number, length)
            (min(MOST_ROWS, rows - first), length)
            for rows, length in zip(count.tolist(), lengths.tolist(), strict=True)
            for first in range(0, rows, MOST_ROWS)
        ]
        self.tokens_by_image = self._by_image(self.start, length)

    def pairs_by_image(self) -> _Groups:
        """The same as tokens_by_image, with only [CLS] of each text."""
        return self._by_image(torch.arange(len(self.length)), torch.ones_like(self.length))

    def _by_image(self, start: Tensor, length: Tensor) -> _Groups:
        images = self.image_index.unique()
        sizes = torch.zeros(int(images[-1]) + 1, dtype=torch.long).index_add_(0, self.image_index, length)[images]
        if len(images) == 1:
            return _Groups(images.tolist(), sizes.tolist(), None, None)
        pairs = self.image_index.argsort(stable=True)
        order = _ranges(start[pairs], length[pairs])
        inverse = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
        return _Groups(images.tolist(), sizes.tolist(), _send(order, self.device), _send(inverse, self.device))


def _starts(length: Tensor) -> Tensor:
    """Start of each of several packed texts: lengths (n,) -> (n,)."""
    return length.cumsum(0) - length


def _ranges(start: Tensor, length: Tensor) -> Tensor:
    """Concatenate the ranges start[i], start[i] + 1, ... of length[i] numbers: (n,), (n,) -> (length.sum(),)."""
    return (start - _starts(length)).repeat_interleave(length) + torch.arange(int(length.sum()))


def _send(index: Tensor, device: torch.device) -> Tensor:
    """Send an index to the device without waiting for it, so that the device never runs out of work."""
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index
