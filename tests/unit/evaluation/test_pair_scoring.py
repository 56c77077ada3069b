"""Batches of pairs in fixed shapes, as a GPU scores them and its graphs replay them, on a CPU."""

from collections import Counter

import pytest
import torch

import dataset.texts
from bench.rerank_cases import captions
from evaluation import pair_scoring
from evaluation import rerank as module
from evaluation.pair_scoring import Budget, batches_of
from evaluation.rerank import GPU_TOKENS, rerank
from tests.helpers.dispatch import signatures
from tests.helpers.graphs import Recorder
from tests.helpers.reranking import encoded_gallery, random_captions, random_similarity
from tests.helpers.tiny_models import tiny_model
from utils import cuda_graphs
from utils.cuda_graphs import WARM_UP_CALLS
from utils.precision import autocast

TOP_K = 7


@pytest.fixture
def as_on_a_gpu(monkeypatch) -> Recorder:
    """Counting is not free, and slots and batches are small enough for several of one kind."""
    recorder = Recorder()
    monkeypatch.setattr(dataset.texts, "COUNTING_IS_FREE", frozenset())
    monkeypatch.setattr(cuda_graphs, "_PoolRecorder", lambda: recorder)
    monkeypatch.setattr(pair_scoring, "QUERIES_OF_A_SLOT", 32)
    monkeypatch.setattr(pair_scoring, "TOKEN_STEPS", 1)
    monkeypatch.setattr(module, "budget_of", lambda *_: Budget(images=4, tokens=64))
    return recorder


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("image", ["vim", "mamba_reg", "vit"])
def test_scores_are_those_without_padding(image, full, request):
    model = tiny_model(image, full_cross_attention=full).eval()
    arguments = model, encoded_gallery(model), random_captions(), random_similarity()
    packed = rerank(*arguments, top_k=TOP_K)
    request.getfixturevalue("as_on_a_gpu")
    torch.testing.assert_close(rerank(*arguments, top_k=TOP_K), packed, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replays_give_the_scores_of_eager_batches(as_on_a_gpu, precision, monkeypatch):
    model = tiny_model("vim").eval()
    with autocast(torch.device("cpu"), precision):
        arguments = model, encoded_gallery(model), random_captions(), random_similarity()
        replayed = rerank(*arguments, top_k=TOP_K)
        assert as_on_a_gpu.replays > 5
        monkeypatch.setattr(cuda_graphs, "WARM_UP_CALLS", 1000)
        as_on_a_gpu.replays = 0
        eager = rerank(*arguments, top_k=TOP_K)
        assert as_on_a_gpu.replays == 0
    assert (eager > -torch.inf).sum() == len(eager) * TOP_K
    assert torch.equal(replayed, eager)


def test_batches_of_a_kind_run_the_same_operators_on_the_same_shapes(as_on_a_gpu, monkeypatch):
    calls: dict = {}

    def watched(graphs, function, *inputs):
        with signatures() as found:
            scores = function(*inputs)
        calls.setdefault(cuda_graphs.shapes_of(inputs), []).append(found)
        return scores

    monkeypatch.setattr(cuda_graphs.Graphs, "__call__", watched)
    model = tiny_model("vim").eval()
    rerank(model, encoded_gallery(model), random_captions(), random_similarity(), top_k=TOP_K)
    assert sorted(map(len, calls.values()))[-1] > 3
    for first, *others in calls.values():
        assert len(first) > 50
        assert all(other == first for other in others)


LENGTH = torch.tensor([7, 16, 17, 3, 40, 1])  # the last one fills slots


def test_batches_hold_every_pair_once_in_a_slot_of_its_image():
    generator = torch.Generator().manual_seed(0)
    image_index = torch.randint(0, 5, (60,), generator=generator).sort().values
    text_index = torch.randint(0, 5, (60,), generator=generator)
    seen = []
    for batch in batches_of(LENGTH, text_index, image_index, tokens=2048):
        per_slot = len(batch.text) // len(batch.image)
        own = batch.pair >= 0
        seen += batch.pair[own].tolist()
        assert torch.equal(batch.text[own], text_index[batch.pair[own]])
        assert torch.equal(batch.image.repeat_interleave(per_slot)[own], image_index[batch.pair[own]])
        assert (batch.text[~own] == len(LENGTH) - 1).all()
        assert batch.longest - 16 < int(LENGTH[batch.text[own]].max()) <= batch.longest
        assert int(LENGTH[batch.text].sum()) <= batch.at_most <= batch.longest * len(batch.text) <= 2048
    assert sorted(seen) == list(range(60))


def test_full_batches_have_the_same_shapes():
    image_index = torch.arange(40).repeat_interleave(32)
    batches = list(batches_of(LENGTH, torch.zeros(1280, dtype=torch.long), image_index, tokens=16 * 32 * 16))
    shapes = [(len(batch.text), len(batch.image), batch.longest, batch.at_most) for batch in batches]
    assert shapes == [(512, 16, 16, 7 * 512), (512, 16, 16, 7 * 512), (256, 8, 16, 7 * 256)]


def test_a_slot_that_exceeds_the_budget_is_a_batch():
    (batch,) = batches_of(LENGTH, torch.tensor([4]), torch.tensor([0]), tokens=1)
    assert (batch.longest, len(batch.image)) == (48, 1)
    assert batch.pair.tolist() == [0] + [-1] * (len(batch.text) - 1)


def test_hardly_anything_is_computed_for_nothing():
    """Captions as long as those of CUHK-PEDES, 128 candidates each, every image 256 times on average."""
    generator = torch.Generator().manual_seed(0)
    length = torch.tensor([*map(len, captions(1500)), 1])
    image_index = torch.stack([torch.randperm(750, generator=generator)[:128] for _ in range(1500)]).flatten()
    image_index, order = image_index.sort(stable=True)
    text_index = torch.arange(1500).repeat_interleave(128)[order]
    batches = list(batches_of(length, text_index, image_index, tokens=GPU_TOKENS))
    tokens = int(length[text_index].sum())
    assert sum(batch.at_most for batch in batches) < 1.05 * tokens
    assert sum(len(batch.text) * batch.longest for batch in batches) < 1.7 * tokens  # in attention alone
    kinds = Counter((len(batch.image), batch.longest, batch.at_most) for batch in batches)
    assert sum(number - WARM_UP_CALLS for number in kinds.values() if number > WARM_UP_CALLS) > 0.7 * len(batches)
