"""Rankings and their measures. T texts (queries), I images (gallery). Pure functions that work in blocks of queries.

Rank-k, mAP and mINP (arXiv:2001.04193) are defined as in text-based person search: every image of the person counts as
right, and no image is left out because of its camera.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError
from utils.log import progress

Tail = Literal["similarity", "constant"]  # see rank_gallery

NOTHING_TO_MEASURE = "no query has an image of its person in the gallery; check that both are of one split"
BLOCK_ENTRIES = 2**22  # of a (queries, gallery) block; bounds the memory taken beside inputs and order


class Metrics(NamedTuple):
    """Means in percent over the queries with a right image in the gallery. The other queries are only counted."""

    R1: float  # a right image comes first
    R5: float  # one is among the first 5
    R10: float
    mAP: float  # average precision: mean, over the right images, of the precision at each one's rank
    mINP: float  # inverse negative penalty: number of right images / rank of the last of them
    num_queries: int
    num_without_match: int  # queries without any right image, which the means leave out


MEASURES = Metrics._fields[:5]
HEADERS = ("R@1", "R@5", "R@10", "mAP", "mINP")  # the same measures as tables write them


class QueryMeasures(NamedTuple):
    """Measures of each query, all (T,). Without a right image, first_rank and num_right are 0, the two measures NaN."""

    first_rank: Tensor  # int64, rank of the first right image, from 1
    num_right: Tensor  # int64, right images in the gallery
    average_precision: Tensor  # float64 in (0, 1]
    inverse_penalty: Tensor  # float64 in (0, 1]
    first_row: Tensor  # int64, gallery row that is ranked first, right or not


def rank_gallery(similarity: Tensor, scores: Tensor | None = None, tail: Tail = "similarity") -> Tensor:
    """Order the gallery for each query, best first. Ties keep the gallery's order.

    Args:
        similarity: (T, I) cosine of the embeddings.
        scores: (T, I) of the matching head, -inf where a pair was not re-ranked; None = rank by similarity alone.
        tail: order of the images that were not re-ranked, which come last: by similarity, or constant = all equal, as
            in the published evaluation.
    Returns: (T, I) int64, gallery rows.
    Raises: ValueError if tail is unknown, if shapes differ, or if a similarity or score is NaN.
    """
    _check_ranking(similarity, scores, tail)
    order = torch.empty(similarity.shape, dtype=torch.long, device=similarity.device)
    for rows in _blocks(*similarity.shape):
        order[rows] = _rank_block(similarity[rows], None if scores is None else scores[rows], tail)
    return order


def _check_ranking(similarity: Tensor, scores: Tensor | None, tail: str) -> None:
    if tail not in ("similarity", "constant"):
        raise ValueError(f'tail must be "similarity" or "constant", got {tail!r}')
    if scores is not None and scores.shape != similarity.shape:
        raise ValueError(f"scores {tuple(scores.shape)} must be shaped like similarity {tuple(similarity.shape)}")


def _rank_block(similarity: Tensor, scores: Tensor | None, tail: str) -> Tensor:
    _check_nan(similarity, scores)
    if scores is None:
        return similarity.argsort(dim=1, descending=True, stable=True)
    if tail == "constant":
        return scores.argsort(dim=1, descending=True, stable=True)
    reranked = scores > -torch.inf
    order = torch.where(reranked, scores, similarity).argsort(dim=1, descending=True, stable=True)
    # scores and similarities are not comparable: the re-ranked move to the front, and both parts keep their order
    front = reranked.gather(1, order).to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return order.gather(1, front)


def _check_nan(similarity: Tensor, scores: Tensor | None) -> None:
    if similarity.isnan().any() or (scores is not None and scores.isnan().any()):
        raise UserError("similarity or scores hold NaN, which has no rank; check the model's weights")


def retrieval_metrics(order: Tensor, query_person_id: Tensor, gallery_person_id: Tensor) -> Metrics:
    """Measure rankings: order (T, I) gallery rows, best first; query_person_id (T,); gallery_person_id (I,).

    Raises: ValueError if shapes differ; UserError if no query has a right image, so that there is nothing to average.
    """
    _check_sizes("order", order, query_person_id, gallery_person_id)
    parts = []
    for rows in _blocks(*order.shape):
        query, place = (gallery_person_id[order[rows]] == query_person_id[rows, None]).nonzero(as_tuple=True)
        parts.append(_measure_ranks(query, place + 1, order[rows, 0]))
    return mean_metrics(_joined(parts))


def measure_queries(
    similarity: Tensor,
    scores: Tensor | None,
    query_person_id: Tensor,
    gallery_person_id: Tensor,
    tail: Tail = "similarity",
) -> QueryMeasures:
    """Measure each query in the order of `rank_gallery`; arguments as there, on the CPU.

    Only the right images are ranked, by counting what comes before them. That is many times faster than the whole
    order. For image to text, exchange the two sides: similarity.T, scores.T and the person ids. The re-ranked captions
    of an image, which come first, are then those that had the image among their own first k.
    Raises: ValueError as rank_gallery does, or if the person ids do not fit.
    """
    _check_ranking(similarity, scores, tail)
    _check_sizes("similarity", similarity, query_person_id, gallery_person_id)
    parts = []
    with progress[None](len(similarity), "rank", "queries") as bar:
        for rows in _blocks(*similarity.shape):
            block = similarity[rows].contiguous(), None if scores is None else scores[rows].contiguous()
            parts.append(_measure_block(*block, query_person_id[rows], gallery_person_id, tail))
            bar.advance(len(block[0]))
    return _joined(parts)


def _measure_block(
    similarity: Tensor, scores: Tensor | None, query_person_id: Tensor, gallery_person_id: Tensor, tail: str
) -> QueryMeasures:
    _check_nan(similarity, scores)
    query, column = (query_person_id[:, None] == gallery_person_id).nonzero(as_tuple=True)  # (P,) each, right pairs
    num_right = query.bincount(minlength=len(similarity))
    columns = np.split(column.numpy(), num_right.cumsum(0)[:-1].numpy()) if len(similarity) else []
    last = similarity if scores is None or tail == "similarity" else torch.zeros_like(similarity)
    front = torch.full_like(similarity, -torch.inf) if scores is None else scores
    ranks, first_row = [], []
    for own, front_values, last_values in zip(columns, front.numpy(), last.numpy(), strict=True):
        ranks.append(_rank_right(own, front_values, last_values))
        reranked = front_values.max() > -np.inf
        first_row.append(int((front_values if reranked else last_values).argmax()))
    rank = torch.from_numpy(np.concatenate(ranks)) if ranks else column
    return _measure_ranks(query, rank, torch.tensor(first_row, dtype=torch.long))


def _rank_right(columns: np.ndarray, front: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Ranks from 1 of columns (R,) in a gallery ordered by front (I,) where that is not -inf, then by last (I,)."""
    is_front = front > -np.inf
    chosen = is_front[columns]
    ranks = np.empty(len(columns), dtype=np.int64)
    ranks[chosen] = _ranks(front, columns[chosen])
    ranks[~chosen] = _ranks(np.where(is_front, np.inf, last), columns[~chosen])
    return ranks


def _ranks(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Ranks of some columns (R,) when values (I,) are ordered from the highest down and equal ones keep their order."""
    if len(columns) == 0:
        return columns
    ascending = np.sort(values)
    begin, end = (np.searchsorted(ascending, values[columns], side) for side in ("left", "right"))
    if (end - begin > 1).any():
        rank = np.empty(len(values), dtype=np.int64)
        rank[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
        return rank[columns]
    return len(values) - end + 1


def _measure_ranks(query: Tensor, rank: Tensor, first_row: Tensor) -> QueryMeasures:
    """Measures of n queries.

    Args:
        query: (P,) query of each right image, ascending.
        rank: (P,) rank of each right image, from 1.
        first_row: (n,).
    """
    num_right = query.bincount(minlength=len(first_row))
    by_rank = (query * (int(rank.max()) + 1) + rank).argsort() if len(rank) else rank
    query, rank = query[by_rank], rank[by_rank]
    found = torch.arange(1, len(rank) + 1) - (num_right.cumsum(0) - num_right)[query]  # right images up to each
    last = torch.zeros_like(num_right).scatter_reduce_(0, query, rank, "amax")
    return QueryMeasures(
        first_rank=torch.zeros_like(last).scatter_reduce_(0, query, rank, "amin", include_self=False),
        num_right=num_right,
        average_precision=torch.zeros_like(last, dtype=torch.float64).index_add_(0, query, found / rank.double())
        / num_right,  # 0 / 0 = NaN without a right image
        inverse_penalty=num_right / last.double(),
        first_row=first_row,
    )


def percentages(measures: QueryMeasures) -> Tensor:
    """R1, R5, R10, AP and INP in percent of the M queries that have a right image: (M, 5) float64.

    Raises: UserError if there is none.
    """
    matched = measures.first_rank > 0
    if not matched.any():
        raise UserError(NOTHING_TO_MEASURE)
    hits = [(measures.first_rank <= k).double() for k in (1, 5, 10)]
    return 100 * torch.stack([*hits, measures.average_precision, measures.inverse_penalty], dim=1)[matched]


def mean_metrics(measures: QueryMeasures) -> Metrics:
    """Means over the queries that have a right image. Raises: UserError if there is none."""
    values = percentages(measures)
    r1, r5, r10, mean_ap, mean_inp = values.mean(dim=0).tolist()
    num_queries = len(measures.first_rank)
    return Metrics(r1, r5, r10, mean_ap, mean_inp, num_queries, num_queries - len(values))


def _joined(parts: list[QueryMeasures]) -> QueryMeasures:
    return QueryMeasures(*(torch.cat(field) for field in zip(*parts, strict=True)))


def _check_sizes(name: str, matrix: Tensor, query_person_id: Tensor, gallery_person_id: Tensor) -> None:
    if matrix.shape != (len(query_person_id), len(gallery_person_id)):
        sizes = f"{len(query_person_id)} queries and {len(gallery_person_id)} images"
        raise ValueError(f"{name} {tuple(matrix.shape)} does not fit {sizes}")


def chance_level(query_person_id: Tensor, gallery_person_id: Tensor) -> Metrics:
    """Expected measures of a random order of the gallery, computed rather than drawn.

    Raises: UserError if no query has a right image.
    """
    right_of = Counter(gallery_person_id.tolist())
    queries_of = Counter(right_of[person] for person in query_person_id.tolist())  # by number of right images
    without_match = queries_of.pop(0, 0)
    if not queries_of:
        raise UserError(NOTHING_TO_MEASURE)
    num_queries = torch.tensor(list(queries_of.values()), dtype=torch.float64)
    expected = torch.stack([_expected_measures(right, len(gallery_person_id)) for right in queries_of])
    r1, r5, r10, mean_ap, mean_inp = (100 * num_queries @ expected / num_queries.sum()).tolist()
    return Metrics(r1, r5, r10, mean_ap, mean_inp, len(query_person_id), without_match)


def _expected_measures(num_right: int, size: int) -> Tensor:
    """Expected R1, R5, R10, AP and INP in [0, 1] of one query: num_right right images among size in random order."""
    rank = torch.arange(1, size + 1, dtype=torch.float64)
    missed = ((size - num_right - rank + 1).clamp(min=0) / (size - rank + 1)).cumprod(0)  # none up to each rank
    harmonic = (1 / rank).sum()
    # before a right image stands a random share of the other right ones
    precision = (harmonic + (num_right - 1) / max(1, size - 1) * (size - harmonic)) / size
    first = -missed.diff(prepend=torch.ones(1, dtype=torch.float64))  # chance of each rank to be the first right one,
    penalty = (first * num_right / (size - rank + 1)).sum()  # which is, from the other end, that of the last right one
    return torch.stack([*(1 - missed[min(k, size) - 1] for k in (1, 5, 10)), precision, penalty])


def _blocks(num_queries: int, gallery_size: int) -> Iterator[slice]:
    step = max(1, BLOCK_ENTRIES // max(1, gallery_size))
    # without a query there is one empty block
    return (slice(start, start + step) for start in range(0, max(1, num_queries), step))
