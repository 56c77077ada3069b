"""The measures of grounding on one split, for any model (docs/evaluation.md, "Grounding")."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BertTokenizer

from dataset.attributes import chunk_ids
from dataset.synthpedes.exchange import spans_of
from dataset.tokenizer import encode
from evaluation.bootstrap import PairedTest, paired_test
from evaluation.grounding.cases import Case, by_image
from evaluation.grounding.chunk_scores import ChunkScores, Scored, measure_chunks, score_chunks
from evaluation.grounding.people import person_means
from evaluation.grounding.pointing import Pointed, Pointing, measure_pointing, point
from evaluation.metrics import Tail, measure_queries, percentages
from evaluation.retrieval import Scores
from evaluation.token_store import TokenStore
from models.attention_maps import default_layer, token_maps
from models.evidence_maps import chunk_evidence, of_tokens
from models.person_search import PersonSearchModel
from utils.config_schema import Config
from utils.errors import UserError
from utils.log import progress

logger = logging.getLogger(__name__)


class Reranking(NamedTuple):
    """The five measures in both orders, in percent, and their difference, tested over people."""

    similarity: np.ndarray  # (5,)
    reranked: np.ndarray  # (5,)
    test: PairedTest


class Grounding(NamedTuple):
    attention: Mapping[str, Pointing]  # by part; empty where no layer has maps of words
    layer: int | None  # of the cross-modal encoder, whose attention points
    evidence: Mapping[str, Pointing]  # by part, of the words in attribute chunks; empty without mlm
    chunks: Mapping[str, ChunkScores]  # by kind of attribute
    reranking: Reranking | None  # None = nothing was re-ranked
    num_captions: int


class Looks(NamedTuple):
    """What a model saw, word by word and chunk by chunk."""

    attention: list[Pointed]  # empty where no layer has maps of words
    layer: int | None  # of the cross-modal encoder, whose attention points
    evidence: list[Pointed]  # empty where the language head was not trained
    scored: list[Scored]


def measure_grounding(
    model: PersonSearchModel,
    cases: list[Case],
    image_batches: DataLoader,
    tokenizer: BertTokenizer,
    config: Config,
    scores: Scores,
) -> Grounding:
    """Measure everything on all captions of a split. scores: of the same split; other arguments: as of `look`."""
    seen = look(model, cases, image_batches, tokenizer, config)
    reranking = measure_reranking(scores, config.eval.tail)
    return Grounding(
        measure_pointing(seen.attention),
        seen.layer,
        measure_pointing(seen.evidence),
        measure_chunks(seen.scored),
        reranking,
        len(cases),
    )


def look(
    model: PersonSearchModel, cases: list[Case], image_batches: DataLoader, tokenizer: BertTokenizer, config: Config
) -> Looks:
    """Let a model look for every word and score every chunk.

    Args:
        model: in evaluation mode, on the device where the images are to go.
        cases: as of `load_cases`.
        image_batches: of the gallery of the same split.
        config: of the model, for the length of captions and the losses that it was trained with.
    """
    layer, device, max_words = _layer_of(model), model.itm_head.weight.device, config.dataset.max_words
    tells_words = config.losses.weights.get("mlm", 0) > 0
    tokens, person_id = _encoded(model, image_batches, device)
    images: Any = image_batches.dataset
    attention: list[Pointed] = []
    evidence: list[Pointed] = []
    scored: list[Scored] = []
    with progress[None](len(cases), "grounding", "captions") as bar:
        for row, own in by_image(cases):
            image = model.normalize(images[row].image[None].to(device))
            image_tokens = tokens.read(torch.tensor([row]))
            elsewhere = tokens.read(torch.tensor([_somebody_else(person_id, row)]))
            for case in own:
                encoded = encode(tokenizer, case.caption.text, max_words)
                ids = torch.tensor(encoded.ids, device=device)
                if layer is not None:
                    attention += point(case, encoded, token_maps(model, image_tokens, ids, layer).cpu())
                if tells_words:
                    chunks = torch.tensor(chunk_ids(encoded.offsets, spans_of(case.caption)), device=device)
                    maps = chunk_evidence(model, image, ids, chunks, mask_id=tokenizer.mask_token_id)
                    evidence += point(case, encoded, of_tokens(maps, chunks).cpu(), chunks.cpu() > 0)
                with torch.inference_mode():
                    scored += score_chunks(
                        model, case, image_tokens, elsewhere, tokenizer, max_words, tells_words=tells_words
                    )
            bar.advance(len(own))
    return Looks(attention, layer, evidence, scored)


def _encoded(model: PersonSearchModel, image_batches: DataLoader, device: torch.device) -> tuple[TokenStore, Tensor]:
    """Tokens of all images, and their people (I,). No other process takes part: only the main one looks."""
    images: Any = image_batches.dataset
    tokens = TokenStore(len(images), device)
    with torch.no_grad(), progress[None](len(images), "encode images", "images") as bar:
        for batch in image_batches:
            tokens.append(model.encode_image(model.normalize(batch.image.to(device)))[0].tokens)
            bar.advance(len(batch.image))
    return tokens, images.person_id


def measure_reranking(scores: Scores, tail: Tail) -> Reranking | None:
    """Compare the two orders, person by person; None if nothing was re-ranked."""
    if not (scores.matching > -torch.inf).any():
        return None
    people = (scores.text_person_id, scores.image_person_id)
    reranked = measure_queries(scores.similarity, scores.matching, *people, tail)
    matched = reranked.first_rank > 0
    person_id = scores.text_person_id[matched].numpy()
    orders = (measure_queries(scores.similarity, None, *people), reranked)
    before, after = (person_means(percentages(queries).numpy(), person_id) for queries in orders)
    return Reranking(before.mean(axis=0), after.mean(axis=0), paired_test(before, after))


def _layer_of(model: PersonSearchModel) -> int | None:
    try:
        return default_layer(model)
    except UserError as error:
        logger.warning("pointing is not measured: %s", error)
        return None


def _somebody_else(person_id: Tensor, row: int) -> int:
    """The row of an image half a gallery away, or of the next one behind it that shows another person.

    A gallery of one person has only its own images. person_id: (I,).
    """
    number = len(person_id)
    for step in range(number):
        other = (row + number // 2 + step) % number
        if person_id[other] != person_id[row]:
            return other
    return row
