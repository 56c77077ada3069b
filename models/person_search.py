"""The whole retrieval model. B batch, E shared embedding, N patches, L tokens, C chunks, V vocabulary, P patch size.

Source: ALBEF (arXiv:2107.07651) for the two encoders and the matching head, MARS (arXiv:2407.04287) for the attribute
chunks and the caption-aware decoder. What is trained on it, and with which heads, is said by the files of losses/.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.image_features import ImageEncoder, ImageFeatures
from models.joined_weights import JoinedLinear
from models.pair_scorer import PairScorer
from models.text_encoder import TextEncoder, TextFeatures

TEMPERATURE_RANGE = (0.001, 0.5)
MATCH = 1  # column of the matching head's logits that says "same person"


class PersonSearchModel(nn.Module):
    """Image encoder, text and cross-modal encoder, projections, matching head, and the heads of training objectives.

    Args:
        pixel_mean, pixel_std: of the image encoder's normalisation, for RGB in [0, 1].
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        *,
        embed_dim: int,
        temperature: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        for name, value in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.vision_proj = JoinedLinear(image_encoder.feature_width, embed_dim)
        self.text_proj = JoinedLinear(text_encoder.width, embed_dim)
        self.itm_head = JoinedLinear(text_encoder.width, 2)
        self.temperature = nn.Parameter(torch.tensor(temperature))
        self.heads: tuple[str, ...] = ()

    def add_heads(self, heads: Mapping[str, nn.Module]) -> None:
        """Take in the heads of training objectives, by name. The MAE decoder is called "decoder"."""
        for name, head in heads.items():
            assert not hasattr(self, name), f"the model has a {name} already"
            self.add_module(name, head)
        self.heads += tuple(heads)

    def head(self, name: str) -> nn.Module:
        """The head of a training objective. Raises: ValueError if the model was built without it."""
        if name not in self.heads:
            raise ValueError(f"this model was built without {name}; it has {', '.join(self.heads) or 'no heads'}")
        return self.get_submodule(name)

    def normalize(self, image: Tensor) -> Tensor:
        """uint8 RGB images (B, 3, H, W) -> float, as the image encoder wants them."""
        return (image.float() / 255 - self.pixel_mean) / self.pixel_std

    def encode_image(self, image: Tensor) -> tuple[ImageFeatures, Tensor]:
        """Normalised images (B, 3, H, W) -> features and embedding (B, E), L2-normalised."""
        features = self.image_encoder(image)
        return features, F.normalize(self.vision_proj(features.pooled), dim=-1)

    def encode_text(
        self, input_ids: Tensor, attention_mask: Tensor, *, at_most: int | None = None
    ) -> tuple[TextFeatures, Tensor]:
        """Tokens (B, L) -> text-mode features and embedding (B, E), L2-normalised.

        at_most: number of tokens, or more, as in `dataset.texts.Places`.
        """
        features = self.text_encoder(input_ids, attention_mask, at_most=at_most)
        return features, self.embed_text(features)

    def embed_text(self, features: TextFeatures) -> Tensor:
        """Text-mode features -> embedding (B, E), L2-normalised."""
        return F.normalize(self.text_proj(features.pooled), dim=-1)

    def match(
        self, input_ids: Tensor, attention_mask: Tensor, image_tokens: Tensor, image_index: Tensor | None = None
    ) -> Tensor:
        """Matching score of R text-image pairs: (R,), the matching head's logit of "same person".

        Arguments as of `TextEncoder.cross_modal`.
        """
        hidden = self.text_encoder.cross_modal(input_ids, attention_mask, image_tokens, image_index)
        return self.match_score(hidden)

    def match_score(self, hidden: Tensor) -> Tensor:
        """Hidden states of the cross-modal pass (R, L, D) -> matching score (R,)."""
        return self.match_logits(hidden[:, 0])[:, MATCH]

    def match_logits(self, class_hidden: Tensor) -> Tensor:
        """The matching head on [CLS] of the cross-modal pass: (R, D) -> (R, 2), second column = match."""
        return self.itm_head(class_hidden)

    def chunk_logits(self, hidden: Tensor, chunk_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The matching head on the mean over the tokens of each attribute chunk.

        Args:
            hidden: (R, L, D) of the cross-modal pass.
            chunk_ids: (R, L), 0 = in no chunk, k = in the text's k-th.
        Returns: logits (R, C, 2), second column = match, and present (R, C), False where a text has no such chunk.
            C is L // 2 or 1, more than there can be: a chunk has two words at least, and a GPU need not be asked.
        """
        chunk = torch.arange(1, max(1, chunk_ids.shape[1] // 2) + 1, device=chunk_ids.device)
        member = (chunk_ids[:, None] == chunk[:, None]).to(hidden.dtype)  # (R, C, L)
        count = member.sum(dim=-1, keepdim=True)
        return self.itm_head(member @ hidden / count.clamp(min=1)), count[..., 0] > 0

    def word_logits(self, hidden: Tensor) -> Tensor:
        """The language head: hidden states (..., D) -> logits over the vocabulary (..., V)."""
        return self.text_encoder.mlm_logits(hidden)

    def reconstruct(self, image: Tensor, kept: Tensor, text_tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Rebuild images from some of their patches and their captions: (B, N, P*P*3), in the layout of patchify.

        Args:
            image: (B, 3, H, W), normalised.
            kept: (B, K) patches that are seen, in raster order.
            text_tokens: (B, L, D) in text mode; attention_mask: (B, L).
        Raises: ValueError if the model has no decoder.
        """
        features = self.image_encoder.encode_masked(image, kept)
        return self.head("decoder")(features, kept, text_tokens, attention_mask)

    def pair_scorer(self) -> PairScorer:
        """For the scores of `match` where there are many pairs of few texts and images."""
        return PairScorer(self.text_encoder, self.itm_head)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the learned temperature within its range; call after each optimiser step."""
        self.temperature.clamp_(*TEMPERATURE_RANGE)
