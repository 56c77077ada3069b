"""A small gallery and captions of it, for the tests of re-ranking."""

import torch
from torch import Tensor

from evaluation.token_store import TokenStore
from models.person_search import PersonSearchModel

NUM_IMAGES, NUM_QUERIES, MAX_WORDS = 9, 14, 20


@torch.inference_mode()
def encoded_gallery(model: PersonSearchModel) -> TokenStore:
    """Tokens that the model's image encoder makes of random images, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(NUM_IMAGES, 3, 32, 32, generator=generator).to(model.itm_head.weight.dtype)
    store = TokenStore(NUM_IMAGES, torch.device("cpu"))
    for part in model.encode_image(images)[0].tokens.split(4):
        store.append(part)
    return store


def random_captions() -> list[Tensor]:
    """Captions of one to MAX_WORDS tokens, not sorted by length; some lengths occur more than once."""
    generator = torch.Generator().manual_seed(2)
    lengths = [7, 1, 20, 7, 3, 12, 5, 19, 7, 2, 12, 9, 4, 16]
    return [torch.randint(5, 30, (length,), generator=generator) for length in lengths]


def random_similarity() -> Tensor:
    return torch.rand(NUM_QUERIES, NUM_IMAGES, generator=torch.Generator().manual_seed(3))
