"""Layers of BERT with optional cross-attention.

R rows (texts or text-image pairs), L tokens of the longest, T tokens of all rows without padding, D width, I images.

Source: BERT (arXiv:1810.04805); cross-attention as in ALBEF (arXiv:2107.07651, section 3.1). Parameter names are those
of Hugging Face's BERT, with `crossattention` beside `attention` as in the published checkpoints.
"""

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import attend
from models.fused import Dropout, dropout_add_layer_norm
from models.joined_weights import Join, JoinedModule, join
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


class Hidden(NamedTuple):
    """Hidden states, twice: under autocast the products read half precision, and residual connections add float32."""

    factor: Tensor  # (T, D)
    stream: Tensor  # (T, D)


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


class SelfAttention(JoinedModule):
    """Projections and attention of one sublayer; `kv_size` is the width of what is attended to."""

    def __init__(self, sizes: BertSizes, kv_size: int) -> None:
        super().__init__()
        self.num_heads = sizes.num_attention_heads
        self.dropout_prob = sizes.attention_probs_dropout_prob
        self.query = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.key = nn.Linear(kv_size, sizes.hidden_size)
        self.value = nn.Linear(kv_size, sizes.hidden_size)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
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
        attended = self._attend(self._split(queries), self._split(keys), self._split(values), packing.may_be_attended)
        return (wanted or packing).pack(attended.transpose(1, 2).flatten(2))


class ImageAttention(SelfAttention):
    """Each text over its image."""

    def joins(self) -> dict[str, Join]:
        return {
            "query": join(self.query.weight),
            "query_bias": join(self.query.bias),
            "keys_values": join(self.key.weight, self.value.weight),  # (2 D, image width)
            "keys_values_bias": join(self.key.bias, self.value.bias),
        }

    def over_images(
        self, hidden: Tensor, context: Tensor, packing: Packing, image_index: Tensor | None, own_images: int | None
    ) -> Tensor:
        """(T, D) -> (T, D). Arguments as of `TextEncoder.cross_modal`."""
        projected = F.linear(context, self.joined("keys_values"), self.joined("keys_values_bias"))
        keys, values = (self._split(part) for part in projected.chunk(2, dim=-1))  # once per image, not per pair
        # (R, heads, L, D / heads)
        queries = self._split(packing.pad(F.linear(hidden, self.joined("query"), self.joined("query_bias"))))
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


class ResidualOutput(JoinedModule):
    """Projection, dropout, residual, post-LayerNorm."""

    call = 0  # the number of this dropout among those of an encoder, which sets it

    def __init__(self, sizes: BertSizes, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, sizes.hidden_size)
        self.LayerNorm = nn.LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)
        self.dropout = nn.Dropout(sizes.hidden_dropout_prob)

    def joins(self) -> dict[str, Join]:
        return {
            "weight": join(self.dense.weight),
            "bias": join(self.dense.bias),
            "norm_weight": join(self.LayerNorm.weight, is_factor=False),
            "norm_bias": join(self.LayerNorm.bias, is_factor=False),
        }

    def forward(self, hidden: Tensor, residual: Tensor, seed: Tensor | None = None) -> Hidden:
        """hidden (T, width of its input), residual (T, D).

        seed: of the dropout, on a GPU, where it is drawn inside the fused operator; None = it is drawn here.
        """
        branch = F.linear(hidden, self.joined("weight"), self.joined("bias"))
        norm, weight, bias = self.LayerNorm, self.joined("norm_weight"), self.joined("norm_bias")
        if seed is None:
            branch = self.dropout(branch)
        if not self.has_copies:
            out = F.layer_norm(branch + residual, norm.normalized_shape, weight, bias, norm.eps)
            return Hidden(out, out)
        dropout = None if seed is None else Dropout(self.dropout.p, seed, self.call)
        return Hidden(
            *dropout_add_layer_norm(branch, residual, weight, bias, norm.eps, dropout, stream_dtype=residual.dtype)
        )


Kind = TypeVar("Kind", bound=SelfAttention)


class Attention(nn.Module, Generic[Kind]):
    """Attention sublayer, over the text itself or over image tokens; its two parts are called one by one."""

    self: Kind
    output: ResidualOutput

    def __init__(self, attention: Kind, sizes: BertSizes) -> None:
        super().__init__()
        self.self = attention
        self.output = ResidualOutput(sizes, sizes.hidden_size)


class Intermediate(JoinedModule):
    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.hidden_size, sizes.intermediate_size)

    def joins(self) -> dict[str, Join]:
        return {"weight": join(self.dense.weight), "bias": join(self.dense.bias)}

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(F.linear(hidden, self.joined("weight"), self.joined("bias")))


class Layer(nn.Module):
    """Self-attention, cross-attention where image tokens are given, feed-forward."""

    def __init__(self, sizes: BertSizes, image_size: int | None) -> None:
        super().__init__()
        self.attention = Attention(TextAttention(sizes), sizes)
        if image_size is not None:
            self.crossattention = Attention(ImageAttention(sizes, image_size), sizes)
        self.intermediate = Intermediate(sizes)
        self.output = ResidualOutput(sizes, sizes.intermediate_size)

    def forward(
        self,
        hidden: Hidden,
        packing: Packing,
        image_tokens: Tensor | None = None,
        image_index: Tensor | None = None,
        own_images: int | None = None,
        wanted: Packing | None = None,
    ) -> Hidden:
        """hidden (T, D) -> (T, D), or the wanted tokens alone. Other arguments as of `TextEncoder.cross_modal`."""
        seed = packing.dropout_seed
        attended = self.attention.self.over_text(hidden.factor, packing, wanted)
        residual = hidden.stream
        if wanted is not None:
            residual, packing = packing.select(residual, wanted), wanted
        hidden = self.attention.output(attended, residual, seed=seed)
        if image_tokens is not None and hasattr(self, "crossattention"):
            factor = hidden.factor
            attended = self.crossattention.self.over_images(factor, image_tokens, packing, image_index, own_images)
            hidden = self.crossattention.output(attended, hidden.stream, seed=seed)
        return self.output(self.intermediate(hidden.factor), hidden.stream, seed=seed)


class HeadTransform(nn.Module):
    """(..., D) -> (..., D)"""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.LayerNorm = nn.LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.LayerNorm(F.gelu(self.dense(hidden)))


class MaskedLanguageHead(JoinedModule):
    """Hidden states (..., D) -> logits over the vocabulary (..., V); the last matrix is the word embedding."""

    def __init__(self, sizes: BertSizes, word_embedding: Tensor) -> None:
        super().__init__()
        self.transform = HeadTransform(sizes)
        self.bias = nn.Parameter(torch.zeros(sizes.vocab_size))
        self.decoder = nn.Linear(sizes.hidden_size, sizes.vocab_size, bias=False)
        assert isinstance(word_embedding, nn.Parameter)  # as torch types a module's weight
        self.decoder.weight = word_embedding

    def joins(self) -> dict[str, Join]:
        return {"weight": join(self.decoder.weight), "bias": join(self.bias)}

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(self.transform(hidden), self.joined("weight"), self.joined("bias"))
