"""Learn on the val split when nothing matches. T captions, I images, k images re-ranked.

Every caption is searched twice: with its person in the gallery, and with that person's images left out. The two best
scores are one example each of "present" and "absent". A logistic regression separates them; its quality is measured on
people who were not used to fit it. The words of the training captions that no dictionary has are noted beside it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.captions import clean_caption
from dataset.run_loaders import eval_loaders_of, split_records
from evaluation.retrieval import Scores, score_gallery
from gallery.encoding.checkpoints import config_of, stamp_of
from gallery.encoding.encoder import Encoder
from gallery.search.calibration import Calibration, OrderCalibration
from gallery.search.words import learned_words
from utils.config import Config
from utils.distributed import Process
from utils.errors import UserError

THRESHOLD = 0.5  # of the probability: there are as many present as absent examples
HALVINGS = 20
NEWTON_STEPS = 50
RIDGE = 1e-3  # on the slope, per example: keeps it finite if the two kinds do not overlap


class BestScores(NamedTuple):
    """The score of each caption's best hit (T,), with its person in the gallery and without."""

    present: np.ndarray
    absent: np.ndarray


def calibrate(checkpoint: Path, config_path: Path | None, root: Path | None, process: Process) -> Calibration:
    """Score the val split of the checkpoint's data set and fit. Every process of a run must call this.

    root: folder of the data set; None = the one in the configuration.
    Raises: UserError if the checkpoint, its configuration or the data set is missing, or if val has fewer than four
        people.
    """
    config = config_of(checkpoint, config_path)
    if root is not None:
        config = replace(config, dataset=replace(config.dataset, root=str(root)))
    encoder = Encoder(checkpoint, config, process.device)
    loaders = eval_loaders_of(config, encoder.tokenizer, process, "val")
    image_person_id = loaders.sets.gallery.person_id
    images_per_person = int(image_person_id.unique(return_counts=True)[1].max())
    top_k = config.eval.rerank_top_k
    scores = score_gallery(
        encoder.model,
        loaders.gallery,
        loaders.captions,
        process=process,
        precision=config.train.precision,
        rerank_top_k=top_k + images_per_person if top_k else 0,  # k are left when one person is left out
        rerank_similarity=config.eval.rerank_similarity,
    )
    people = scores.text_person_id.numpy()
    return Calibration(
        checkpoint_sha256=stamp_of(checkpoint).sha256,
        split="val",
        num_captions=len(people),
        num_images=len(scores.image_person_id),
        fast=fit(best_scores(scores, 0), people),
        exact=fit(best_scores(scores, top_k), people) if top_k else None,
        learned_words=learned_words(_training_captions(config)),
    )


def _training_captions(config: Config) -> Iterator[str]:
    for record in split_records(config, "train"):
        for caption in record.captions:
            yield clean_caption(caption, config.dataset.max_words)


def best_scores(scores: Scores, top_k: int) -> BestScores:
    """Best matching score among the top_k most similar images; top_k 0 = best similarity among all images.

    A caption gets nan if its person has no image, or if nobody else has one.
    """
    similarity = scores.similarity.numpy().astype(np.float64)
    own = scores.text_person_id.numpy()[:, None] == scores.image_person_id.numpy()
    present = _best(similarity, scores.matching.numpy(), top_k)
    absent = _best(np.where(own, -np.inf, similarity), scores.matching.numpy(), top_k)
    usable = own.any(axis=1) & ~own.all(axis=1)
    return BestScores(np.where(usable, present, np.nan), np.where(usable, absent, np.nan))


def _best(similarity: np.ndarray, matching: np.ndarray, top_k: int) -> np.ndarray:
    """(T,); an image of similarity -inf counts as absent from the gallery."""
    if top_k == 0:
        return similarity.max(axis=1)
    first = np.argsort(-similarity, axis=1, kind="stable")[:, :top_k]
    candidates = np.take_along_axis(matching, first, axis=1)
    return np.where(np.isfinite(np.take_along_axis(similarity, first, axis=1)), candidates, -np.inf).max(axis=1)


def fit(best: BestScores, person_id: np.ndarray) -> OrderCalibration:
    """Fit on all people. The quality is the mean over fits on a random half of them, measured on the other half.

    person_id: of the captions (T,).
    Raises: UserError if there are fewer than four people.
    """
    usable = np.isfinite(best.present)
    people = np.unique(person_id[usable])
    if len(people) < 4:
        raise UserError(f"val has {len(people)} people with images; a calibration needs four at least")
    random, measured = np.random.default_rng(0), []
    for _ in range(HALVINGS):
        half = np.isin(person_id, random.permutation(people)[::2])
        slope, intercept = logistic_regression(*_examples(best, usable & half))
        score, label = _examples(best, usable & ~half)
        correct = balanced_accuracy(slope * score + intercept >= 0, label)
        measured.append((area_under_curve(score, label), correct))
    slope, intercept = logistic_regression(*_examples(best, usable))
    auc, correct = np.mean(measured, axis=0).tolist()
    return OrderCalibration(slope=slope, intercept=intercept, threshold=THRESHOLD, auc=auc, balanced_accuracy=correct)


def _examples(best: BestScores, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of the chosen captions: first all present, then all absent."""
    score = np.concatenate([best.present[chosen], best.absent[chosen]])
    return score, np.repeat([True, False], int(chosen.sum()))


def logistic_regression(score: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Fit P(label) = sigmoid(slope * score + intercept) by Newton's method; score and label (n,)."""
    mean, std = float(score.mean()), max(float(score.std()), 1e-12)
    inputs = np.stack([(score - mean) / std, np.ones_like(score)], axis=1)
    weights = np.zeros(2)
    ridge = np.diag([RIDGE * len(score), 0])
    for _ in range(NEWTON_STEPS):
        probability = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (probability - label) + ridge @ weights
        curvature = (inputs * (probability * (1 - probability))[:, None]).T @ inputs + ridge
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    return float(weights[0] / std), float(weights[1] - weights[0] * mean / std)


def area_under_curve(score: np.ndarray, label: np.ndarray) -> float:
    """Probability that a score of label True exceeds one of label False; ties count half."""
    order = np.sort(score[~label])
    below = np.searchsorted(order, score[label], side="left")
    not_above = np.searchsorted(order, score[label], side="right")
    return float((below + not_above).mean() / (2 * len(order)))


def balanced_accuracy(predicted: np.ndarray, label: np.ndarray) -> float:
    """Mean of the shares of both kinds that are predicted correctly."""
    return float((predicted[label].mean() + (~predicted[~label]).mean()) / 2)
