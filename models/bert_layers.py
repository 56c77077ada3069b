"""Layers of BERT with optional cross-attention.

R rows (texts or text-image pairs), L tokens of the longest, T tokens of all rows without padding, D width, I images.

Source: BERT (arXiv:1810.04805); cross-attention as in ALBEF (arXiv:2107.07651, section 3.1). Parameter names are those
of Hugging Face's BERT, with `crossattention` beside `attention` as in the published checkpoints.
"""

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.bert_attention import ImageAttention, Images, KeysValues, SelfAttention, TextAttention
from models.bert_sizes import BertSizes
from models.fused import Dropout, dropout_add_layer_norm
from models.joined_weights import Join, JoinedLinear, JoinedModule, join
from models.packing import Packing
from utils.errors import UserError


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
            "bias": join(self.dense.bias, is_factor=False),  # added in float32 by the fused operator
            "norm_weight": join(self.LayerNorm.weight, is_factor=False),
            "norm_bias": join(self.LayerNorm.bias, is_factor=False),
        }

    def forward(self, hidden: Tensor, residual: Tensor, seed: Tensor | None = None) -> Hidden:
        """hidden (T, width of its input), residual (T, D).

        seed: of the dropout, on a GPU, where it is drawn inside the fused operator; None = it is drawn here.
        """
        bias, norm = self.joined("bias"), self.LayerNorm
        of_norm = self.joined("norm_weight"), self.joined("norm_bias"), norm.eps
        drawn_here = seed is None and self.training and self.dropout.p > 0
        adds_bias = self.has_copies and not drawn_here  # the fused operator does
        branch = F.linear(hidden, self.joined("weight"), None if adds_bias else bias)
        if seed is None:
            branch = self.dropout(branch)
        if not self.has_copies:
            out = F.layer_norm(branch + residual, norm.normalized_shape, *of_norm)
            return Hidden(out, out)
        dropout = None if seed is None else Dropout(self.dropout.p, seed, self.call)
        x_bias = bias if adds_bias else None
        return Hidden(
            *dropout_add_layer_norm(branch, residual, *of_norm, dropout, stream_dtype=residual.dtype, x_bias=x_bias)
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


class Intermediate(nn.Module):
    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.dense = JoinedLinear(sizes.hidden_size, sizes.intermediate_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.dense(hidden))


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
        images: Images | None = None,
        keys_values: KeysValues | None = None,
        wanted: Packing | None = None,
    ) -> Hidden:
        """hidden (T, D) -> (T, D), or the wanted tokens alone. keys_values: as of `ImageAttention.over_images`."""
        seed = packing.dropout_seed
        attended = self.attention.self.over_text(hidden.factor, packing, wanted)
        residual = hidden.stream
        if wanted is not None:
            residual, packing = packing.select(residual, wanted), wanted
        hidden = self.attention.output(attended, residual, seed=seed)
        if images is not None and hasattr(self, "crossattention"):
            attended = self.crossattention.self.over_images(hidden.factor, packing, images, keys_values)
            hidden = self.crossattention.output(attended, hidden.stream, seed=seed)
        return self.output(self.intermediate(hidden.factor), hidden.stream, seed=seed)


class HeadTransform(nn.Module):
    """(..., D) -> (..., D)"""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.dense = JoinedLinear(sizes.hidden_size, sizes.hidden_size)
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
