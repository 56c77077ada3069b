"""Momentum encoders: slowly moving copies that give soft targets. B batch, E embedding, L tokens, V vocabulary.

Source: MoCo (arXiv:1911.05722, equation 2) as in ALBEF (arXiv:2107.07651, section 3.3); RaSa (arXiv:2305.13653).
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataset.texts import Places, is_class_token
from models.image_features import ImageEncoder, ImageFeatures
from models.person_search import PersonSearchModel
from models.text_encoder import TextEncoder

COPIED = ("image_encoder", "vision_proj", "text_encoder", "text_proj")


class MomentumEncoder(nn.Module):
    """Copies of both encoders and their projections; always in evaluation mode, never trained by gradients."""

    image_encoder: ImageEncoder
    vision_proj: nn.Linear
    text_encoder: TextEncoder
    text_proj: nn.Linear

    def __init__(self, model: PersonSearchModel, *, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        for name in COPIED:
            self.add_module(name, copy.deepcopy(getattr(model, name)))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "MomentumEncoder":
        """Stay in evaluation mode: the teacher runs without dropout and drop path."""
        return super().train(False)

    @torch.no_grad()
    def update(self, model: PersonSearchModel) -> None:
        """theta_m <- momentum * theta_m + (1 - momentum) * theta. Call once after each optimiser step."""
        online = [parameter for name in COPIED for parameter in getattr(model, name).parameters()]
        pairs = [pair for pair in zip(self.parameters(), online, strict=True) if pair[1].requires_grad]
        torch._foreach_lerp_([own for own, _ in pairs], [theirs for _, theirs in pairs], 1 - self.momentum)

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> tuple[ImageFeatures, Tensor]:
        """Normalised images (B, 3, H, W) -> features and embedding (B, E), L2-normalised."""
        features = self.image_encoder(image)
        return features, F.normalize(self.vision_proj(features.pooled), dim=-1)

    @torch.no_grad()
    def encode_text(self, input_ids: Tensor, attention_mask: Tensor, *, at_most: int | None = None) -> Tensor:
        """Tokens (B, L), at_most so many -> embedding (B, E), L2-normalised."""
        wanted = Places(is_class_token(attention_mask), at_most and len(input_ids))
        features = self.text_encoder(input_ids, attention_mask, at_most=at_most, wanted=wanted)
        return F.normalize(self.text_proj(features.pooled), dim=-1)

    @torch.no_grad()
    def predict_tokens(
        self,
        ids: list[Tensor],
        attention_mask: Tensor,
        image_tokens: Tensor,
        places: list[Tensor],
        *,
        for_next_images: int = 0,
        at_most: int | None = None,
    ) -> list[Tensor]:
        """Distributions over the vocabulary for several versions of the same captions, in one cross-modal pass.

        Args:
            ids: versions of the captions, each (B, L), all with the same attention_mask (B, L).
            image_tokens: (B, K, image width).
            places: for each version the rows and columns wanted, (M_i, 2).
            for_next_images: so many of the last versions are read beside the image of the next caption, the last
                caption beside the first image. The others are read beside their own.
            at_most: so many tokens have the captions.
        Returns: logits (M_i, V) for each version.
        """
        batch, versions = len(attention_mask), len(ids)
        wanted = torch.zeros_like(attention_mask).repeat(versions, 1)
        one = torch.ones((), dtype=wanted.dtype, device=wanted.device)
        for version, (row, column) in enumerate(part.T for part in places):
            wanted.index_put_((version * batch + row, column), one)
        next_image = torch.arange(batch, device=attention_mask.device).roll(-1).repeat(for_next_images)
        hidden = self.text_encoder.cross_modal(
            torch.cat(ids),
            attention_mask.repeat(versions, 1),
            image_tokens,
            next_image if for_next_images else None,
            own_images=batch,
            at_most=at_most and versions * at_most,
            wanted=Places(wanted, at_most and sum(map(len, places))),
        ).split(batch)
        return [
            self.text_encoder.mlm_logits(part[tuple(wanted.T)]) for part, wanted in zip(hidden, places, strict=True)
        ]
