"""Re-ranking image by image against the plain loop over queries (bench/plain_rerank.py)."""

import pytest
import torch

from bench.plain_rerank import plain_rerank
from evaluation import rerank as module
from evaluation.pair_scoring import Budget
from evaluation.rerank import budget_of, rerank, top_candidates
from evaluation.token_store import TokenStore
from models.pair_layouts import PackedPairs
from models.text_encoder import TextEncoder
from tests.helpers.reranking import (
    MAX_WORDS,
    NUM_IMAGES,
    NUM_QUERIES,
    encoded_gallery,
    random_captions,
    random_similarity,
)
from tests.helpers.tiny_models import BERT, tiny_model
from utils.memory import cut
from utils.precision import autocast

CPU = torch.device("cpu")


@pytest.fixture(params=["vim", "mamba_reg", "vit"])
def model(request):
    return tiny_model(request.param).eval()


def plain_scores(model, store: TokenStore, top_k: int) -> torch.Tensor:
    candidates = random_similarity().argsort(dim=1, descending=True)[:, :top_k]
    values = plain_rerank(
        model, store.read(torch.arange(len(store))), random_captions(), candidates, max_words=MAX_WORDS
    )
    return torch.full((NUM_QUERIES, NUM_IMAGES), -torch.inf).scatter(1, candidates, values)


def assert_same(scores: torch.Tensor, plain: torch.Tensor) -> None:
    """Scores within rounding, the same pairs, the same order."""
    torch.testing.assert_close(scores, plain, rtol=0, atol=1e-5)
    assert torch.equal(scores.argsort(dim=1, descending=True), plain.argsort(dim=1, descending=True))
    assert plain[plain > -torch.inf].std() > 0.01  # else any scores would do


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("image", ["vim", "mamba_reg", "vit"])
def test_scores_of_the_plain_loop(image, full):
    model = tiny_model(image, full_cross_attention=full).eval()
    store = encoded_gallery(model)
    assert_same(rerank(model, store, random_captions(), random_similarity(), top_k=4), plain_scores(model, store, 4))


@pytest.mark.parametrize("budget", [Budget(1, 1), Budget(2, 30), Budget(4, 50), Budget(100, 25)])
def test_steps_end_anywhere(budget, monkeypatch):
    """Between the pairs of an image, between the candidates of a query, or not at all."""
    monkeypatch.setattr(module, "budget_of", lambda *_: budget)
    monkeypatch.setattr("models.pair_scorer.TOKENS_ENCODED_AT_A_TIME", 21)
    monkeypatch.setattr("models.pair_layouts.MOST_ROWS", 2)
    model = tiny_model("vim").eval()
    store = encoded_gallery(model)
    assert_same(rerank(model, store, random_captions(), random_similarity(), top_k=5), plain_scores(model, store, 5))


def test_more_candidates_than_images(model):
    store = encoded_gallery(model)
    assert_same(
        rerank(model, store, random_captions(), random_similarity(), top_k=128), plain_scores(model, store, NUM_IMAGES)
    )


@pytest.mark.parametrize("fusion_layer", [1, 3])
def test_first_and_last_layer_with_cross_attention_are_the_same(fusion_layer):
    """fusion_layer 3 of 4: what comes before the image and what only [CLS] needs meet in one layer."""
    model = tiny_model("vit").eval()
    torch.manual_seed(4)
    model.text_encoder = TextEncoder(BERT, image_width=16, fusion_layer=fusion_layer, full_cross_attention=False).eval()
    for parameter in model.text_encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    store = encoded_gallery(model)
    assert_same(rerank(model, store, random_captions(), random_similarity(), top_k=4), plain_scores(model, store, 4))


def test_no_layer_looks_at_the_image():
    model = tiny_model("vit").eval()
    model.text_encoder = TextEncoder(BERT, image_width=16, fusion_layer=4, full_cross_attention=False).eval()
    scores = rerank(model, encoded_gallery(model), random_captions(), random_similarity(), top_k=NUM_IMAGES)
    assert (scores == scores[:, :1]).all()
    assert len(scores[:, 0].unique()) > 10


def test_float64_agrees_to_its_last_digits():
    """So what differs in float32 is rounding, not another computation."""
    model = tiny_model("vim").eval().double()
    store, texts = encoded_gallery(model), random_captions()
    text, image = torch.arange(NUM_QUERIES).repeat(2), torch.arange(2 * NUM_QUERIES) % NUM_IMAGES
    with torch.inference_mode():
        tokens = store.read(torch.arange(NUM_IMAGES))
        scorer = model.pair_scorer()
        states = scorer.text_states(texts)
        scores = scorer.scores(states, list(scorer.keys_values(tokens)), PackedPairs(states, text, image))
        for row, (t, i) in enumerate(zip(text.tolist(), image.tolist(), strict=True)):
            single = model.match(texts[t][None], torch.ones(1, len(texts[t]), dtype=torch.long), tokens[i, None])
            torch.testing.assert_close(scores[row], single[0], rtol=0, atol=1e-12)


def test_bf16_is_near(model):
    plain = plain_scores(model, encoded_gallery(model), 6)
    with autocast(CPU, "bf16"):
        store = encoded_gallery(model)
        scores = rerank(model, store, random_captions(), random_similarity(), top_k=6)
    assert store.dtype == torch.bfloat16
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, plain, rtol=0, atol=0.02)


def test_parts_of_the_gallery_add_up(model):
    """Each of several processes holds some images; the last of these holds none."""
    whole, tokens = encoded_gallery(model), encoded_gallery(model).read(torch.arange(NUM_IMAGES))
    parts, first = [], 0
    for size in (4, 5, 0):
        store = TokenStore(size, CPU)
        if size:
            store.append(tokens[first : first + size])
        parts.append(rerank(model, store, random_captions(), random_similarity(), first_image=first, top_k=5))
        first += size
    together = torch.stack(parts)
    assert ((together > -torch.inf).sum(dim=0) <= 1).all()  # no pair twice
    assert_same(together.amax(dim=0), rerank(model, whole, random_captions(), random_similarity(), top_k=5))


def test_no_candidates():
    model = tiny_model("vit").eval()
    assert (rerank(model, encoded_gallery(model), random_captions(), random_similarity(), top_k=0) == -torch.inf).all()


def test_candidates_that_tie_are_cut_off_in_gallery_order():
    rows = torch.tensor([[0.1, 0.5, 0.5, 0.5, 0.9, 0.5], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
    assert [set(row.tolist()) for row in top_candidates(rows, 3)] == [{4, 1, 2}, {0, 1, 2}]
    assert top_candidates(rows, 99).sort(dim=1).values.tolist() == [[0, 1, 2, 3, 4, 5]] * 2


def test_candidates_are_found_a_few_texts_at_a_time(monkeypatch):
    """Beside a large similarity matrix there is no room for anything of its size."""
    rows = torch.randint(0, 9, (13, 20), generator=torch.Generator().manual_seed(0)).float()
    whole, seen = top_candidates(rows, 4), []
    topk = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda x, *args, **keys: seen.append(len(x)) or topk(x, *args, **keys))
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 5)
    assert torch.equal(top_candidates(rows, 4), whole)
    assert seen == [5, 5, 3]


def test_work_is_cut_to_a_budget():
    costs = torch.tensor([3, 3, 4, 11, 1, 9, 1])
    assert [costs[part].tolist() for part in cut(costs, 10)] == [[3, 3, 4], [11], [1, 9], [1]]
    assert list(cut(torch.empty(0), 10)) == []


def test_the_budget_follows_the_free_memory(monkeypatch):
    def budget(free: int) -> Budget:
        monkeypatch.setattr(module, "available_bytes", lambda _: free)
        return budget_of(BERT, 4, torch.Size([577, 768]), torch.float32, CPU)

    assert budget(0) == Budget(1, 1)
    small, large = budget(2**25), budget(2**40)
    assert 1 < small.images < large.images
    assert 1 < small.tokens < large.tokens
    assert large.images * 577 * (768 + 4 * 2 * 16) * 4 <= 2**30
