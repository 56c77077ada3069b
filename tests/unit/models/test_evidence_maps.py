"""Evidence of chunks: what the maps add up to, and where they lie when only one patch matters."""

import pytest
import torch

from models.evidence_maps import chunk_evidence, mean_patch, of_tokens
from tests.helpers.tiny_models import tiny_model

CHUNKS = torch.tensor([0, 1, 1, 0, 2])
IDS = torch.tensor([2, 11, 12, 13, 14])
MASK = 4


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_model().eval()


@pytest.fixture
def image(model):
    return torch.randn(1, 3, *model.image_encoder.image_size, generator=torch.Generator().manual_seed(1))


def evidence(model, image, ids=IDS, chunks=CHUNKS, **options):
    return chunk_evidence(model, image, ids, chunks, mask_id=MASK, **options)


def log_probabilities(model, image):
    """Of the words of each chunk, masked one by one, told apart from the code under test word by word."""
    sums = torch.zeros(2)
    with torch.no_grad():
        tokens = model.encode_image(image)[0].tokens
        for place, chunk in enumerate(CHUNKS.tolist()):
            if chunk:
                ids = IDS.clone()
                ids[place] = MASK
                hidden = model.text_encoder.cross_modal(ids[None], torch.ones_like(ids[None]), tokens)
                sums[chunk - 1] += model.word_logits(hidden[0, place]).log_softmax(dim=-1)[IDS[place]]
    return sums


def test_maps_add_up_to_what_the_logits_gain(model, image, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "clamp", lambda tensor, **_: tensor)
    maps = evidence(model, image, steps=64)
    assert maps.shape == (2, *model.image_encoder.grid)
    start = mean_patch(image, model.image_encoder.patch_size)
    gains = log_probabilities(model, image) - log_probabilities(model, start)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), gains, rtol=0.02, atol=1e-5)


def test_only_what_differs_from_the_mean_patch_is_evidence(model, image):
    size = model.image_encoder.patch_size
    flat = mean_patch(image, size)
    assert not evidence(model, flat).any()
    spotted = flat.clone()
    spotted[..., :size, :size] += 3
    maps = evidence(model, spotted)
    others = [value.abs().max() for value in (maps[:, 1:], maps[:, 0, 1:])]
    assert (maps >= 0).all()
    assert max(others) <= maps.max()


def test_mean_patch_by_hand():
    image = torch.arange(8.0).view(1, 1, 2, 4)  # two patches of 2 x 2
    assert mean_patch(image, 2).tolist() == [[[[1, 2, 1, 2], [5, 6, 5, 6]]]]


def test_tokens_have_the_map_of_their_chunk():
    maps = torch.tensor([[[1.0]], [[2.0]]])
    assert of_tokens(maps, CHUNKS).flatten().tolist() == [0, 1, 1, 0, 2]


def test_a_caption_without_chunks_has_no_map(model, image):
    none = evidence(model, image, chunks=torch.zeros_like(IDS))
    assert none.shape == (0, *model.image_encoder.grid)
    assert not of_tokens(none, torch.zeros_like(IDS)).any()


def test_the_model_and_inference_mode_stay_as_they_are(model, image):
    before = [parameter.grad for parameter in model.parameters()]
    with torch.inference_mode():
        inside = evidence(model, image.clone(), IDS.clone(), CHUNKS.clone())
    torch.testing.assert_close(inside, evidence(model, image))
    assert [parameter.grad for parameter in model.parameters()] == before


def test_refusals(model, image):
    with pytest.raises(ValueError, match="expected one normalised image"):
        evidence(model, image[0])
    with pytest.raises(ValueError, match=r"expected \(L,\) twice"):
        evidence(model, image, chunks=CHUNKS[:3])
