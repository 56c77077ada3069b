"""The whole retrieval model. B batch, E shared embedding, N patches, L tokens, C chunks, V vocabulary, P patch size.

Source: ALBEF (arXiv:2107.07651) for the two encoders and the matching head, RaSa (arXiv:2305.13653) for PRD and MRTD,
MARS (arXiv:2407.04287) for the attribute chunks and the caption-aware decoder.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.image_features import ImageEncoder, ImageFeatures
from models.mae_decoder import MAEDecoder
from models.packing import Places, is_class_token
from models.pair_scorer import PairScorer
from models.sampling import Negatives, draw_negatives
from models.text_encoder import TextEncoder, TextFeatures

TEMPERATURE_RANGE = (0.001, 0.5)


class TokenCounts(NamedTuple):
    """Of a batch's captions, known without asking a GPU; weak = weak positives, own = own captions."""

    weak: int  # tokens of all B
    weak_first: int  # of the first n
    weak_longest: int  # of the longest of all B
    chunks_first: int  # tokens in attribute chunks, of the first n
    chunks_most: int  # in one caption at most, of all B
    own: int  # tokens of the n own captions


class TrainInputs(NamedTuple):
    """One batch as the online model sees it, draws included. itc sees all B pairs, the other tasks the first n."""

    image: Tensor  # (B, 3, H, W), normalised
    kept_patches: Tensor | None  # (n, K), for mae
    person_id: Tensor  # (B,)
    input_ids: Tensor  # (B, L) the weak-positive caption
    attention_mask: Tensor  # (B, L)
    attribute_ids: Tensor  # (B, L), 0 = none, k = k-th chunk
    momentum_image: Tensor  # (B, E) embeddings of the momentum encoders, which negatives are drawn by
    momentum_text: Tensor  # (B, E)
    own_attention_mask: Tensor  # (n, L) of the own caption, for mlm and mrtd
    mlm_ids: Tensor | None  # (n, L) masked own caption
    mlm_places: Tensor | None  # (M, 2) row and column of the masked places
    mrtd_ids: Tensor | None  # (n, L) own caption rewritten by the momentum encoder
    counts: TokenCounts | None  # None = they are counted where they are needed


class TrainOutput(NamedTuple):
    """What the losses need; None where a task is off."""

    image_embedding: Tensor  # (B, E)
    text_embedding: Tensor  # (B, E)
    match_logits: Tensor | None  # (3n, 2): positives, images with a negative text, texts with a negative image
    negatives: Negatives  # of the first n pairs
    chunk_logits: Tensor | None  # (3n, C, 2), the matching head on each attribute chunk
    chunk_present: Tensor | None  # (3n, C) bool
    replaced_logits: Tensor | None  # (n, 2)
    mlm_logits: Tensor | None  # (M, V)
    mrtd_logits: Tensor | None  # (n, L, 2)
    reconstruction: Tensor | None  # (n, N, P*P*3)


class PersonSearchModel(nn.Module):
    """Image encoder, text and cross-modal encoder, projections, heads and (for mae) the decoder.

    Args:
        pixel_mean, pixel_std: of the image encoder's normalisation, for RGB in [0, 1].
        tasks: loss keys that are trained; parts that only other tasks need are left out.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        decoder: MAEDecoder | None,
        *,
        embed_dim: int,
        temperature: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        tasks: frozenset[str],
    ) -> None:
        super().__init__()
        self.tasks = tasks
        for name, value in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.vision_proj = nn.Linear(image_encoder.width, embed_dim)
        self.text_proj = nn.Linear(text_encoder.width, embed_dim)
        self.itm_head = nn.Linear(text_encoder.width, 2)
        self.prd_head = nn.Linear(text_encoder.width, 2) if "prd" in tasks else None
        self.mrtd_head = nn.Linear(text_encoder.width, 2) if "mrtd" in tasks else None
        self.decoder = decoder if "mae" in tasks else None
        self.temperature = nn.Parameter(torch.tensor(temperature))

    def normalize(self, image: Tensor) -> Tensor:
        """uint8 RGB images (B, 3, H, W) -> float, as the image encoder wants them."""
        return (image.float() / 255 - self.pixel_mean) / self.pixel_std

    def encode_image(self, image: Tensor) -> tuple[ImageFeatures, Tensor]:
        """Normalised images (B, 3, H, W) -> features and embedding (B, E), L2-normalised."""
        features = self.image_encoder(image)
        return features, F.normalize(self.vision_proj(features.pooled), dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[TextFeatures, Tensor]:
        """Tokens (B, L) -> text-mode features and embedding (B, E), L2-normalised."""
        features = self.text_encoder(input_ids, attention_mask)
        return features, F.normalize(self.text_proj(features.pooled), dim=-1)

    def match(
        self, input_ids: Tensor, attention_mask: Tensor, image_tokens: Tensor, image_index: Tensor | None = None
    ) -> Tensor:
        """Matching score of R text-image pairs: (R,), the matching head's logit of "same person".

        Arguments as of `TextEncoder.cross_modal`.
        """
        hidden = self.text_encoder.cross_modal(input_ids, attention_mask, image_tokens, image_index)
        return self.itm_head(hidden[:, 0])[:, 1]

    def pair_scorer(self) -> PairScorer:
        """For the scores of `match` where there are many pairs of few texts and images."""
        return PairScorer(self.text_encoder, self.itm_head)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the learned temperature within its range; call after each optimiser step."""
        self.temperature.clamp_(*TEMPERATURE_RANGE)

    def forward(self, inputs: TrainInputs) -> TrainOutput:
        """One training pass: every output that a task in `tasks` needs."""
        image_features, image_embedding = self.encode_image(inputs.image)
        text_features = self._text_mode(inputs)
        text_embedding = F.normalize(self.text_proj(text_features.pooled), dim=-1)
        num_pairs = len(inputs.own_attention_mask)
        drawn = self._draw_negatives(inputs, image_embedding, text_embedding)
        negatives = Negatives(*(field[:num_pairs] for field in drawn))
        pair_hidden, mlm_hidden, mrtd_hidden = self._cross_modal_passes(inputs, image_features.tokens, negatives)
        chunk_logits, chunk_present = self._chunk_outputs(pair_hidden, inputs.attribute_ids, negatives)
        class_hidden = pair_hidden[:, 0] if pair_hidden is not None else None
        return TrainOutput(
            image_embedding=image_embedding,
            text_embedding=text_embedding,
            match_logits=self.itm_head(class_hidden) if class_hidden is not None and "itm" in self.tasks else None,
            negatives=negatives,
            chunk_logits=chunk_logits,
            chunk_present=chunk_present,
            replaced_logits=None
            if self.prd_head is None or class_hidden is None
            else self.prd_head(class_hidden[:num_pairs]),
            mlm_logits=None
            if mlm_hidden is None or inputs.mlm_places is None
            else self.text_encoder.mlm_logits(mlm_hidden[tuple(inputs.mlm_places.T)]),
            mrtd_logits=None if self.mrtd_head is None else self.mrtd_head(mrtd_hidden),
            reconstruction=self._reconstruct(inputs, text_features),
        )

    def _text_mode(self, inputs: TrainInputs) -> TextFeatures:
        """Of the weak positives; all tokens of those that the decoder reads, [CLS] of the others."""
        num_pairs, counts = len(inputs.own_attention_mask), inputs.counts
        wanted = is_class_token(inputs.attention_mask)
        if self.decoder is not None:
            wanted[:num_pairs] = inputs.attention_mask[:num_pairs]
        others = len(wanted) - num_pairs
        return self.text_encoder(
            inputs.input_ids,
            inputs.attention_mask,
            at_most=counts and counts.weak,
            wanted=Places(wanted, counts and counts.weak_first + others),
        )

    @torch.no_grad()
    def _draw_negatives(self, inputs: TrainInputs, image_embedding: Tensor, text_embedding: Tensor) -> Negatives:
        # Without autocast: products in bf16, divided by a temperature near 0.05, would be off by several hundredths.
        with torch.autocast(image_embedding.device.type, enabled=False):
            logits_i2t = image_embedding.float() @ inputs.momentum_text.float().T / self.temperature
            logits_t2i = text_embedding.float() @ inputs.momentum_image.float().T / self.temperature
        return draw_negatives(logits_i2t, logits_t2i, inputs.person_id)

    def _cross_modal_passes(
        self, inputs: TrainInputs, image_tokens: Tensor, negatives: Negatives
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Hidden states of the 3n pairs, of the masked and of the rewritten captions, from one batched pass.

        Rows go with their own images, but for the last ones: the texts with a wrong image.
        """
        n, counts = len(inputs.own_attention_mask), inputs.counts
        wrong_image: Tensor | None = negatives.image_index
        if 2 * n < len(image_tokens):  # of the images, only these are looked at: no keys and values for others
            image_tokens = torch.cat([image_tokens[:n], image_tokens[wrong_image]])
            wrong_image = n + torch.arange(n, device=image_tokens.device)
        rows = []
        if inputs.mlm_ids is not None and inputs.mlm_places is not None:
            rows.append(_masked_rows(inputs.mlm_ids, inputs.own_attention_mask, inputs.mlm_places, counts))
        if inputs.mrtd_ids is not None:
            own = inputs.own_attention_mask
            rows.append(_Rows(inputs.mrtd_ids, own, own, counts and counts.own, counts and counts.own))
        num_own = len(rows)
        if self.tasks & {"itm", "prd", "attribute"}:
            rows.append(self._pair_rows(inputs, negatives))
        else:
            wrong_image = None
        if not rows:
            return None, None, None
        ids, mask, wanted = (_stack([getattr(part, name) for part in rows]) for name in ("ids", "mask", "wanted"))
        hidden = self.text_encoder.cross_modal(
            ids,
            mask,
            image_tokens,
            wrong_image,
            own_images=n,
            at_most=counts and sum(part.tokens for part in rows),
            wanted=Places(wanted, counts and sum(part.num_wanted for part in rows)),
        )
        parts = list(hidden.split([len(part.ids) for part in rows]))
        pairs = parts.pop() if len(parts) > num_own else None
        own_length = inputs.own_attention_mask.shape[1]
        mlm, mrtd = (
            parts.pop(0)[:, :own_length] if rewritten is not None else None
            for rewritten in (inputs.mlm_ids, inputs.mrtd_ids)
        )
        return pairs, mlm, mrtd

    def _pair_rows(self, inputs: TrainInputs, negatives: Negatives) -> "_Rows":
        """Positives, then images with a wrong text, then texts with a wrong image; [CLS] and chunks are wanted."""
        n, counts = len(inputs.own_attention_mask), inputs.counts
        ids, mask = inputs.input_ids, inputs.attention_mask
        wanted = is_class_token(mask)
        if "attribute" in self.tasks:
            wanted |= inputs.attribute_ids > 0
        texts = _texts_of_pairs(negatives)
        tokens = num_wanted = None
        if counts is not None:  # which texts are the wrong ones, only the device knows
            tokens = 2 * counts.weak_first + n * counts.weak_longest
            num_wanted = 3 * n + 2 * counts.chunks_first + n * counts.chunks_most
        return _Rows(ids[texts], mask[texts], wanted[texts], tokens, num_wanted)

    def _chunk_outputs(
        self, pair_hidden: Tensor | None, attribute_ids: Tensor, negatives: Negatives
    ) -> tuple[Tensor | None, Tensor | None]:
        """The matching head on the mean over each chunk's tokens: logits (3n, C, 2), present (3n, C)."""
        if "attribute" not in self.tasks or pair_hidden is None:
            return None, None
        ids = attribute_ids[_texts_of_pairs(negatives)]  # (3n, L)
        max_chunks = max(1, ids.shape[1] // 2)  # a chunk has an adjective and a noun at least; a bound without a sync
        chunk = torch.arange(1, max_chunks + 1, device=ids.device)
        member = (ids[:, None] == chunk[:, None]).to(pair_hidden.dtype)  # (3n, C, L)
        count = member.sum(dim=-1, keepdim=True)
        mean = member @ pair_hidden[:, : ids.shape[1]] / count.clamp(min=1)
        return self.itm_head(mean), count[..., 0] > 0

    def _reconstruct(self, inputs: TrainInputs, text_features: TextFeatures) -> Tensor | None:
        if self.decoder is None or inputs.kept_patches is None:
            return None
        num_pairs = len(inputs.kept_patches)
        kept_features = self.image_encoder.encode_masked(inputs.image[:num_pairs], inputs.kept_patches)
        text_tokens, text_mask = text_features.tokens[:num_pairs], inputs.attention_mask[:num_pairs]
        return self.decoder(kept_features, inputs.kept_patches, text_tokens, text_mask)


class _Rows(NamedTuple):
    """Some rows of a cross-modal pass."""

    ids: Tensor  # (rows, L)
    mask: Tensor  # (rows, L)
    wanted: Tensor  # (rows, L), places whose hidden states are needed
    tokens: Any  # at most so many; None = not known
    num_wanted: Any  # likewise


def _masked_rows(ids: Tensor, mask: Tensor, places: Tensor, counts: TokenCounts | None) -> _Rows:
    """places (M, 2): the only ones that are wanted."""
    wanted = torch.zeros_like(mask).index_put(tuple(places.T), torch.ones((), dtype=mask.dtype, device=mask.device))
    return _Rows(ids, mask, wanted, counts and counts.own, len(places))


def _texts_of_pairs(negatives: Negatives) -> Tensor:
    """Row of the text in each of the 3n pairs."""
    own = torch.arange(len(negatives.text_index), device=negatives.text_index.device)
    return torch.cat([own, negatives.text_index, own])


def _stack(tokens: list[Tensor]) -> Tensor:
    """Concatenate (rows_i, L_i) along the rows, padded with 0 to the longest."""
    length = max(part.shape[1] for part in tokens)
    return torch.cat([F.pad(part, (0, length - part.shape[1])) for part in tokens])
