"""Scoring a gallery: precision, mode of the model; several processes: test_rerank_processes.py."""

import pytest
import torch

from dataset.run_loaders import eval_loaders_of
from dataset.tokenizer import load_tokenizer
from evaluation.metrics import mean_metrics, measure_queries, rank_gallery
from evaluation.retrieval import Scores, measure, score_gallery
from models.build import build_model
from utils.distributed import start


def measure_first_stage(scores):
    people = (scores.text_person_id, scores.image_person_id)
    return mean_metrics(measure_queries(scores.similarity, None, *people))


@pytest.fixture
def score(debug_config):
    """score_gallery on the test split of the tiny benchmark with a random model."""
    config = debug_config()
    loaders = eval_loaders_of(config, load_tokenizer(config.model.text_encoder.name), start(), "test")
    torch.manual_seed(0)
    model = build_model(config)

    def run(*, precision="fp32", top_k=3, training=True):
        model.train(training)
        scores = score_gallery(
            model,
            loaders.gallery,
            loaders.captions,
            process=start(),
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


def test_no_reranking_leaves_the_order_of_similarity(score):
    scores = score(top_k=0, training=False)
    assert (scores.matching == -torch.inf).all()
    assert measure(scores, "similarity") == measure_first_stage(scores)


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
    assert measure_first_stage(scores).R1 == 0
    assert measure_first_stage(scores).mINP == pytest.approx(100 * 2 / 3)
