"""Score a gallery for every caption. T texts, I images, E embedding.

Two stages, as in ALBEF (arXiv:2107.07651, section 4): the cosine of the embeddings for every pair, then the matching
head for the first k images of each text (`evaluation.rerank`).
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from evaluation.metrics import Metrics, mean_metrics, measure_queries
from evaluation.rerank import rerank
from evaluation.token_store import TokenStore
from utils.distributed import Process, gather_objects, maximum
from utils.log import progress
from utils.precision import autocast

logger = logging.getLogger(__name__)

RETRIEVAL_TASKS = frozenset({"itc", "itm"})  # keys of the losses that train what scores a gallery


class Scores(NamedTuple):
    """On the CPU, float32."""

    similarity: Tensor  # (T, I)
    matching: Tensor  # (T, I), -inf where a pair was not re-ranked
    text_person_id: Tensor  # (T,)
    image_person_id: Tensor  # (I,)
    seconds: dict[str, float]  # by stage


class Gallery(NamedTuple):
    embedding: Tensor  # (I, E)
    person_id: Tensor  # (I,)


class Queries(NamedTuple):
    input_ids: list[Tensor]  # T of (L,), without padding
    embedding: Tensor  # (T, E)
    person_id: Tensor  # (T,)


class EncodedGallery(NamedTuple):
    """To be searched with one set of captions after the other."""

    images: Gallery  # of all processes
    tokens: TokenStore | None  # of this process's share; None = nothing will be re-ranked
    first_image: int  # of the share
    seconds: float


def score_gallery(
    model, image_batches: Iterable, caption_batches: Iterable, *, process: Process, precision: str, rerank_top_k: int
) -> Scores:
    """Encode both sides and score them; the model is put into evaluation mode and back.

    Args:
        model: a `models.person_search.PersonSearchModel`.
        image_batches, caption_batches: loaders of `dataset.batches.ImageBatch` and `CaptionBatch`, all of them on every
            process.
        process: it encodes its share of both, and re-ranks the pairs of its share of the images.
        rerank_top_k: images re-ranked per caption; 0 = none, at most I.
    Returns: the same on every process.
    """
    was_training = model.training
    model.eval()
    given: dict[str, Any] = {"process": process, "precision": precision, "rerank_top_k": rerank_top_k}
    scores = score_captions(model, encode_gallery(model, image_batches, **given), caption_batches, **given)
    model.train(was_training)
    return scores


@torch.inference_mode()
def encode_gallery(
    model, image_batches: Iterable, *, process: Process, precision: str, rerank_top_k: int
) -> EncodedGallery:
    """The first half of score_gallery; arguments as there, the model in evaluation mode."""
    seconds: dict[str, float] = {}
    batches = _share(image_batches, process)
    tokens = TokenStore(_num_items(batches), process.device) if rerank_top_k else None
    with autocast(process.device, precision), _timed(seconds, "images"):
        images = encode_images(model, batches, process.device, tokens)
    return EncodedGallery(images, tokens, _own_rows(len(images.person_id), process).start, seconds["images"])


@torch.inference_mode()
def score_captions(
    model, gallery: EncodedGallery, caption_batches: Iterable, *, process: Process, precision: str, rerank_top_k: int
) -> Scores:
    """The second half of score_gallery; arguments and result as there, the model in evaluation mode."""
    seconds = {"images": gallery.seconds}
    with autocast(process.device, precision), _timed(seconds, "captions"):
        queries = encode_captions(model, _share(caption_batches, process), process.device)
    similarity = queries.embedding @ gallery.images.embedding.T  # never in bf16, in which most of a gallery would tie
    with autocast(process.device, precision), _timed(seconds, "rerank"):
        if gallery.tokens is None:
            matching = torch.full_like(similarity, -torch.inf)
        else:
            share = {"first_image": gallery.first_image, "top_k": rerank_top_k}
            matching = maximum(rerank(model, gallery.tokens, queries.input_ids, similarity, **share))
    return Scores(similarity, matching, queries.person_id, gallery.images.person_id, seconds)


def measure(scores: Scores, tail: Literal["similarity", "constant"]) -> Metrics:
    """R1 R5 R10 mAP mINP of the re-ranked order; tail as in `evaluation.metrics.rank_gallery`."""
    people = (scores.text_person_id, scores.image_person_id)
    return mean_metrics(measure_queries(scores.similarity, scores.matching, *people, tail))


def encode_images(model, image_batches: Iterable, device: torch.device, tokens: TokenStore | None = None) -> Gallery:
    """The images of all processes, each of which encodes its own; their tokens go to the process's store."""
    embeddings, person_ids = [], []
    with progress(_num_items(image_batches), "encode images", "images") as bar:
        for batch in image_batches:
            features, embedding = model.encode_image(model.normalize(batch.image.to(device, non_blocking=True)))
            if tokens is not None:
                tokens.append(features.tokens)
            embeddings.append(embedding.float().cpu())
            person_ids.append(batch.person_id)
            bar.advance(len(batch.person_id))
    return Gallery(torch.cat(_of_all(embeddings)), torch.cat(_of_all(person_ids)))


def encode_captions(model, caption_batches: Iterable, device: torch.device) -> Queries:
    """The captions of all processes, each of which encodes its own."""
    input_ids, embeddings, person_ids = [], [], []
    with progress(_num_items(caption_batches), "encode captions", "captions") as bar:
        for batch in caption_batches:
            ids, mask = batch.text.input_ids, batch.text.attention_mask
            embeddings.append(model.encode_text(ids.to(device), mask.to(device))[1].float().cpu())
            # copies, as a view would be sent to other processes with the whole batch
            input_ids += [row[:length].clone() for row, length in zip(ids, mask.sum(dim=1).tolist(), strict=True)]
            person_ids.append(batch.person_id)
            bar.advance(len(batch.person_id))
    return Queries(_of_all(input_ids), torch.cat(_of_all(embeddings)), torch.cat(_of_all(person_ids)))


def _own_rows(num_rows: int, process: Process) -> slice:
    """The process's consecutive share."""
    first, end = (num_rows * rank // process.world_size for rank in (process.rank, process.rank + 1))
    return slice(first, end)


def _share(batches: Any, process: Process) -> Any:
    """A loader of the process's share of the rows; with one process the loader itself."""
    if process.world_size == 1:
        return batches
    return DataLoader(
        Subset(batches.dataset, range(len(batches.dataset))[_own_rows(len(batches.dataset), process)]),
        batch_size=batches.batch_size,
        num_workers=batches.num_workers,
        collate_fn=batches.collate_fn,
        worker_init_fn=batches.worker_init_fn,
        pin_memory=batches.pin_memory,
        generator=batches.generator,
    )


def _of_all(parts: list[Tensor]) -> list[Tensor]:
    """The parts of every process, in the order of the rows."""
    return [part for own in gather_objects(parts) for part in own]


def _num_items(batches: Iterable) -> int:
    return len(batches.dataset)  # type: ignore[attr-defined]


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
