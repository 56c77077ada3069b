"""The model of a gallery: vectors of images and sentences, and scores of their pairs.

B images, E width of the embedding, K image tokens, D their width, L text tokens, C chunks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from dataset.captions import clean_caption
from dataset.tokenizer import Encoded, encode, load_tokenizer, unknown_pieces
from gallery.answers import CannotAnswer
from gallery.encoding.chunks import QueryChunks
from gallery.encoding.pictures import upright
from models.build import build_model
from models.person_search import MATCH
from models.weights import check_complete, initialise
from utils.config import Config
from utils.precision import autocast


class EncodedImages(NamedTuple):
    """What the image encoder makes of B images."""

    vectors: np.ndarray  # (B, E) float32, L2-normalised
    tokens: Tensor  # (B, K, D), on the model's device and in the type that it computes in


class Sentence(NamedTuple):
    """A query, cleaned and truncated like the captions in training."""

    text: str  # the first dataset.max_words words
    encoded: Encoded
    vector: np.ndarray  # (E,) float32, L2-normalised
    unknown_pieces: Sequence[str] = ()  # of the text, which the model reads as [UNK]

    @property
    def num_pieces(self) -> int:
        return len(self.encoded.ids) - 1  # without [CLS]


class Matching(NamedTuple):
    """Output of the matching head for one sentence and B images, on the CPU."""

    scores: Tensor  # (B,) logits of "same person"
    chunks: Tensor  # (B, C) probabilities of "this chunk describes this image"


class Encoder:
    """The model in evaluation mode, and its tokenizer.

    Raises: UserError if the checkpoint cannot be read, or if it lacks a part of the model.
    """

    def __init__(self, checkpoint: Path, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.tokenizer = load_tokenizer(config.model.text_encoder.name)
        model = build_model(config)
        check_complete(model, initialise(model, checkpoint))
        self.model = model.to(device).eval().requires_grad_(False)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.config.dataset.image_size

    @property
    def mask_id(self) -> int | None:
        """Of [MASK], for the language head; None if that was not trained."""
        return self.tokenizer.mask_token_id if self.config.losses.weights.get("mlm", 0) > 0 else None

    @torch.inference_mode()
    def images(self, pixels: Tensor) -> EncodedImages:
        """pixels: (B, 3, H, W) uint8 of size `image_size`."""
        with autocast(self.device, self.config.train.precision):
            features, embedding = self.model.encode_image(self.model.normalize(pixels.to(self.device)))
        return EncodedImages(embedding.float().cpu().numpy(), features.tokens)

    @torch.inference_mode()
    def sentence(self, text: str) -> Sentence:
        """Raises: CannotAnswer if cleaning leaves nothing of the text."""
        cleaned = clean_caption(text, self.config.dataset.max_words)
        if not cleaned:
            raise CannotAnswer("the query is empty: describe a person, e.g. a man with a red backpack")
        encoded = encode(self.tokenizer, cleaned, self.config.dataset.max_words)
        ids = torch.tensor([encoded.ids], device=self.device)
        with autocast(self.device, self.config.train.precision):
            embedding = self.model.encode_text(ids, torch.ones_like(ids))[1]
        unknown = unknown_pieces(self.tokenizer, cleaned, encoded)
        return Sentence(cleaned, encoded, embedding[0].float().cpu().numpy(), unknown)

    @torch.inference_mode()
    def match(self, sentence: Sentence, chunks: QueryChunks, tokens: Tensor) -> Matching:
        """Score a sentence, and the chunks found in it, on B images.

        tokens: (B, K, D) of any float type, on any device.
        """
        ids, chunk_ids = (
            torch.tensor(row, device=self.device).expand(len(tokens), -1) for row in (sentence.encoded.ids, chunks.ids)
        )
        with autocast(self.device, self.config.train.precision):
            hidden = self.model.text_encoder.cross_modal(ids, torch.ones_like(ids), tokens.to(self.device).float())
            scores = self.model.match_score(hidden)
            chunk_logits, _ = self.model.chunk_logits(hidden, chunk_ids)
        probabilities = chunk_logits.float().softmax(dim=-1)[:, : len(chunks.texts), MATCH]
        return Matching(scores.float().cpu(), probabilities.cpu())


def pixels_of(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """An open picture, turned upright and resized like `dataset.images.read_image`: (3, H, W) uint8."""
    picture = torch.from_numpy(np.array(upright(image))).permute(2, 0, 1)
    resized = resize(picture, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return torch.from_numpy(np.ascontiguousarray(resized.numpy()))  # numpy reorders the channels twice as fast as torch


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
