"""Attention of BERT, of each text over itself and over its image.

R rows (texts or text-image pairs), L tokens of the longest, T tokens of all rows without padding, D width, I images, K
image tokens. Source: BERT (arXiv:1810.04805); over images as in ALBEF (arXiv:2107.07651, section 3.1).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import KeyMask, attend
from models.bert_sizes import BertSizes
from models.joined_weights import Join, JoinedModule, join
from models.packing import Packing


class SelfAttention(JoinedModule):
    """Projections and attention of one sublayer; `kv_size` is the width of what is attended to."""

    def __init__(self, sizes: BertSizes, kv_size: int) -> None:
        super().__init__()
        self.num_heads = sizes.num_attention_heads
        self.dropout_prob = sizes.attention_probs_dropout_prob
        self.query = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.key = nn.Linear(kv_size, sizes.hidden_size)
        self.value = nn.Linear(kv_size, sizes.hidden_size)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: KeyMask | None = None) -> Tensor:
        dropout_prob = self.dropout_prob if self.training else 0.0
        return attend(queries, keys, values, mask, dropout_prob=dropout_prob)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class TextAttention(SelfAttention):
    """Each text over itself."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__(sizes, sizes.hidden_size)

    def joins(self) -> dict[str, Join]:
        projections = (self.query, self.key, self.value)
        return {
            "weight": join(*(each.weight for each in projections)),  # (3 D, D)
            "bias": join(*(each.bias for each in projections)),
        }

    def over_text(self, hidden: Tensor, packing: Packing, wanted: Packing | None = None) -> Tensor:
        """(T, D) -> (T, D), or the wanted tokens alone."""
        weight, bias = self.joined("weight"), self.joined("bias")
        if wanted is None:  # one product for all three, and one padding
            queries, keys, values = packing.pad(F.linear(hidden, weight, bias)).chunk(3, dim=-1)
        else:
            width = hidden.shape[1]
            queries = wanted.pad(F.linear(packing.select(hidden, wanted), weight[:width], bias[:width]))
            keys, values = packing.pad(F.linear(hidden, weight[width:], bias[width:])).chunk(2, dim=-1)
        attended = self._attend(self._split(queries), self._split(keys), self._split(values), packing.key_mask)
        return (wanted or packing).pack(attended.transpose(1, 2).flatten(2))


class Images(NamedTuple):
    """What the rows of a cross-modal pass look at; image_index and own_images as of `TextEncoder.cross_modal`."""

    tokens: Tensor  # (I, K, image width)
    image_index: Tensor | None  # (S,)
    own_images: int | None


class KeysValues(NamedTuple):
    """Of one layer: of the images that texts go with one by one or in turn, and of those that the last rows chose."""

    own: tuple[Tensor, Tensor]  # (I, K, D) each
    chosen: tuple[Tensor, Tensor] | None  # (S, K, D) each


def split_keys_values(projected: Tensor, images: Images, width: int) -> list[KeysValues]:
    """Keys and values of several layers side by side (I, K, layers * 2 D) -> those of each layer."""
    is_part = images.own_images is not None and images.own_images < projected.shape[0]
    own = (projected[: images.own_images] if is_part else projected).split(width, dim=-1)
    index = images.image_index
    chosen = None if index is None else projected[index].split(width, dim=-1)
    return [
        KeysValues((own[at], own[at + 1]), None if chosen is None else (chosen[at], chosen[at + 1]))
        for at in range(0, len(own), 2)
    ]


class ImageAttention(SelfAttention):
    """Each text over its image."""

    def joins(self) -> dict[str, Join]:
        return {"query": join(self.query.weight), "query_bias": join(self.query.bias)}

    def keys_values(self, images: Images) -> KeysValues:
        """Of this layer alone."""
        weight, bias = (join(*parts).tensor() for parts in zip(*self.key_value_parts(), strict=True))
        return split_keys_values(F.linear(images.tokens, weight, bias), images, len(self.query.weight))[0]

    def key_value_parts(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Weight and bias of the keys, and of the values."""
        return (self.key.weight, self.key.bias), (self.value.weight, self.value.bias)

    def over_images(self, hidden: Tensor, packing: Packing, images: Images, keys_values: KeysValues | None) -> Tensor:
        """(T, D) -> (T, D). keys_values: where they were computed for all layers together."""
        own_keys_values, chosen_keys_values = keys_values or self.keys_values(images)
        queries = packing.pad(F.linear(hidden, self.joined("query"), self.joined("query_bias")))  # (R, L, D)
        num_chosen = 0 if images.image_index is None else len(images.image_index)
        # shape[0], as len() would fix the batch size of an exported graph
        own, chosen = queries.split([queries.shape[0] - num_chosen, num_chosen])
        attended = []  # (rows / in_turn, in_turn, L, D): so the rows of images in turn are joined without a copy before
        in_turn = images.own_images if images.own_images and num_chosen % images.own_images == 0 else 1
        if images.own_images is not None:  # all texts of an image as one long query: its keys and values are not copied
            grouped = own.unflatten(0, (-1, images.own_images)).transpose(0, 1)  # (images, texts, L, D)
            out = self._over(grouped.flatten(1, 2), *own_keys_values)
            attended.append(out.view(grouped.shape).transpose(0, 1).reshape(-1, in_turn, *own.shape[1:]))
        elif own.shape[0] > 0:
            attended.append(self._over(own, *own_keys_values)[:, None])
        if chosen_keys_values is not None:
            attended.append(self._over(chosen, *chosen_keys_values).unflatten(0, (-1, in_turn)))
        together = attended[0] if len(attended) == 1 else torch.cat(attended)
        return packing.pack(together.flatten(0, 1))

    def _over(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(rows, n, D) over (rows, K, D), twice -> (rows, n, D)."""
        attended = self._attend(self._split(queries), self._split(keys), self._split(values))
        return attended.transpose(1, 2).flatten(2)
