"""RaSa's evaluation of a whole model in memory: tokens, embeddings, similarity, re-ranked scores, measures.

The weights go through a checkpoint file in RaSa's names. float64 against float64: rtol 1e-8, atol 1e-8 (the vectors'
image tokens are float32: rtol 1e-4, atol 2e-5). Measured: largest deviation 5.8e-16 of similarity, 3.6e-15 of scores.
"""

import pytest
import torch

from evaluation.metrics import rank_gallery, retrieval_metrics
from models.weights import initialise
from tests.helpers.published_systems import build_system, save_published
from tests.helpers.vectors import load_case, starting_with

F64 = {"rtol": 1e-8, "atol": 1e-8}
F32 = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    description, tensors = load_case("eval_rasa/rasa_a")
    model = build_system(description, "vit").double()
    path = save_published(starting_with(tensors, "w."), tmp_path_factory.mktemp("rasa") / "rasa.pth")
    report = initialise(model, path)
    assert report.kind == "RaSa"
    assert report.new == []
    with torch.no_grad():
        features, image_embedding = model.encode_image(tensors["images"].double())
        _, text_embedding = model.encode_text(tensors["input_ids"], tensors["attention_mask"])
    return description, tensors, model, features, image_embedding, text_embedding


def test_features_and_similarity(case):
    _, tensors, _, features, image_embedding, text_embedding = case
    torch.testing.assert_close(features.tokens.float(), tensors["image_feats"], **F32)
    torch.testing.assert_close(image_embedding, tensors["f64.image_embeds"], **F64)
    torch.testing.assert_close(text_embedding, tensors["f64.text_embeds"], **F64)
    torch.testing.assert_close(text_embedding @ image_embedding.T, tensors["f64.sims_matrix"], **F64)


def test_matching_scores_and_measures(case):
    description, tensors, model, features, image_embedding, text_embedding = case
    ids, mask, tokens = tensors["input_ids"], tensors["attention_mask"], features.tokens
    with torch.no_grad():
        rows = [model.match(ids[[n] * len(tokens)], mask[[n] * len(tokens)], tokens) for n in range(len(ids))]
    scores = torch.stack(rows)
    torch.testing.assert_close(scores, tensors["f64.score_matrix_t2i_full"], **F64)
    order = rank_gallery(text_embedding @ image_embedding.T, scores, "similarity")
    measured = retrieval_metrics(order, tensors["txt2person"], tensors["img2person"])
    values = {"r1": measured.R1, "r5": measured.R5, "r10": measured.R10, "mAP": measured.mAP}
    assert values == pytest.approx({name: description["itm_eval_k_full"][name] for name in values}, abs=1e-4)
