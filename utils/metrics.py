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
    if tail not in ("similarity", "constant"):
        raise ValueError(f'tail must be "similarity" or "constant", got {tail!r}')
    if scores is not None and scores.shape != similarity.shape:
        raise ValueError(f"scores {tuple(scores.shape)} must be shaped like similarity {tuple(similarity.shape)}")
    order = torch.empty(similarity.shape, dtype=torch.long, device=similarity.device)
    for rows in _blocks(*similarity.shape):
        order[rows] = _rank_block(similarity[rows], None if scores is None else scores[rows], tail)
    return order


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
    if order.shape != (len(query_person_id), len(gallery_person_id)):
        sizes = f"{len(query_person_id)} queries and {len(gallery_person_id)} images"
        raise ValueError(f"order {tuple(order.shape)} does not fit {sizes}")
    totals = torch.zeros(6, dtype=torch.float64, device=order.device)
    for rows in _blocks(*order.shape):
        right = gallery_person_id[order[rows]] == query_person_id[rows, None]  # (block, I)
        totals += _measure_block(right)
    *sums, num_matched = totals.tolist()
    if not num_matched:
        raise UserError("no query has an image of its person in the gallery; check that both are of one split")
    r1, r5, r10, mean_ap, mean_inp = (100 * value / num_matched for value in sums)
    return Metrics(r1, r5, r10, mean_ap, mean_inp, len(order), len(order) - int(num_matched))


def _measure_block(right: Tensor) -> Tensor:
    """Sum R1, R5, R10, AP and INP over the rows of right (block, I) that hold a True, and count these rows: (6,)."""
    matched = right.any(dim=1)
    right = right[matched]
    rank = torch.arange(1, right.shape[1] + 1, device=right.device)  # (I,)
    num_found = right.cumsum(dim=1)  # (rows, I)
    num_right = num_found[:, -1]
    precision = (num_found / rank.double()).masked_fill_(~right, 0.0)
    average_precision = precision.sum(dim=1) / num_right
    inverse_penalty = num_right / (right * rank).amax(dim=1).double()
    hits = [right[:, :k].any(dim=1).sum() for k in (1, 5, 10)]
    return torch.stack([*hits, average_precision.sum(), inverse_penalty.sum(), matched.sum()]).double()


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
    return (slice(start, start + step) for start in range(0, num_queries, step))
