"""Evidence of chunks: what the maps add up to, and where they lie when only one patch matters."""

import pytest
import torch

from models.evidence_maps import chunk_evidence, mean_patch, of_tokens
from models.person_search import MATCH
from tests.helpers.tiny_models import tiny_model

CHUNKS = torch.tensor([0, 1, 1, 0, 2])
IDS = torch.tensor([2, 11, 12, 13, 14])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_model().eval()


@pytest.fixture
def image(model):
    return torch.randn(1, 3, *model.image_encoder.image_size, generator=torch.Generator().manual_seed(1))


def chunk_scores(model, image):
    with torch.no_grad():
        tokens = model.encode_image(image)[0].tokens
        hidden = model.text_encoder.cross_modal(IDS[None], torch.ones_like(IDS[None]), tokens)
        return model.chunk_logits(hidden, CHUNKS[None])[0][0, :2, MATCH]


def test_maps_add_up_to_what_the_logits_gain(model, image, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "clamp", lambda tensor, **_: tensor)
    maps = chunk_evidence(model, image, IDS, CHUNKS, steps=64)
    assert maps.shape == (2, *model.image_encoder.grid)
    start = mean_patch(image, model.image_encoder.patch_size)
    gains = chunk_scores(model, image) - chunk_scores(model, start)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), gains, rtol=0.02, atol=1e-5)


def test_only_what_differs_from_the_mean_patch_is_evidence(model, image):
    size = model.image_encoder.patch_size
    flat = mean_patch(image, size)
    assert not chunk_evidence(model, flat, IDS, CHUNKS).any()
    spotted = flat.clone()
    spotted[..., :size, :size] += 3
    maps = chunk_evidence(model, spotted, IDS, CHUNKS)
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
    none = chunk_evidence(model, image, IDS, torch.zeros_like(IDS))
    assert none.shape == (0, *model.image_encoder.grid)
    assert not of_tokens(none, torch.zeros_like(IDS)).any()


def test_the_model_and_inference_mode_stay_as_they_are(model, image):
    before = [parameter.grad for parameter in model.parameters()]
    with torch.inference_mode():
        inside = chunk_evidence(model, image.clone(), IDS.clone(), CHUNKS.clone())
    torch.testing.assert_close(inside, chunk_evidence(model, image, IDS, CHUNKS))
    assert [parameter.grad for parameter in model.parameters()] == before


def test_refusals(model, image):
    with pytest.raises(ValueError, match="expected one normalised image"):
        chunk_evidence(model, image[0], IDS, CHUNKS)
    with pytest.raises(ValueError, match=r"expected \(L,\) twice"):
        chunk_evidence(model, image, IDS, CHUNKS[:3])
