"""Scoring a gallery: precision, mode of the model, shares of several processes."""

import pytest
import torch

from dataset.build import eval_loaders_of
from dataset.tokenizer import load_tokenizer
from models.build import build_model
from utils.distributed import Process, start
from utils.metrics import rank_gallery
from utils.retrieval import Scores, measure, measure_similarity, score_gallery


@pytest.fixture
def score(debug_config):
    """score_gallery on the test split of the tiny benchmark with a random model."""
    config = debug_config()
    loaders = eval_loaders_of(config, load_tokenizer(config.model.text_encoder.name), start(), "test")
    torch.manual_seed(0)
    model = build_model(config)

    def run(process=None, *, precision="fp32", top_k=3, training=True):
        model.train(training)
        scores = score_gallery(
            model,
            loaders.gallery,
            loaders.captions,
            process=process or start(),
            precision=precision,
            rerank_top_k=top_k,
        )
        assert model.training == training
        return scores

    return run


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_are_float32_in_any_precision(score, precision):
    scores = score(precision=precision)
    assert scores.similarity.dtype == scores.matching.dtype == torch.float32
    # bf16 has 8 bits: were the products in it, hardly any two of 128 similarities would differ
    assert len(scores.similarity.unique()) > 100
    torch.testing.assert_close(scores.similarity, score().similarity, rtol=0, atol=0.05)


def test_processes_share_the_captions(score):
    whole = score()
    parts = [score(Process(rank, 3, rank, torch.device("cpu"))) for rank in range(3)]
    reranked = torch.stack([part.matching > -torch.inf for part in parts])
    assert (reranked.sum(dim=0) <= 1).all()  # no pair twice
    together = torch.stack([part.matching for part in parts]).amax(dim=0)
    torch.testing.assert_close(together, whole.matching, rtol=0, atol=1e-5)
    assert all(torch.equal(part.similarity, whole.similarity) for part in parts)


def test_more_processes_than_captions(score):
    assert (score(Process(17, 18, 17, torch.device("cpu"))).matching == -torch.inf).all()


def test_no_reranking_leaves_the_order_of_similarity(score):
    scores = score(top_k=0, training=False)
    assert (scores.matching == -torch.inf).all()
    assert measure(scores, "similarity") == measure_similarity(scores)


def test_measures_of_a_small_case():
    """Similarity puts the right image second; re-ranking of two puts it first."""
    scores = Scores(
        similarity=torch.tensor([[0.9, 0.8, 0.1]]),
        matching=torch.tensor([[0.0, 1.0, -torch.inf]]),
        text_person_id=torch.tensor([7]),
        image_person_id=torch.tensor([5, 7, 7]),
        seconds={},
    )
    assert rank_gallery(scores.similarity, scores.matching).tolist() == [[1, 0, 2]]
    measured = measure(scores, "similarity")
    assert (measured.R1, measured.R5) == (100, 100)
    assert measured.mAP == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert measure_similarity(scores).R1 == 0
    assert measure_similarity(scores).mINP == pytest.approx(100 * 2 / 3)
