"""Re-ranking and its store on a GPU: the scores of the CPU, wherever the tokens are kept."""

import pytest
import torch

from evaluation import pair_scoring, token_store
from evaluation import rerank as module
from evaluation.pair_scoring import Budget
from evaluation.rerank import rerank
from evaluation.token_store import TokenStore
from tests.helpers.reranking import encoded_gallery, random_captions, random_similarity
from tests.helpers.tiny_models import tiny_model
from utils import cuda_graphs
from utils.precision import autocast

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


@pytest.fixture(params=["device", "memory", "file"])
def place(request, monkeypatch, tmp_path):
    """Makes the store keep its tokens there."""
    free = {"cuda": 2**40 if request.param == "device" else 0, "cpu": 0 if request.param == "file" else 2**40}
    monkeypatch.setattr(token_store, "available_bytes", lambda device: free[device.type])
    monkeypatch.setattr(token_store.tempfile, "tempdir", str(tmp_path))
    return request.param


def on_the_gpu(tokens: torch.Tensor) -> TokenStore:
    store = TokenStore(len(tokens), torch.device("cuda"))
    for part in tokens.cuda().split(4):
        store.append(part)
    return store


def test_store(place):
    tokens = torch.randn(10, 5, 7, generator=torch.Generator().manual_seed(0))
    store = on_the_gpu(tokens)
    assert (store.place, len(store)) == (place, 10)
    for rows in ([0], [0, 5, 9], list(range(10))):
        read = store.read(torch.tensor(rows))
        assert read.device.type == "cuda"
        assert torch.equal(read.cpu(), tokens[rows])


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("image", ["vim", "vit"])
def test_scores_are_those_of_the_cpu(image, full, place):
    model = tiny_model(image, full_cross_attention=full).eval()
    store = encoded_gallery(model)
    tokens = store.read(torch.arange(len(store)))
    expected = rerank(model, store, random_captions(), random_similarity(), top_k=5)
    model.cuda()
    own = on_the_gpu(tokens)
    assert own.place == place
    scores = rerank(model, own, random_captions(), random_similarity(), top_k=5)
    assert scores.device == CPU
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
    order, expected_order = (values.argsort(dim=1, descending=True) for values in (scores, expected))
    assert torch.equal(order[:, :5], expected_order[:, :5])
    with autocast(torch.device("cuda"), "bf16"):
        half = on_the_gpu(tokens)
        near = rerank(model, half, random_captions(), random_similarity(), top_k=5)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(near, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_graphs_give_the_scores_of_eager_batches(precision, monkeypatch, caplog):
    monkeypatch.setattr(pair_scoring, "QUERIES_OF_A_SLOT", 32)
    monkeypatch.setattr(pair_scoring, "TOKEN_STEPS", 1)
    monkeypatch.setattr(module, "budget_of", lambda *_: Budget(images=4, tokens=64))
    model = tiny_model("vim").eval()
    tokens = encoded_gallery(model).read(torch.arange(len(encoded_gallery(model))))
    model.cuda()
    scores = []
    for warm_up_calls in (1000, 1):
        monkeypatch.setattr(cuda_graphs, "WARM_UP_CALLS", warm_up_calls)
        with autocast(torch.device("cuda"), precision):
            scores.append(rerank(model, on_the_gpu(tokens), random_captions(), random_similarity(), top_k=7))
    assert "cannot be captured" not in caplog.text
    assert torch.equal(*scores)
