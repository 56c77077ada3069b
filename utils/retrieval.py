"""Score a gallery for every caption. T texts, I images, E embedding, N image tokens, D image width.

Two stages, as in ALBEF (arXiv:2107.07651, section 4): the cosine of the embeddings for every pair, then the matching
head for the first k images of each text.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from utils.distributed import Process, maximum
from utils.log import progress
from utils.metrics import Metrics, rank_gallery, retrieval_metrics
from utils.precision import autocast

logger = logging.getLogger(__name__)

PAIRS_AT_A_TIME = 512


class Scores(NamedTuple):
    """On the CPU, float32."""

    similarity: Tensor  # (T, I)
    matching: Tensor  # (T, I), -inf where a pair was not re-ranked
    text_person_id: Tensor  # (T,)
    image_person_id: Tensor  # (I,)
    seconds: dict[str, float]  # by stage


class Gallery(NamedTuple):
    tokens: Tensor  # (I, 1+N, D) on the CPU
    embedding: Tensor  # (I, E)
    person_id: Tensor  # (I,)


class Queries(NamedTuple):
    input_ids: list[Tensor]  # T of (L,), without padding
    embedding: Tensor  # (T, E)
    person_id: Tensor  # (T,)


@torch.inference_mode()
def score_gallery(
    model, image_batches: Iterable, caption_batches: Iterable, *, process: Process, precision: str, rerank_top_k: int
) -> Scores:
    """Encode both sides and score them; the model is put into evaluation mode and back.

    Args:
        model: a `models.person_search.PersonSearchModel`.
        image_batches, caption_batches: of `dataset.batches.ImageBatch` and `CaptionBatch`; their len is used.
        process: every rank encodes all, and re-ranks its share of the captions.
        rerank_top_k: images re-ranked per caption; 0 = none, at most I.
    """
    was_training = model.training
    model.eval()
    seconds: dict[str, float] = {}
    with autocast(process.device, precision):
        with _timed(seconds, "images"):
            gallery = encode_images(model, image_batches, process.device)
        with _timed(seconds, "captions"):
            queries = encode_captions(model, caption_batches, process.device)
    similarity = queries.embedding @ gallery.embedding.T  # never in bf16, in which most of a gallery would tie
    with autocast(process.device, precision), _timed(seconds, "rerank"):
        matching = rerank(model, gallery, queries, similarity, process=process, top_k=rerank_top_k)
    model.train(was_training)
    return Scores(similarity, matching, queries.person_id, gallery.person_id, seconds)


def measure(scores: Scores, tail: Literal["similarity", "constant"]) -> Metrics:
    """R1 R5 R10 mAP mINP of the re-ranked order; tail as in `utils.metrics.rank_gallery`."""
    order = rank_gallery(scores.similarity, scores.matching, tail)
    return retrieval_metrics(order, scores.text_person_id, scores.image_person_id)


def measure_similarity(scores: Scores) -> Metrics:
    """The same for the order of the first stage alone."""
    order = rank_gallery(scores.similarity)
    return retrieval_metrics(order, scores.text_person_id, scores.image_person_id)


def encode_images(model, image_batches: Iterable, device: torch.device) -> Gallery:
    tokens, embeddings, person_ids = [], [], []
    with progress(_num_items(image_batches), "encode images", "images") as bar:
        for batch in image_batches:
            features, embedding = model.encode_image(model.normalize(batch.image.to(device, non_blocking=True)))
            tokens.append(features.tokens.cpu())
            embeddings.append(embedding.float().cpu())
            person_ids.append(batch.person_id)
            bar.advance(len(batch.person_id))
    return Gallery(torch.cat(tokens), torch.cat(embeddings), torch.cat(person_ids))


def encode_captions(model, caption_batches: Iterable, device: torch.device) -> Queries:
    input_ids, embeddings, person_ids = [], [], []
    with progress(_num_items(caption_batches), "encode captions", "captions") as bar:
        for batch in caption_batches:
            ids, mask = batch.text.input_ids, batch.text.attention_mask
            embeddings.append(model.encode_text(ids.to(device), mask.to(device))[1].float().cpu())
            input_ids += [row[:length] for row, length in zip(ids, mask.sum(dim=1).tolist(), strict=True)]
            person_ids.append(batch.person_id)
            bar.advance(len(batch.person_id))
    return Queries(input_ids, torch.cat(embeddings), torch.cat(person_ids))


def rerank(model, gallery: Gallery, queries: Queries, similarity: Tensor, *, process: Process, top_k: int) -> Tensor:
    """Matching scores (T, I) of each caption's first top_k images by similarity (T, I), -inf elsewhere."""
    scores = torch.full_like(similarity, -torch.inf)
    top_k = min(top_k, similarity.shape[1])
    if top_k == 0:
        return scores
    # stable, so that equal similarities are cut off in gallery order; sorted by length, so that padding is short
    candidates = similarity.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    by_length = sorted(range(len(queries.input_ids)), key=lambda row: len(queries.input_ids[row]))
    own = by_length[process.rank :: process.world_size]  # empty where there are more processes than captions
    rows_at_a_time = max(1, PAIRS_AT_A_TIME // top_k)
    with progress(len(own) * top_k, "re-rank", "pairs") as bar:
        for first in range(0, len(own), rows_at_a_time):
            rows = torch.tensor(own[first : first + rows_at_a_time])
            pairs = candidates[rows]  # (n, k)
            scores[rows[:, None], pairs] = _match(model, gallery, queries, rows, pairs, process.device)
            bar.advance(pairs.numel())
    return maximum(scores)


def _match(model, gallery: Gallery, queries: Queries, rows: Tensor, pairs: Tensor, device: torch.device) -> Tensor:
    """Scores (n, k) of the captions in rows (n,) with the images in pairs (n, k); an image's tokens are sent once."""
    ids = pad_sequence([queries.input_ids[row] for row in rows.tolist()], batch_first=True)  # (n, L)
    lengths = torch.tensor([len(queries.input_ids[row]) for row in rows.tolist()])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    images, image_index = pairs.flatten().unique(return_inverse=True)
    scores = model.match(
        ids.repeat_interleave(pairs.shape[1], dim=0).to(device),
        mask.repeat_interleave(pairs.shape[1], dim=0).to(device),
        gallery.tokens[images].to(device),
        image_index.to(device),
    )
    return scores.float().cpu().view_as(pairs)


def _num_items(batches: Iterable) -> int:
    return len(batches.dataset)  # type: ignore[attr-defined]


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
