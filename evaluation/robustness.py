"""Measures of captions as people might type them: misspelt, shortened or shuffled (`dataset.perturb`)."""

import logging
from collections.abc import Iterable, Iterator

from torch.utils.data import DataLoader
from transformers import BertTokenizer

from dataset.loaders import build_eval_loaders
from dataset.perturb import PERTURBATIONS, perturbed_set
from dataset.sets import EvalSets
from evaluation.metrics import Tail
from evaluation.report import Orders, measure_orders
from evaluation.retrieval import EncodedGallery, ScoringSettings, score_captions
from models.person_search import PersonSearchModel

logger = logging.getLogger(__name__)


def perturbed_batches(
    sets: EvalSets, tokenizer: BertTokenizer, max_words: int, batch_size: int
) -> Iterator[tuple[str, DataLoader]]:
    """The captions changed in every way of PERTURBATIONS, each with a loader of `CaptionBatch`."""
    for kind in PERTURBATIONS:
        changed = perturbed_set(sets.captions, kind, tokenizer, max_words)
        yield kind, build_eval_loaders(sets.gallery, changed, batch_size=batch_size, workers=0).captions


def measure_perturbed(
    model: PersonSearchModel,
    gallery: EncodedGallery,
    changed: Iterable[tuple[str, DataLoader]],
    settings: ScoringSettings,
    tail: Tail,
) -> dict[str, Orders]:
    """Measures of text to image by kind of change, on a gallery that is encoded already.

    Args:
        model: in evaluation mode.
        changed: captions by kind, as from `perturbed_batches`.
    Raises: UserError if no caption has an image of its person.
    """
    measures = {}
    for kind, captions in changed:
        logger.info("changed captions: %s", kind.replace("_", " "))
        measures[kind] = measure_orders(score_captions(model, gallery, captions, settings), tail)[1]
    return measures
