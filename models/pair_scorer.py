"""Matching scores of many text-image pairs at test time: those of `PersonSearchModel.match`, nothing computed twice.

P pairs, L tokens of a text, T tokens of several texts one after another, D text width, I images, K image tokens.

- Each text is encoded once up to the first layer that sees an image (`TextEncoder.before_images`). The keys and values
  of cross-attention are computed once per image and layer.
- What treats tokens one by one sees T tokens, without padding. How attention sees them is said by a layout
  (models/pair_layouts.py).
- The matching head reads only [CLS], so in the last layer the other tokens serve as keys and values alone.

For inference only: there is no dropout.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from models.attention import KeyMask
from models.pair_layouts import PairLayout, TextStates, send, starts
from models.text_encoder import TextEncoder
from utils.memory import cut
from utils.precision import product_dtype

TOKENS_ENCODED_AT_A_TIME = 8192


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
        """Encode texts (L,) of different lengths, without padding, up to the first layer that sees an image.

        Returns: states whose numbers are on the CPU.
        """
        length = torch.tensor([len(ids) for ids in input_ids])
        by_length = length.argsort(stable=True)  # neighbours have nearly equal lengths, so there is hardly any padding
        tokens = []
        for rows in cut(length[by_length], TOKENS_ENCODED_AT_A_TIME):
            ids = pad_sequence([input_ids[row] for row in by_length[rows].tolist()], batch_first=True)
            mask = (torch.arange(ids.shape[1]) < length[by_length[rows], None]).long()
            num_tokens = int(length[by_length[rows]].sum())
            packed = self.text_encoder.before_images(send(ids, self.device), send(mask, self.device), num_tokens)
            tokens.append(packed.to(self.dtype))
        start = torch.empty_like(length)
        start[by_length] = starts(length[by_length])
        return TextStates(torch.cat(tokens), start, length)

    def keys_values(self, image_tokens: Tensor) -> Iterator[Tensor]:
        """image_tokens (I, K, image width), class token first -> (I, K, 2 D), one layer after another."""
        return (joined(image_tokens) for joined in self.over_images)

    def scores(self, texts: TextStates, keys_values: list[Tensor], pairs: PairLayout) -> Tensor:
        """Return the logit of "same person" for P pairs: (P,), in the order in which the layout was given them.

        Args: keys_values: of I images, by layer, from `keys_values`.
        """
        hidden = texts.tokens[pairs.places]  # (T, D)
        for number, layer in enumerate(self.layers):
            is_last = number == len(self.layers) - 1
            if number > 0:  # the texts' states include the first layer's self-attention
                hidden = self._attend_to_text(number, hidden, pairs, class_only=is_last)
            elif is_last:
                hidden = hidden[pairs.class_token]
            hidden = self._attend_to_images(number, hidden, keys_values[number], pairs, class_only=is_last)
            hidden = layer.output(layer.intermediate(hidden), hidden).stream
        scores = self.head(hidden if self.layers else hidden[pairs.class_token])[:, 1]
        return pairs.in_given_order(scores)

    def _attend_to_text(self, number: int, hidden: Tensor, pairs: PairLayout, *, class_only: bool) -> Tensor:
        """Self-attention sublayer: (T, D) -> (T, D), or (P, D) if only [CLS] of each pair is needed."""
        joined = self.over_text[number]
        if class_only:
            width = hidden.shape[1]
            keys_values = joined(hidden, slice(width, None))
            hidden = hidden[pairs.class_token]
            attended = pairs.class_over_text(joined(hidden, slice(width)), keys_values, self._attend)
        else:
            attended = pairs.over_text(joined(hidden), self._attend)
        return self.layers[number].attention.output(attended, hidden).stream

    def _attend_to_images(
        self, number: int, hidden: Tensor, keys_values: Tensor, pairs: PairLayout, *, class_only: bool
    ) -> Tensor:
        """Cross-attention sublayer: (n, D) -> (n, D), with keys_values (I, K, 2 D)."""
        sublayer = self.layers[number].crossattention
        over_images = pairs.class_over_images if class_only else pairs.over_images
        return sublayer.output(over_images(sublayer.self.query(hidden), keys_values, self._attend), hidden).stream

    def _attend(self, queries: Tensor, keys_values: Tensor, mask: KeyMask | None) -> Tensor:
        """queries (rows, n, D), keys_values (rows, m, 2 D) -> (rows, n, D)."""
        inputs = (queries, *keys_values.chunk(2, dim=-1))
        query, key, value = (x.unflatten(-1, (self.sizes.num_attention_heads, -1)).transpose(1, 2) for x in inputs)
        added = None if mask is None else mask.added(queries.dtype)
        return F.scaled_dot_product_attention(query, key, value, added).transpose(1, 2).flatten(2)


class _Joined:
    """Several projections of one input as one product. `part` selects a slice of their joined outputs."""

    def __init__(self, attention: Any, names: str, dtype: torch.dtype) -> None:
        parts = [getattr(attention, name) for name in names.split()]
        self.weight = torch.cat([part.weight for part in parts]).to(dtype)
        self.bias = torch.cat([part.bias for part in parts]).to(dtype)

    def __call__(self, x: Tensor, part: slice = slice(None)) -> Tensor:
        return F.linear(x, self.weight[part], self.bias[part])
