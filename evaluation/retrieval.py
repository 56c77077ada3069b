"""Score a gallery for every caption. T texts, I images, E width of the shared embedding.

Scoring has two stages, as in ALBEF (arXiv:2107.07651, section 4): the cosine of the embeddings for every pair, then the
matching head for the first k images of each text (`evaluation.rerank`).
"""

import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from dataset.texts import LENGTH_STEP, Texts, bucket_of, counting_is_free, pad_texts
from evaluation.metrics import Metrics, Tail, mean_metrics, measure_queries
from evaluation.rerank import rerank
from evaluation.token_store import TokenStore
from models.bert_sizes import BertSizes
from models.joined_weights import joined_once
from models.person_search import PersonSearchModel
from utils.cuda_graphs import Graphs
from utils.distributed import Process, gather_objects, maximum
from utils.log import progress
from utils.precision import autocast

WORTH_A_GRAPH = 16  # batches on a GPU; for fewer, capturing a graph takes longer than it saves


class Scores(NamedTuple):
    """Scores of every text-image pair, on the CPU in float32."""

    similarity: Tensor  # (T, I)
    matching: Tensor  # (T, I), -inf where a pair was not re-ranked
    text_person_id: Tensor  # (T,)
    image_person_id: Tensor  # (I,)
    seconds: dict[str, float]  # by stage


class ScoringSettings(NamedTuple):
    """How a gallery is scored."""

    process: Process  # encodes its share of both sides and re-ranks the pairs of its share of the images
    precision: str  # as `utils.precision.autocast` takes it
    rerank_top_k: int  # images re-ranked per caption; 0 = none, at most I
    rerank_similarity: float = 0.0  # factor of similarity / temperature that is added to their matching score


class GalleryEmbeddings(NamedTuple):
    """The images of all processes."""

    embedding: Tensor  # (I, E)
    person_id: Tensor  # (I,)


class QueryEmbeddings(NamedTuple):
    """The captions of all processes, with the tokens that the matching head reads."""

    input_ids: list[Tensor]  # T of (L,), without padding
    embedding: Tensor  # (T, E)
    person_id: Tensor  # (T,)


class EncodedGallery(NamedTuple):
    """A gallery that is ready to be searched with one set of captions after another."""

    images: GalleryEmbeddings
    tokens: TokenStore | None  # of this process's share of the images; None = nothing will be re-ranked
    first_image: int  # of the share
    seconds: float


def score_gallery(
    model: PersonSearchModel,
    image_batches: DataLoader,
    caption_batches: DataLoader,
    *,
    process: Process,
    precision: str,
    rerank_top_k: int,
    rerank_similarity: float = 0.0,
) -> Scores:
    """Encode images and captions and score all pairs. The model is in evaluation mode meanwhile, then as it was.

    Args:
        image_batches, caption_batches: loaders of `dataset.batches.ImageBatch` and `CaptionBatch`. Every process is
            given the whole set and takes its own share.
        process, precision, rerank_top_k, rerank_similarity: as in `ScoringSettings`.
    Returns: the same scores on every process.
    """
    settings = ScoringSettings(process, precision, rerank_top_k, rerank_similarity)
    was_training = model.training
    model.eval()
    scores = score_captions(model, encode_gallery(model, image_batches, settings), caption_batches, settings)
    model.train(was_training)
    return scores


@torch.inference_mode()
def encode_gallery(model: PersonSearchModel, image_batches: DataLoader, settings: ScoringSettings) -> EncodedGallery:
    """The first half of `score_gallery`. The model must be in evaluation mode."""
    process = settings.process
    seconds: dict[str, float] = {}
    batches = _share(image_batches, process)
    tokens = TokenStore(_num_rows(batches), process.device) if settings.rerank_top_k else None
    with _encoding(model, settings), _timed(seconds, "images"):
        images = embed_images(model, batches, process.device, tokens)
    return EncodedGallery(images, tokens, _own_rows(len(images.person_id), process).start, seconds["images"])


@torch.inference_mode()
def score_captions(
    model: PersonSearchModel, gallery: EncodedGallery, caption_batches: DataLoader, settings: ScoringSettings
) -> Scores:
    """The second half of `score_gallery`. The model must be in evaluation mode."""
    process, seconds = settings.process, {"images": gallery.seconds}
    with _encoding(model, settings), _timed(seconds, "captions"):
        queries = embed_captions(model, _share(caption_batches, process), process.device)
    # outside autocast: in bf16 most of a gallery would tie
    similarity = queries.embedding @ gallery.images.embedding.T
    with autocast(process.device, settings.precision), _timed(seconds, "rerank"):
        if gallery.tokens is None:
            matching = torch.full_like(similarity, -torch.inf)
        else:
            own = rerank(
                model,
                gallery.tokens,
                queries.input_ids,
                similarity,
                first_image=gallery.first_image,
                top_k=settings.rerank_top_k,
            )
            matching = maximum(own)
        if settings.rerank_similarity:
            matching = matching + settings.rerank_similarity * similarity / model.temperature.float().cpu()
    return Scores(similarity, matching, queries.person_id, gallery.images.person_id, seconds)


def measure(scores: Scores, tail: Tail) -> Metrics:
    """R1, R5, R10, mAP and mINP of the re-ranked order; tail as in `evaluation.metrics.rank_gallery`."""
    people = (scores.text_person_id, scores.image_person_id)
    return mean_metrics(measure_queries(scores.similarity, scores.matching, *people, tail))


def embed_images(
    model: PersonSearchModel, image_batches: DataLoader, device: torch.device, tokens: TokenStore | None = None
) -> GalleryEmbeddings:
    """Encode this process's images, store their tokens if a store is given, and gather the embeddings of all."""
    embeddings, person_ids = [], []
    run = _run_by("encoding images", image_batches, device)

    def encode(image: Tensor) -> tuple[Tensor, Tensor]:
        features, embedding = model.encode_image(model.normalize(image))
        return features.tokens, embedding

    with progress(_num_rows(image_batches), "encode images", "images") as bar:
        for batch in image_batches:
            image = batch.image.to(device, non_blocking=True)
            of_batch, embedding = run(encode, image)
            if tokens is not None:
                tokens.append(of_batch)
            embeddings.append(embedding.float().cpu())
            person_ids.append(batch.person_id)
            bar.advance(len(batch.person_id))
    return GalleryEmbeddings(torch.cat(_of_all(embeddings)), torch.cat(_of_all(person_ids)))


def embed_captions(model: PersonSearchModel, caption_batches: DataLoader, device: torch.device) -> QueryEmbeddings:
    """Encode this process's captions, and gather the embeddings and tokens of all."""
    input_ids, embeddings, person_ids = [], [], []
    run = _run_by("encoding captions", caption_batches, device)

    def encode(ids: Tensor, mask: Tensor, at_most: int | None) -> Tensor:
        return model.encode_text(ids, mask, at_most=at_most)[1]

    with progress(_num_rows(caption_batches), "encode captions", "captions") as bar:
        for batch in caption_batches:
            ids, mask = batch.text.input_ids, batch.text.attention_mask
            embeddings.append(run(encode, *_sent(batch.text, device, model.text_encoder.sizes)).float().cpu())
            # a view would take its whole batch along to the other processes, so each row is copied
            input_ids += [row[:length].clone() for row, length in zip(ids, mask.sum(dim=1).tolist(), strict=True)]
            person_ids.append(batch.person_id)
            bar.advance(len(batch.person_id))
    return QueryEmbeddings(_of_all(input_ids), torch.cat(_of_all(embeddings)), torch.cat(_of_all(person_ids)))


def _run_by(name: str, batches: DataLoader, device: torch.device) -> Callable[..., Any]:
    """Calls a function with arguments: by CUDA graphs, or as it is."""
    if device.type == "cuda" and len(batches) >= WORTH_A_GRAPH:
        return Graphs(name)
    return lambda function, *inputs: function(*inputs)


def _sent(text: Texts, device: torch.device, sizes: BertSizes) -> tuple[Tensor, Tensor, int | None]:
    """Ids and mask (B, L) on the device, and a bound on the tokens; for a GPU, L and the bound are one of a few."""
    if not counting_is_free(device):
        length = -(-text.input_ids.shape[1] // LENGTH_STEP) * LENGTH_STEP
        padded = pad_texts(text, min(length, sizes.max_position_embeddings))
        text = padded._replace(bucket=bucket_of([padded], [slice(None)]))
    return text.input_ids.to(device), text.attention_mask.to(device), text.tokens().at_most


def _own_rows(num_rows: int, process: Process) -> slice:
    """The consecutive rows that are this process's share."""
    first, end = (num_rows * rank // process.world_size for rank in (process.rank, process.rank + 1))
    return slice(first, end)


def _share(batches: DataLoader, process: Process) -> DataLoader:
    """A loader of this process's share of the rows. A single process gets the loader itself."""
    if process.world_size == 1:
        return batches
    num_rows = _num_rows(batches)
    return DataLoader(
        Subset(batches.dataset, range(num_rows)[_own_rows(num_rows, process)]),
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


def _num_rows(batches: DataLoader) -> int:
    rows = batches.dataset
    assert isinstance(rows, Sized)
    return len(rows)


@contextmanager
def _encoding(model: PersonSearchModel, settings: ScoringSettings) -> Iterator[None]:
    """In the precision asked for, with weights that are cast once for all batches."""
    device = settings.process.device
    with autocast(device, settings.precision), joined_once(model, device.type):
        yield


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
