"""One round of relevance feedback: the first three results are marked by the truth, and the rest is ranked again.

Rows say how well the images that were not marked are ranked: R@1, mAP, and R@1 where none of the three was right.
"""

from collections.abc import Callable

import numpy as np
from sklearn.linear_model import LogisticRegression

from bench.query_gallery import SEED, Drawn, average_precision, first
from bench.rows import Rows
from gallery.encoding.chunks import no_chunks

CAPTIONS, MARKS = 400, 3
RANDOM_OTHERS = 100  # images that logistic regression takes as wrong besides those marked
Rescore = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # query, liked, disliked, all -> (N,)


def rocchio(liked_weight: float, disliked_weight: float) -> Rescore:
    def rescore(query: np.ndarray, liked: np.ndarray, disliked: np.ndarray, every: np.ndarray) -> np.ndarray:
        moved = query.copy()
        if len(liked):
            moved += liked_weight * liked.mean(axis=0)
        if len(disliked):
            moved -= disliked_weight * disliked.mean(axis=0)
        return every @ moved

    return rescore


def nearest_mark(liked_weight: float, disliked_weight: float) -> Rescore:
    """By the similarity of the nearest mark instead of the mean."""

    def rescore(query: np.ndarray, liked: np.ndarray, disliked: np.ndarray, every: np.ndarray) -> np.ndarray:
        score = every @ query
        if len(liked):
            score = score + liked_weight * (every @ liked.T).max(axis=1)
        if len(disliked):
            score = score - disliked_weight * (every @ disliked.T).max(axis=1)
        return score

    return rescore


def regression(inverse_penalty: float, weight_of_others: float) -> Rescore:
    """Logistic regression: the query and the liked images against the disliked and random ones."""

    def rescore(query: np.ndarray, liked: np.ndarray, disliked: np.ndarray, every: np.ndarray) -> np.ndarray:
        others = every[np.random.default_rng(SEED).choice(len(every), RANDOM_OTHERS, replace=False)]
        inputs = np.concatenate([query[None], liked, disliked, others])
        label = np.arange(len(inputs)) <= len(liked)
        weight = np.r_[np.ones(1 + len(liked) + len(disliked)), np.full(len(others), weight_of_others)]
        fitted = LogisticRegression(C=inverse_penalty).fit(inputs, label, sample_weight=weight)
        return every @ fitted.coef_[0].astype(np.float32)

    return rescore


WAYS: dict[str, Rescore] = {
    "none": lambda query, liked, disliked, every: every @ query,
    **{
        f"Rocchio {right} {wrong}": rocchio(right, wrong)
        for right in (0.5, 1.0, 2.0)
        for wrong in (0.0, 0.1, 0.25, 0.5)
    },
    "nearest mark 1 0.25": nearest_mark(1.0, 0.25),
    "nearest mark 2 0": nearest_mark(2.0, 0.0),
    "regression C 1": regression(1.0, 1.0),
    "regression C 10": regression(10.0, 1.0),
    "regression C 10, others 0.1": regression(10.0, 0.1),
}


def bench(drawn: Drawn, people: dict[int, dict[str, str]]) -> None:
    captions = drawn.captions(CAPTIONS)
    queries = drawn.embed([caption.text for caption in captions])
    rows = Rows({"fast": 28}, ("R@1", "mAP", "R@1, no right", "R@1, a right"), title="feedback, %", width=7)
    for name, rescore in WAYS.items():
        found = []
        for query, caption in zip(queries, captions, strict=True):
            right = drawn.person_id == caption.person_id
            marked = first(drawn.vectors @ query, MARKS)
            liked, disliked = drawn.vectors[marked[right[marked]]], drawn.vectors[marked[~right[marked]]]
            found.append((_ranked(rescore(query, liked, disliked, drawn.vectors), marked, right), len(liked) > 0))
        rows.add(name, *_cells(found))
    top_k = drawn.encoder.config.eval.rerank_top_k
    if top_k:
        _bench_exact(drawn, top_k)


def _bench_exact(drawn: Drawn, top_k: int) -> None:
    """The matching head's logit plus a weight times how much the marks raised the similarity, or without the head."""
    captions = drawn.captions(CAPTIONS // 2)
    rows = Rows(
        {"exact": 28}, ("R@1", "mAP", "R@1, no right", "R@1, a right"), title=f"feedback, first {top_k}", width=7
    )
    ways = {
        "none": 0.0,
        "logit + 5 change": 5.0,
        "logit + 10 change": 10.0,
        "logit + 20 change": 20.0,
        "moved only": None,
    }
    found: dict[str, list] = {name: [] for name in ways}
    for caption, sentence in zip(captions, drawn.sentences([caption.text for caption in captions]), strict=True):
        right = drawn.person_id == caption.person_id
        similarity = drawn.vectors @ sentence.vector
        before = first(similarity, top_k)
        logits = np.full(len(right), -np.inf)
        logits[before] = drawn.match(sentence, no_chunks(sentence.encoded), before)[0]
        marked = first(logits, MARKS)
        liked, disliked = drawn.vectors[marked[right[marked]]], drawn.vectors[marked[~right[marked]]]
        moved = rocchio(1.0, 0.1)(sentence.vector, liked, disliked, drawn.vectors)
        after = first(moved, top_k)
        new = np.setdiff1d(after, before)
        if len(new):
            logits[new] = drawn.match(sentence, no_chunks(sentence.encoded), new)[0]
        for name, weight in ways.items():
            score = 1e-3 * similarity - 1e3
            if name == "none":
                score[before] = logits[before]
            else:
                score = 1e-3 * moved - 1e3
                score[after] = moved[after] if weight is None else logits[after] + weight * (moved - similarity)[after]
            found[name].append((_ranked(score, marked, right), len(liked) > 0))
    for name in ways:
        rows.add(name, *_cells(found[name]))


def _ranked(score: np.ndarray, marked: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether each image that was not marked is right, best first."""
    order = first(score, len(score))
    return right[order[~np.isin(order, marked)]]


def _cells(found: list[tuple[np.ndarray, bool]]) -> list[str]:
    usable = [(ranked, liked) for ranked, liked in found if ranked.any()]
    some = [ranked[0] for ranked, liked in usable if liked]
    none = [ranked[0] for ranked, liked in usable if not liked]
    values = [np.mean([ranked[0] for ranked, _ in usable]), np.mean([average_precision(r) for r, _ in usable])]
    return [f"{100 * float(value):.1f}" for value in (*values, np.mean(none), np.mean(some))]
