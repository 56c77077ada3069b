"""From the best score to a probability: statistics against values known by hand, scores against plain loops."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from evaluation.retrieval import Scores
from gallery.search.calibrate import (
    BestScores,
    area_under_curve,
    balanced_accuracy,
    best_scores,
    fit,
    logistic_regression,
)
from gallery.search.calibration import (
    Calibration,
    OrderCalibration,
    calibration_beside,
    calibration_from,
    calibration_path,
)
from utils.errors import UserError


def test_area_under_curve_counts_pairs():
    score = np.array([3.0, 1.0, 2.0, 2.0, 0.0])
    label = np.array([True, True, True, False, False])
    # pairs won: 3 > 2, 3 > 0, 1 > 0, 2 > 0; 2 = 2 counts half; 1 < 2 is lost
    assert area_under_curve(score, label) == pytest.approx(4.5 / 6)


def test_logistic_regression_finds_the_curve_that_labels_were_drawn_from():
    random = np.random.default_rng(0)
    score = random.normal(3, 2, 20000)
    label = random.random(20000) < 1 / (1 + np.exp(-(1.5 * score - 4)))
    slope, intercept = logistic_regression(score, label)
    assert slope == pytest.approx(1.5, abs=0.08)
    assert intercept == pytest.approx(-4, abs=0.2)


def test_logistic_regression_stays_finite_where_the_kinds_do_not_overlap():
    slope, intercept = logistic_regression(np.array([0.0, 1.0, 10.0, 11.0]), np.array([False, False, True, True]))
    assert 0 < slope < 100
    assert -intercept / slope == pytest.approx(5.5, abs=0.01)


def test_balanced_accuracy_weighs_both_kinds_alike():
    label = np.array([True, False, False, False])
    assert balanced_accuracy(np.array([True, True, False, False]), label) == pytest.approx((1 + 2 / 3) / 2)
    assert balanced_accuracy(np.zeros(4, bool), label) == 0.5


@pytest.mark.parametrize("top_k", [0, 2, 50])
def test_best_scores_with_and_without_the_person(top_k):
    torch.manual_seed(0)
    texts, images = torch.tensor([1, 2, 3, 9]), torch.tensor([1, 1, 2, 3, 3, 2, 4])
    scores = Scores(torch.rand(4, 7), torch.randn(4, 7), texts, images, {})
    best = best_scores(scores, top_k)
    for row, person in enumerate(texts.tolist()):
        for taken_out, found in ((False, best.present[row]), (True, best.absent[row])):
            there = [n for n in range(7) if not (taken_out and images[n] == person)]
            there.sort(key=lambda n, row=row: -float(scores.similarity[row, n]))
            kept = [scores.matching[row, n] for n in there[:top_k]] if top_k else [scores.similarity[row, there[0]]]
            if person == 9:  # of whom there is no image at all
                assert np.isnan(found)
            else:
                assert found == pytest.approx(float(max(kept)))


def test_fit_measures_on_people_it_has_not_seen():
    random = np.random.default_rng(1)
    people = np.repeat(np.arange(200), 2)
    fitted = fit(BestScores(random.normal(2, 1, 400), random.normal(0, 1, 400)), people)
    assert fitted.auc == pytest.approx(0.921, abs=0.03)  # two normals 2 deviations apart: Phi(sqrt(2))
    assert fitted.balanced_accuracy == pytest.approx(0.841, abs=0.04)  # Phi(1)
    assert fitted.probability(1.0) == pytest.approx(0.5, abs=0.1)
    assert fitted.probability(-1e9) == pytest.approx(0)
    assert fitted.probability(1e9) == pytest.approx(1)
    noise = fit(BestScores(random.normal(0, 1, 400), random.normal(0, 1, 400)), people)
    assert noise.auc == pytest.approx(0.5, abs=0.1)
    with pytest.raises(UserError, match="needs four at least"):
        fit(BestScores(np.ones(4), np.zeros(4)), np.array([1, 1, 2, 3]))


def test_the_file_beside_the_checkpoint(tmp_path):
    checkpoint = tmp_path / "best.pth"
    order = OrderCalibration(slope=1.0, intercept=0.0, threshold=0.5, auc=0.9, balanced_accuracy=0.8)
    calibration = Calibration(
        checkpoint_sha256="abc", split="val", num_captions=4, num_images=5, fast=order, exact=None
    )
    assert calibration_beside(checkpoint, "abc") is None
    calibration_path(checkpoint).write_text(json.dumps(asdict(calibration)))
    calibration_path(tmp_path / "last.pth").write_text("{}")  # of another checkpoint of the same run
    found = calibration_beside(checkpoint, "abc")
    assert found is not None
    assert calibration_from(found) == calibration
    del found["learned_words"]  # a file of an earlier version
    assert calibration_from(found) == calibration
    assert calibration_beside(checkpoint, "of other weights") is None
    calibration_path(checkpoint).write_text('{"fast": 1}')
    with pytest.raises(UserError, match=r"best\.calibration\.json is damaged"):
        calibration_beside(checkpoint, "abc")
