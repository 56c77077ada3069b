"""Scoring a gallery: precision, mode of the model; several processes: test_rerank_processes.py."""

import pytest
import torch
from torch.utils.data import DataLoader

import dataset.texts
from dataset.batches import CaptionBatch, collate
from dataset.run_loaders import eval_loaders_of
from dataset.texts import Texts
from dataset.tokenizer import load_tokenizer
from evaluation import retrieval
from evaluation.metrics import mean_metrics, measure_queries, rank_gallery
from evaluation.retrieval import Scores, embed_captions, measure, score_gallery
from models.build import build_model
from tests.helpers.reranking import random_captions
from tests.helpers.tiny_models import BERT, tiny_model
from utils.cuda_graphs import shapes_of
from utils.distributed import start

CPU = torch.device("cpu")


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

    def run(*, precision="fp32", top_k=3, training=True, rerank_similarity=0.0):
        model.train(training)
        scores = score_gallery(
            model,
            loaders.gallery,
            loaders.captions,
            process=start(),
            precision=precision,
            rerank_top_k=top_k,
            rerank_similarity=rerank_similarity,
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


def test_the_similarity_may_count_among_the_re_ranked(score):
    alone, both = score(training=False), score(training=False, rerank_similarity=0.5)
    is_reranked = alone.matching > -torch.inf
    assert torch.equal(both.matching > -torch.inf, is_reranked)
    temperature = 0.07  # of the debug configuration, not trained
    expected = alone.matching + 0.5 * alone.similarity / temperature
    torch.testing.assert_close(both.matching[is_reranked], expected[is_reranked])


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


def test_captions_of_any_length_have_their_embeddings_from_a_few_sets_of_shapes(monkeypatch):
    """As on a GPU: padded to a multiple of 16 tokens, and counted in eighths of that."""
    model, captions = tiny_model("vit").eval(), random_captions()
    texts = [Texts(ids, torch.ones_like(ids), torch.zeros_like(ids)) for ids in captions]
    rows = [CaptionBatch(text, torch.tensor(number)) for number, text in enumerate(texts)]
    batches = DataLoader(rows, batch_size=2, collate_fn=collate)
    expected = embed_captions(model, batches, CPU)
    shapes = []

    def watched(name, batches, device):
        assert name == "encoding captions"
        return lambda function, *inputs: shapes.append(shapes_of(inputs)) or function(*inputs)

    monkeypatch.setattr(dataset.texts, "COUNTING_IS_FREE", frozenset())
    monkeypatch.setattr(retrieval, "_run_by", watched)
    found = embed_captions(model, batches, CPU)
    assert [ids.tolist() for ids in found.input_ids] == [ids.tolist() for ids in captions]
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=0, atol=1e-6)
    assert {ids[:2] for ids, _, _ in shapes} == {(2, 16), (2, BERT.max_position_embeddings)}
    assert {bound % 4 for (_, length, _), _, bound in shapes if length == 16} == {0}
