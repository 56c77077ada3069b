"""Layers of BERT with optional cross-attention.

R rows (texts or text-image pairs), L tokens of the longest, T tokens of all rows without padding, D width, I images.

Source: BERT (arXiv:1810.04805); cross-attention as in ALBEF (arXiv:2107.07651, section 3.1). Parameter names are those
of Hugging Face's BERT, with `crossattention` beside `attention` as in the published checkpoints.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import attend
from models.packing import Packing
from utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class BertSizes:
    """Sizes of one BERT, named as in a Hugging Face config."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1


class Embeddings(nn.Module):
    """Word, position and segment embeddings: token ids (R, L) -> (T, D). There is only one segment, 0."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(sizes.vocab_size, sizes.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(sizes.max_position_embeddings, sizes.hidden_size)
        self.token_type_embeddings = nn.Embedding(sizes.type_vocab_size, sizes.hidden_size)
        self.LayerNorm = nn.LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)
        self.dropout = nn.Dropout(sizes.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, packing: Packing) -> Tensor:
        length = input_ids.shape[1]
        if length > self.position_embeddings.num_embeddings:
            raise UserError(
                f"{length} tokens, but the text encoder has {self.position_embeddings.num_embeddings} positions: "
                "lower dataset.max_words or raise model.text_encoder.max_position_embeddings"
            )
        position = self.position_embeddings(packing.column) + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(self.word_embeddings(packing.pack(input_ids)) + position))


class SelfAttention(nn.Module):
    """Projections and attention of one sublayer; `kv_size` is the width of what is attended to."""

    def __init__(self, sizes: BertSizes, kv_size: int) -> None:
        super().__init__()
        self.num_heads = sizes.num_attention_heads
        self.dropout_prob = sizes.attention_probs_dropout_prob
        self.query = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.key = nn.Linear(kv_size, sizes.hidden_size)
        self.value = nn.Linear(kv_size, sizes.hidden_size)

    def over_text(self, hidden: Tensor, packing: Packing, wanted: Packing | None = None) -> Tensor:
        """Each text over itself: (T, D) -> (T, D), or the wanted tokens alone."""
        if wanted is None:  # one product for all three, and one padding
            weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])
            bias = torch.cat([self.query.bias, self.key.bias, self.value.bias])
            queries, keys, values = packing.pad(F.linear(hidden, weight, bias)).chunk(3, dim=-1)
        else:
            queries = wanted.pad(self.query(packing.select(hidden, wanted)))
            weight, bias = torch.cat([self.key.weight, self.value.weight]), torch.cat([self.key.bias, self.value.bias])
            keys, values = packing.pad(F.linear(hidden, weight, bias)).chunk(2, dim=-1)
        attended = self._attend(self._split(queries), self._split(keys), self._split(values), packing.may_be_attended)
        return (wanted or packing).pack(attended.transpose(1, 2).flatten(2))

    def over_images(
        self, hidden: Tensor, context: Tensor, packing: Packing, image_index: Tensor | None, own_images: int | None
    ) -> Tensor:
        """Each text over its image: (T, D) -> (T, D). Arguments as of `TextEncoder.cross_modal`."""
        keys, values = self._split(self.key(context)), self._split(self.value(context))  # once per image, not per pair
        queries = self._split(packing.pad(self.query(hidden)))  # (R, heads, L, D / heads)
        own = queries if image_index is None else queries[: len(queries) - len(image_index)]
        attended = []
        if own_images is not None:  # all texts of an image as one long query: no copy of its keys and values for each
            grouped = own.unflatten(0, (-1, own_images)).permute(1, 2, 0, 3, 4)  # (images, heads, texts, L, D / heads)
            out = self._attend(grouped.flatten(2, 3), keys[:own_images], values[:own_images], None)
            attended.append(out.unflatten(2, grouped.shape[2:4]).permute(2, 0, 1, 3, 4).flatten(0, 1))
        elif image_index is None or len(image_index) < len(queries):
            attended.append(self._attend(own, keys, values, None))
        if image_index is not None:
            others = queries[len(own) :]
            attended.append(self._attend(others, keys[image_index], values[image_index], None))
        together = attended[0] if len(attended) == 1 else torch.cat(attended)
        return packing.pack(together.transpose(1, 2).flatten(2))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        dropout_prob = self.dropout_prob if self.training else 0.0
        return attend(queries, keys, values, mask, dropout_prob=dropout_prob)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class ResidualOutput(nn.Module):
    """Projection, dropout, residual, post-LayerNorm."""

    def __init__(self, sizes: BertSizes, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, sizes.hidden_size)
        self.LayerNorm = nn.LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)
        self.dropout = nn.Dropout(sizes.hidden_dropout_prob)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden)) + residual)


class Attention(nn.Module):
    """Attention sublayer: over the text itself, or over image tokens; its two parts are called one by one."""

    def __init__(self, sizes: BertSizes, kv_size: int) -> None:
        super().__init__()
        self.self = SelfAttention(sizes, kv_size)
        self.output = ResidualOutput(sizes, sizes.hidden_size)


class Intermediate(nn.Module):
    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.hidden_size, sizes.intermediate_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.dense(hidden))


class Layer(nn.Module):
    """Self-attention, cross-attention where image tokens are given, feed-forward."""

    def __init__(self, sizes: BertSizes, image_size: int | None) -> None:
        super().__init__()
        self.attention = Attention(sizes, sizes.hidden_size)
        if image_size is not None:
            self.crossattention = Attention(sizes, image_size)
        self.intermediate = Intermediate(sizes)
        self.output = ResidualOutput(sizes, sizes.intermediate_size)

    def forward(
        self,
        hidden: Tensor,
        packing: Packing,
        image_tokens: Tensor | None = None,
        image_index: Tensor | None = None,
        own_images: int | None = None,
        wanted: Packing | None = None,
    ) -> Tensor:
        """hidden (T, D) -> (T, D), or the wanted tokens alone. Other arguments as of `TextEncoder.cross_modal`."""
        attended = self.attention.self.over_text(hidden, packing, wanted)
        if wanted is not None:
            hidden, packing = packing.select(hidden, wanted), wanted
        hidden = self.attention.output(attended, hidden)
        if image_tokens is not None and hasattr(self, "crossattention"):
            attended = self.crossattention.self.over_images(hidden, image_tokens, packing, image_index, own_images)
            hidden = self.crossattention.output(attended, hidden)
        return self.output(self.intermediate(hidden), hidden)


class HeadTransform(nn.Module):
    """(..., D) -> (..., D)"""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.LayerNorm = nn.LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.LayerNorm(F.gelu(self.dense(hidden)))


class MaskedLanguageHead(nn.Module):
    """Hidden states (..., D) -> logits over the vocabulary (..., V); the last matrix is the word embedding."""

    def __init__(self, sizes: BertSizes, word_embedding: Tensor) -> None:
        super().__init__()
        self.transform = HeadTransform(sizes)
        self.bias = nn.Parameter(torch.zeros(sizes.vocab_size))
        self.decoder = nn.Linear(sizes.hidden_size, sizes.vocab_size, bias=False)
        assert isinstance(word_embedding, nn.Parameter)  # as torch types a module's weight
        self.decoder.weight = word_embedding

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(self.transform(hidden), self.decoder.weight, self.bias)
