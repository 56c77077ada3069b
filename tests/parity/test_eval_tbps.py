"""MAMBA-TBPS's evaluation of a whole model in memory: tokens, embeddings, similarity, re-ranked scores, measures.

Its image side differs from ours on purpose (docs/checkpoints.md): the first patch's token is taken for the class token.
So its image tokens are fed: the stored ones (float32), and in float64 those of our encoder put back in scan order. The
weights go through a checkpoint file in its names, which moves the position rows. Measured: largest deviation in float32
2.1e-7 of similarity, 2.3e-6 of scores.
"""

import pytest
import torch
from torch.nn import functional as F

from evaluation.metrics import rank_gallery, retrieval_metrics
from models.weights import initialise
from tests.helpers.published_systems import build_system, save_published
from tests.helpers.vectors import load_case, starting_with

F64 = {"rtol": 1e-8, "atol": 1e-8}
F32 = {"rtol": 1e-4, "atol": 1e-4}
ALL_TASKS = frozenset({"itc", "itm", "prd", "mrtd", "mlm", "mae", "attribute"})


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    description, tensors = load_case("eval_tbps/tbps_full_ca")
    path = save_published(starting_with(tensors, "w."), tmp_path_factory.mktemp("tbps") / "tbps.pth")
    return description, tensors, path


def load(description, path, dtype):
    model = build_system(description, "vim", ALL_TASKS).to(dtype)
    report = initialise(model, path)
    assert report.kind == "MAMBA-TBPS"
    assert report.new == []
    return model


def in_scan_order(features):
    middle = features.patches.shape[1] // 2
    parts = [features.patches[:, :middle], features.pooled[:, None], features.patches[:, middle:]]
    return torch.cat(parts, dim=1)


def evaluate(model, tensors, tokens):
    """Similarity and matching scores (texts x images), given image tokens whose first is the class token."""
    ids, mask = tensors["input_ids"], tensors["attention_mask"]
    embedding = F.normalize(model.vision_proj(tokens[:, 0]), dim=-1)
    similarity = model.encode_text(ids, mask)[1] @ embedding.T
    scores = [model.match(ids[[n] * len(tokens)], mask[[n] * len(tokens)], tokens) for n in range(len(ids))]
    return similarity, torch.stack(scores)


@torch.no_grad()
def test_stored_tokens_in_float32(case):
    description, tensors, path = case
    similarity, scores = evaluate(load(description, path, torch.float32), tensors, tensors["image_feats"])
    torch.testing.assert_close(similarity, tensors["sims_matrix"], **F32)
    torch.testing.assert_close(scores, tensors["score_matrix_t2i_full"], **F32)
    order = rank_gallery(similarity, scores, "similarity")
    measured = retrieval_metrics(order, tensors["txt2person"], tensors["img2person"])
    values = {"r1": measured.R1, "r5": measured.R5, "r10": measured.R10, "mAP": measured.mAP}
    assert values == pytest.approx({name: description["itm_eval_k_full"][name] for name in values}, abs=1e-4)


@torch.no_grad()
def test_own_tokens_in_float64(case):
    description, tensors, path = case
    model = load(description, path, torch.float64)
    similarity, scores = evaluate(model, tensors, in_scan_order(model.image_encoder(tensors["images"].double())))
    torch.testing.assert_close(similarity, tensors["f64.sims_matrix"], **F64)
    torch.testing.assert_close(scores, tensors["f64.score_matrix_t2i_full"], **F64)
