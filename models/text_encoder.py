"""BERT as text encoder and as cross-modal encoder. R rows, L tokens, D width, I images, K image tokens, V vocabulary.

One network, two ways through it: text mode runs the layers below `fusion_layer` on the text alone; cross-modal mode
runs all of them, attending to image tokens in every layer that has cross-attention. Source: ALBEF (arXiv:2107.07651,
section 3.1) with `full_cross_attention` off, MARS (arXiv:2407.04287, section 3.2) with it on.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataset.texts import Places
from models.bert_attention import ImageAttention, Images, KeysValues, split_keys_values
from models.bert_layers import BertSizes, Embeddings, Hidden, Layer, MaskedLanguageHead, ResidualOutput
from models.joined_weights import Join, JoinedModule, join
from models.packing import Packing
from utils.errors import UserError
from utils.precision import product_dtype

INIT_STD = 0.02


class TextFeatures(NamedTuple):
    pooled: Tensor  # (R, D), the [CLS] token
    tokens: Tensor  # (R, L, D), [CLS] included; 0 in the padding and where not wanted


class BertEncoder(nn.Module):
    """The stack of layers, named as published checkpoints name it."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)


class Bert(nn.Module):
    def __init__(self, sizes: BertSizes, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.embeddings = Embeddings(sizes)
        self.encoder = BertEncoder(layers)


class PretrainingHeads(nn.Module):
    def __init__(self, sizes: BertSizes, word_embedding: Tensor) -> None:
        super().__init__()
        self.predictions = MaskedLanguageHead(sizes, word_embedding)


class TextEncoder(JoinedModule):
    """Text and cross-modal encoder with the masked-language head.

    Args:
        image_width: width of the image tokens that cross-attention sees.
        fusion_layer: layers below it make up text mode; 1 <= fusion_layer <= sizes.num_hidden_layers.
        full_cross_attention: True gives every layer cross-attention, False only those from fusion_layer on.
    """

    def __init__(
        self, sizes: BertSizes, *, image_width: int, fusion_layer: int, full_cross_attention: bool = True
    ) -> None:
        super().__init__()
        if not 1 <= fusion_layer <= sizes.num_hidden_layers:
            raise UserError(f"fusion_layer {fusion_layer} is not within 1..{sizes.num_hidden_layers} (layers of BERT)")
        self.sizes, self.fusion_layer = sizes, fusion_layer
        self.width = sizes.hidden_size
        self.first_cross = 0 if full_cross_attention else fusion_layer  # layers below it never see an image
        layers = (Layer(sizes, image_width if n >= self.first_cross else None) for n in range(sizes.num_hidden_layers))
        self.bert = Bert(sizes, layers)
        self.cls = PretrainingHeads(sizes, self.bert.embeddings.word_embeddings.weight)
        self.apply(_init_weights)
        for number, output in enumerate(module for module in self.modules() if isinstance(module, ResidualOutput)):
            output.call = number

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, *, at_most: int | None = None, wanted: Places | None = None
    ) -> TextFeatures:
        """Text mode: input_ids and attention_mask (R, L), 1 = token. Both options: as in cross_modal."""
        packing = self._packing(attention_mask, at_most)
        tokens = self._run(self.bert.encoder.layer[: self.fusion_layer], input_ids, packing, wanted)
        return TextFeatures(tokens[:, 0], tokens)

    def cross_modal(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_tokens: Tensor,
        image_index: Tensor | None = None,
        *,
        own_images: int | None = None,
        at_most: int | None = None,
        wanted: Places | None = None,
    ) -> Tensor:
        """Cross-modal mode: (R, L, D), 0 in the padding.

        Args:
            input_ids, attention_mask: (R, L).
            image_tokens: (I, K, image_width), as of `models.image_features.ImageFeatures.tokens`.
            image_index: (S,) the images of the last S rows. The rows before them go with the images one by one, or
            own_images: with so many first images, over and over: row r with image r % own_images.
            at_most: number of tokens, or more, as in `dataset.texts.Places`.
            wanted: places whose hidden states are needed ([CLS], say); the others are 0. The last layer skips them.
        """
        packing = self._packing(attention_mask, at_most)
        image_tokens = image_tokens.to(product_dtype(image_tokens))  # once, not in each layer
        images = Images(image_tokens, image_index, own_images)
        return self._run(self.bert.encoder.layer, input_ids, packing, wanted, images)

    def _packing(self, attention_mask: Tensor, at_most: int | None) -> Packing:
        """With a new seed for the dropout of a pass, where fused operators draw it."""
        packing = Packing(attention_mask, at_most)
        if (
            self.training
            and self.sizes.hidden_dropout_prob > 0
            and attention_mask.is_cuda
            and self.cls.predictions.has_copies
        ):
            packing.dropout_seed = torch.randint(2**62, (1,), device=attention_mask.device)
        return packing

    def joins(self) -> dict[str, Join]:
        if self.first_cross == self.sizes.num_hidden_layers:
            return {}
        weights, biases = zip(
            *(pair for each in self._image_attentions() for pair in each.key_value_parts()), strict=True
        )
        return {"keys_values": join(*weights), "keys_values_bias": join(*biases)}  # of all layers

    def _image_attentions(self) -> list[ImageAttention]:
        layers: Any = self.bert.encoder.layer
        return [layer.crossattention.self for layer in layers[self.first_cross :]]

    def _keys_values(self, images: Images | None) -> list[KeysValues | None]:
        """For each layer; None where the layer has none, or computes them itself.

        Where launches count, one product gives those of all layers, and their gradients come back in one.
        """
        nothing: list[KeysValues | None] = [None] * self.sizes.num_hidden_layers
        if images is None or not self.has_copies or self.first_cross == self.sizes.num_hidden_layers:
            return nothing
        projected = F.linear(images.tokens, self.joined("keys_values"), self.joined("keys_values_bias"))
        return [*nothing[: self.first_cross], *split_keys_values(projected, images, self.width)]

    def _run(
        self,
        layers: nn.ModuleList,
        input_ids: Tensor,
        packing: Packing,
        wanted: Places | None,
        images: Images | None = None,
    ) -> Tensor:
        """Embeddings and layers on packed tokens: (R, L) -> (R, L, D)."""
        embedded = self.bert.embeddings(input_ids, packing)
        hidden = Hidden(embedded, embedded)
        keys_values = self._keys_values(images)
        last = None if wanted is None else Packing(wanted.mask, wanted.at_most)
        for layer, of_layer in zip(layers[:-1], keys_values[: len(layers) - 1], strict=True):
            hidden = layer(hidden, packing, images, of_layer)
        hidden = layers[-1](hidden, packing, images, keys_values[len(layers) - 1], last)
        return (last or packing).pad(hidden.stream)

    def before_images(self, input_ids: Tensor, attention_mask: Tensor, num_tokens: int) -> Tensor:
        """The part of cross-modal mode that no image can change, up to the first cross-attention.

        Takes (R, L) each and the number T of tokens; returns (T, D), the rows' tokens one after another, no padding.
        """
        packing = Packing(attention_mask, num_tokens)
        embedded = self.bert.embeddings(input_ids, packing)
        hidden = Hidden(embedded, embedded)
        layers: Any = self.bert.encoder.layer
        for layer in layers[: self.first_cross]:
            hidden = layer(hidden, packing)
        for layer in layers[self.first_cross : self.first_cross + 1]:  # none where no layer has cross-attention
            hidden = layer.attention.output(layer.attention.self.over_text(hidden.factor, packing), hidden.stream)
        return hidden.stream

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) of the cross-modal encoder -> logits (..., V)."""
        return self.cls.predictions(hidden)


def _init_weights(module: nn.Module) -> None:
    """As BERT: normal with standard deviation 0.02, biases 0, the padding row 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
