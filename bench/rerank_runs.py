"""Both ways of re-ranking one gallery: timed in turns, compared pair by pair and by their measures."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from bench.plain_rerank import plain_rerank
from bench.rerank_cases import MAX_WORDS, RerankCase, people_of
from evaluation.bootstrap import confidence_intervals
from evaluation.metrics import measure_queries, percentages
from evaluation.rerank import rerank, top_candidates
from evaluation.token_store import TokenStore
from models.person_search import PersonSearchModel
from utils.precision import autocast, best_precision

FP32_LIMIT, AUTO_LIMIT = 1e-4, 0.02  # largest difference allowed between a score and the plain loop's
TURNS = 3
FEW_IMAGES = 16  # compared in a precision that the device has no hardware for


class RerankRun(NamedTuple):
    scores: Tensor  # (T, I), -inf where not scored
    seconds: float  # of all turns

    @property
    def pairs(self) -> int:
        return int((self.scores > -torch.inf).sum())

    @property
    def pairs_per_second(self) -> float:
        return self.pairs / self.seconds


class Timed(NamedTuple):
    run: RerankRun
    pairs_per_second: float  # in the fastest turn


class Agreement(NamedTuple):
    """Our scores against the plain loop's, on the pairs that both scored."""

    precision: str
    pairs: int
    difference: float  # the largest
    same_order: bool


class Measured(NamedTuple):
    """R@1, R@5 and R@10 in percent, with their 95 % intervals over the captions."""

    values: list[float]
    intervals: list[tuple[float, float]]

    def is_within(self, plain: "Measured") -> bool:
        ends = zip(self.values, plain.intervals, strict=True)
        return all(low <= value <= high for value, (low, high) in ends)


def run_plain(model: PersonSearchModel, case: RerankCase, top_k: int) -> RerankRun:
    candidates = top_candidates(case.similarity, top_k)
    begin = now(model)
    scores = plain_rerank(model, case.tokens, case.texts, candidates, max_words=MAX_WORDS)
    seconds = now(model) - begin
    return RerankRun(torch.full_like(case.similarity, -torch.inf).scatter(1, candidates, scores), seconds)


def run_ours(
    model: PersonSearchModel, case: RerankCase, top_k: int, precision: str, images: slice = slice(None)
) -> RerankRun:
    """Score all pairs of some images, as one of several processes does. Storing their tokens is not timed."""
    device, own = model.itm_head.weight.device, case.tokens[images]
    with autocast(device, precision):
        store = TokenStore(len(own), device)
        store.append(own.to(device))
        begin = now(model)
        scores = rerank(model, store, case.texts, case.similarity, first_image=images.start or 0, top_k=top_k)
    return RerankRun(scores, now(model) - begin)


def time_in_turns(
    model: PersonSearchModel,
    case: RerankCase,
    top_k: int,
    *,
    plain_queries: int,
    images: int,
    show: Callable[[str, RerankRun], object] = lambda name, run: None,
) -> dict[str, Timed]:
    """Time the plain loop on some captions and ours on some images, in turns: by "plain" and by our precisions.

    Each turn does a part of both, so that a slow spell of a shared machine hits both, and the fastest turn counts. The
    warm-up on a GPU is the whole work of a turn, as its libraries tune themselves to the shapes. On a CPU, where a turn
    takes long, it is a few pairs. show: called after each turn of each way.
    """
    kind = model.itm_head.weight.device.type
    precisions = dict.fromkeys(["fp32", best_precision(kind), *(["bf16"] if kind == "cuda" else [])])
    asked = case._replace(texts=case.texts[:plain_queries], similarity=case.similarity[:plain_queries])
    parts: dict[str, list[RerankRun]] = {"plain": [], **{precision: [] for precision in precisions}}
    number = min(TURNS, plain_queries, images)
    turns = list(zip(_cut(plain_queries, number), _cut(images, number), strict=True))
    few = RerankCase(case.tokens[:2], case.texts[:2], case.similarity[:2, :2])
    run_plain(model, _rows(asked, turns[0][0]) if kind == "cuda" else few, top_k)
    for precision in precisions:
        warm_up = (case, top_k, precision, turns[0][1]) if kind == "cuda" else (few, top_k, precision)
        run_ours(model, *warm_up)
    for queries, own in turns:
        run = run_plain(model, _rows(asked, queries), top_k)
        whole = torch.full_like(asked.similarity, -torch.inf)
        whole[queries] = run.scores
        parts["plain"].append(RerankRun(whole, run.seconds))
        show("plain", parts["plain"][-1])
        for precision in precisions:
            parts[precision].append(run_ours(model, case, top_k, precision, own))
            show(precision, parts[precision][-1])
    return {name: _together(runs) for name, runs in parts.items()}


def compare_scores(
    model: PersonSearchModel, case: RerankCase, top_k: int, plain: RerankRun, precisions: Iterable[str]
) -> list[Agreement]:
    """Compare ours in each precision on the captions that the plain loop has scored, the first ones of the case."""
    asked = case._replace(texts=case.texts[: len(plain.scores)], similarity=case.similarity[: len(plain.scores)])
    found = []
    for precision in precisions:
        has_units = precision in ("fp32", best_precision(model.itm_head.weight.device.type))
        own = slice(None) if has_units else slice(0, FEW_IMAGES)
        found.append(agreement(precision, run_ours(model, asked, top_k, precision, own), plain))
    return found


def agreement(precision: str, ours: RerankRun, plain: RerankRun) -> Agreement:
    both = ours.scores > -torch.inf
    assert both.any()
    assert (plain.scores[both] > -torch.inf).all()
    order, expected = (_order(run.scores.masked_fill(~both, -torch.inf)) for run in (ours, plain))
    difference = float((ours.scores - plain.scores)[both].abs().max())
    return Agreement(precision, int(both.sum()), difference, torch.equal(order, expected))


def measured(runs: dict[str, RerankRun]) -> dict[str, Measured]:
    """Measures of every run. `people_of` assigns the people by the scores of "plain"."""
    people = people_of(runs["plain"].scores)
    found = {}
    for name, run in runs.items():
        values = percentages(measure_queries(run.scores, None, *people))[:, :3].numpy()
        found[name] = Measured(values.mean(axis=0).tolist(), confidence_intervals(values))
    return found


def faults(agreements: Iterable[Agreement], measures: dict[str, Measured], auto: str) -> list[str]:
    """What is wrong, in one line each. auto: the precision that `auto` picks."""
    limits, lines = {auto: AUTO_LIMIT, "fp32": FP32_LIMIT}, []
    for precision, _, difference, same_order in agreements:
        limit = limits.get(precision, float("inf"))
        if not difference <= limit:  # NaN is a fault as well
            lines.append(f"scores in {precision} differ from plain by {difference:.1e}, more than {limit:g}")
        if precision == "fp32" and not same_order:
            lines.append("the order in fp32 is not that of plain")
    for precision in limits:
        if not measures[precision].is_within(measures["plain"]):
            lines.append(f"R@1, R@5 or R@10 in {precision} lies outside the interval of plain")
    return lines


def now(model: PersonSearchModel) -> float:
    """A clock in seconds, read after the device has finished its work."""
    device = model.itm_head.weight.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _together(parts: list[RerankRun]) -> Timed:
    whole = RerankRun(torch.stack([run.scores for run in parts]).amax(dim=0), sum(run.seconds for run in parts))
    return Timed(whole, max(run.pairs_per_second for run in parts))


def _rows(case: RerankCase, rows: slice) -> RerankCase:
    return case._replace(texts=case.texts[rows], similarity=case.similarity[rows])


def _cut(number: int, parts: int) -> list[slice]:
    return [slice(number * part // parts, number * (part + 1) // parts) for part in range(parts)]


def _order(scores: Tensor) -> Tensor:
    return scores.argsort(dim=1, descending=True, stable=True)
