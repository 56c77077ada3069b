"""Random models and data in the proportions of CUHK-PEDES, for bench/evaluate.py. Everything is seeded."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dataset.batches import CaptionBatch, ImageBatch, collate
from dataset.texts import Texts
from models.bert_layers import BertSizes
from models.pair_scorer import PairScorer
from models.person_search import PersonSearchModel
from models.text_encoder import TextEncoder
from models.vision_mamba import VisionMamba

IMAGE_WIDTH = 768
MAX_WORDS = 90  # of CUHK-PEDES
MEAN_WORDS, SPREAD = 23.0, 0.4  # mean length of its captions, standard deviation of the length's logarithm
WORDS = (1000, 30000)  # range of ids that are word pieces of BERT's vocabulary
IMAGE_SPREAD = 2.0  # of an image's own vector relative to the noise in its tokens, see random_gallery
NARROW = BertSizes(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=256)


class MatchingModel(nn.Module):
    """The parts of a PersonSearchModel that re-ranking needs, without an image encoder."""

    def __init__(self, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.itm_head = nn.Linear(text_encoder.width, 2)

    def pair_scorer(self) -> PairScorer:
        return PairScorer(self.text_encoder, self.itm_head)


def matching_model(sizes: BertSizes, device: torch.device, *, full: bool = True) -> PersonSearchModel:
    """A `MatchingModel` that stands in for a whole model, with weights that make scores differ between images."""
    torch.manual_seed(0)
    fusion_layer = max(1, sizes.num_hidden_layers // 2)
    encoder = TextEncoder(sizes, image_width=IMAGE_WIDTH, fusion_layer=fusion_layer, full_cross_attention=full)
    model = MatchingModel(encoder)
    for parameter in encoder.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return cast(PersonSearchModel, model.to(device).eval())


def whole_model(device: torch.device) -> PersonSearchModel:
    """Vim-B at 224 px and BERT base."""
    torch.manual_seed(0)
    encoder = VisionMamba(image_size=(224, 224), width=IMAGE_WIDTH)
    model = PersonSearchModel(
        encoder,
        TextEncoder(BertSizes(), image_width=IMAGE_WIDTH, fusion_layer=6),
        embed_dim=256,
        temperature=0.07,
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.5, 0.5, 0.5),
    )
    return model.to(device)


class RerankCase(NamedTuple):
    """A gallery with two captions per image. T captions, I images, K tokens of an image."""

    tokens: Tensor  # (I, K, width), on the CPU
    texts: list[Tensor]  # T of (L,)
    similarity: Tensor  # (T, I)

    @property
    def mean_tokens(self) -> float:
        """Mean length of a caption in tokens."""
        return sum(map(len, self.texts)) / len(self.texts)


def random_gallery(num_images: int, num_tokens: int) -> RerankCase:
    """Tokens of one image are alike, as an encoder makes them.

    If they were not, attention would average them to nearly the same for every image, and rounding would rank them.
    """
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(num_images, num_tokens, IMAGE_WIDTH, generator=generator)
    tokens += IMAGE_SPREAD * torch.randn(num_images, 1, IMAGE_WIDTH, generator=generator)
    texts = captions(2 * num_images)
    return RerankCase(tokens, texts, torch.rand(len(texts), num_images, generator=generator))


def people_of(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Person ids of captions (T,) and images (I,) with which scores (T, I) rank about as well as a trained model.

    Every person has two images. For each caption a rank is drawn, most often near the front; the caption describes the
    person of the image at that rank.
    """
    num_captions, num_images = scores.shape
    image_person_id = torch.arange(num_images) // 2
    drawn = torch.rand(num_captions, generator=torch.Generator().manual_seed(3))
    place = (num_images * drawn**8).long()  # first of 64 for 59 % of the captions, among the first ten for 79 %
    order = scores.argsort(dim=1, descending=True, stable=True)
    return image_person_id[order.gather(1, place[:, None])[:, 0]], image_person_id


def captions(number: int) -> list[Tensor]:
    """Word pieces (L,) of captions as long as those of CUHK-PEDES: log-normal with a mean of 23 words, and [CLS]."""
    generator = torch.Generator().manual_seed(1)
    logarithm = SPREAD * torch.randn(number, generator=generator)
    words = (MEAN_WORDS * (logarithm - SPREAD**2 / 2).exp()).round().clamp(5, MAX_WORDS - 1).long()
    return [torch.randint(*WORDS, (1 + length,), generator=generator) for length in words.tolist()]


class NoiseImages(Dataset[ImageBatch]):
    """Noise of 224 x 224 px, made on demand. Every person has two images."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, row: int) -> ImageBatch:
        pixels = torch.randint(0, 256, (3, 224, 224), generator=torch.Generator().manual_seed(row), dtype=torch.uint8)
        return ImageBatch(pixels, torch.tensor(row // 2))


class RandomCaptions(Dataset[CaptionBatch]):
    """Random words, two captions per image."""

    def __init__(self, number: int) -> None:
        self.input_ids = captions(number)

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, row: int) -> CaptionBatch:
        ids = self.input_ids[row]
        return CaptionBatch(Texts(ids, torch.ones_like(ids), torch.zeros_like(ids)), torch.tensor(row // 4))


def loaders(num_images: int, num_captions: int, batch_size: int, workers: int) -> tuple[DataLoader, DataLoader]:
    return (
        DataLoader(NoiseImages(num_images), batch_size=batch_size, num_workers=workers, collate_fn=collate),
        DataLoader(RandomCaptions(num_captions), batch_size=batch_size, collate_fn=collate),
    )
