"""Rankings and their measures: T texts (queries), I images (gallery). Pure functions, working in blocks of queries.

Rank-k, mAP and mINP (arXiv:2001.04193) as text-based person search uses them: all images of a person count
as right, and no image is left out for its camera.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from utils.errors import UserError

CHANCE_ENTRIES = 2**22  # of all random orders together; a large gallery has a steady mean with one order
BLOCK_ENTRIES = 2**22  # of a (queries, gallery) block; bounds the memory beside the inputs and the order


class Metrics(NamedTuple):
    """Means in percent over the queries that have a right image in the gallery; the others are only counted."""

    R1: float  # a right image comes first
    R5: float  # one is among the first 5
    R10: float
    mAP: float  # average precision: mean, over the right images, of the precision at each one's rank
    mINP: float  # inverse negative penalty: number of right images / rank of the last of them
    num_queries: int
    num_without_match: int  # queries without any right image, left out of the means


MEASURES = Metrics._fields[:5]
HEADERS = ("R@1", "R@5", "R@10", "mAP", "mINP")  # the same, as people write them


class QueryMeasures(NamedTuple):
    """Measures of each query, all (T,). Without a right image: first_rank and num_right 0, the two measures NaN."""

    first_rank: Tensor  # int64, place of the first right image, from 1
    num_right: Tensor  # int64, right images in the gallery
    average_precision: Tensor  # float64 in (0, 1]
    inverse_penalty: Tensor  # float64 in (0, 1]
    first_row: Tensor  # int64, gallery row ranked first, right or not


def rank_gallery(
    similarity: Tensor, scores: Tensor | None = None, tail: Literal["similarity", "constant"] = "similarity"
) -> Tensor:
    """Order the gallery for each query, best first; ties in gallery order.

    Args:
        similarity: (T, I) cosine of the embeddings.
        scores: (T, I) of the matching head, -inf where a pair was not re-ranked; None = rank by similarity alone.
        tail: order of what was not re-ranked, which comes last: by similarity, or constant = all equal, as in the
            published evaluation.
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
    if similarity.isnan().any() or (scores is not None and scores.isnan().any()):
        raise UserError("similarity or scores hold NaN, which has no rank; check the model's weights")
    if scores is None:
        return similarity.argsort(dim=1, descending=True, stable=True)
    if tail == "constant":
        return scores.argsort(dim=1, descending=True, stable=True)
    reranked = scores > -torch.inf
    order = torch.where(reranked, scores, similarity).argsort(dim=1, descending=True, stable=True)
    # Scores and similarities are not comparable: move the re-ranked to the front, keeping both parts in their order.
    front = reranked.gather(1, order).to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return order.gather(1, front)


def retrieval_metrics(order: Tensor, query_person_id: Tensor, gallery_person_id: Tensor) -> Metrics:
    """Measure rankings: order (T, I) gallery rows, best first; query_person_id (T,); gallery_person_id (I,).

    Raises: ValueError if shapes differ, or if no query has a right image, so that there is nothing to average.
    """
    _check_sizes("order", order, query_person_id, gallery_person_id)
    parts = [
        _measure_block(order[rows], query_person_id[rows], gallery_person_id)
        for rows in _blocks(len(query_person_id), len(gallery_person_id))
    ]
    return mean_metrics(_joined(parts))


def measure_queries(
    similarity: Tensor,
    scores: Tensor | None,
    query_person_id: Tensor,
    gallery_person_id: Tensor,
    tail: Literal["similarity", "constant"] = "similarity",
) -> QueryMeasures:
    """Rank as `rank_gallery` does and measure each query; the order as a whole is never in memory.

    Image to text is the same with the two sides exchanged: similarity.T, scores.T and the person ids the other way
    round. An image's re-ranked captions, which come first, are then those that had it among their own first k.
    Raises: ValueError as rank_gallery, or if the person ids do not fit.
    """
    _check_ranking(similarity, scores, tail)
    _check_sizes("similarity", similarity, query_person_id, gallery_person_id)
    parts = []
    for rows in _blocks(*similarity.shape):
        order = _rank_block(similarity[rows], None if scores is None else scores[rows], tail)
        parts.append(_measure_block(order, query_person_id[rows], gallery_person_id))
    return _joined(parts)


def percentages(measures: QueryMeasures) -> Tensor:
    """R1 R5 R10 AP INP in percent of the M queries that have a right image: (M, 5) float64.

    Raises: UserError if there is none.
    """
    matched = measures.first_rank > 0
    if not matched.any():
        raise UserError("no query has an image of its person in the gallery; check that both are of one split")
    hits = [(measures.first_rank <= k).double() for k in (1, 5, 10)]
    return 100 * torch.stack([*hits, measures.average_precision, measures.inverse_penalty], dim=1)[matched]


def mean_metrics(measures: QueryMeasures) -> Metrics:
    """Means over the queries that have a right image. Raises: UserError if there is none."""
    values = percentages(measures)
    r1, r5, r10, mean_ap, mean_inp = values.mean(dim=0).tolist()
    num_queries = len(measures.first_rank)
    return Metrics(r1, r5, r10, mean_ap, mean_inp, num_queries, num_queries - len(values))


def _measure_block(order: Tensor, query_person_id: Tensor, gallery_person_id: Tensor) -> QueryMeasures:
    right = gallery_person_id[order] == query_person_id[:, None]  # (block, I), by rank
    rank = torch.arange(1, right.shape[1] + 1, device=right.device)  # (I,)
    num_found = right.cumsum(dim=1)
    num_right = num_found[:, -1]
    precision = (num_found / rank.double()).masked_fill_(~right, 0.0)
    return QueryMeasures(
        first_rank=(right.to(torch.uint8).argmax(dim=1) + 1) * (num_right > 0),
        num_right=num_right,
        average_precision=precision.sum(dim=1) / num_right,  # 0 / 0 = NaN without a right image
        inverse_penalty=num_right / (right * rank).amax(dim=1).double(),
        first_row=order[:, 0].clone(),  # a view would keep the whole order alive
    )


def _joined(parts: list[QueryMeasures]) -> QueryMeasures:
    return QueryMeasures(*(torch.cat(field) for field in zip(*parts, strict=True)))


def _check_sizes(name: str, matrix: Tensor, query_person_id: Tensor, gallery_person_id: Tensor) -> None:
    if matrix.shape != (len(query_person_id), len(gallery_person_id)):
        sizes = f"{len(query_person_id)} queries and {len(gallery_person_id)} images"
        raise ValueError(f"{name} {tuple(matrix.shape)} does not fit {sizes}")


def chance_level(query_person_id: Tensor, gallery_person_id: Tensor, *, orders: int = 20) -> Metrics:
    """What a random order of the gallery reaches: the mean over so many orders, the same ones at each call.

    Raises: as retrieval_metrics.
    """
    generator = torch.Generator().manual_seed(0)
    size = (len(query_person_id), len(gallery_person_id))
    measured = [
        retrieval_metrics(rank_gallery(torch.rand(size, generator=generator)), query_person_id, gallery_person_id)
        for _ in range(max(1, min(orders, CHANCE_ENTRIES // (size[0] * size[1]))))
    ]
    r1, r5, r10, mean_ap, mean_inp = torch.tensor(measured, dtype=torch.float64).mean(dim=0).tolist()[:5]
    return Metrics(r1, r5, r10, mean_ap, mean_inp, *measured[0][5:])


def _blocks(num_queries: int, gallery_size: int) -> Iterator[slice]:
    step = max(1, BLOCK_ENTRIES // max(1, gallery_size))
    return (slice(start, start + step) for start in range(0, max(1, num_queries), step))  # no query: one empty block
