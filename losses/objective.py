"""What a training objective is: the seam between one loss and the passes that all losses share.

A batch goes through three stages, with a record for each:

1. `Lesson`: what is known before the online model runs. Random draws, and the momentum encoder's answers.
2. `Passes`: what the shared passes of the online model give. One of the images, one of the texts, and one cross-modal
   pass over the rows of all objectives together.
3. A scalar loss from each objective, which sees both records in a `Step`.

To add an objective, write one file like losses/prd.py and name it in losses/__init__.py and configs/base.yaml.

B batch, n its first pairs, which all objectives but itc see, E embedding, L tokens, D width, V vocabulary, C chunks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor, nn

from dataset.batches import TrainBatch
from dataset.texts import TextRows
from losses.negatives import Negatives

Prepared = TypeVar("Prepared")


class ObjectiveSettings(NamedTuple):
    """Constants of a run that objectives draw by."""

    vocab_size: int
    mask_id: int
    cls_id: int
    mlm_probability: float
    mrtd_mask_probability: float
    mask_ratio: float
    patch_size: int
    mlm_attribute_probability: float | None = None  # of the words in attribute chunks; None = mlm_probability
    mrtd_other_image: bool = False  # captions are rewritten for the image of another pair
    attribute_replaced: bool | str = False  # attribute scores mrtd's rewritten captions, too; "only": alone

    def words(self) -> dict[str, Any]:
        """What `losses.masking.mask_tokens` needs to know of the vocabulary."""
        return {"vocab_size": self.vocab_size, "mask_id": self.mask_id, "cls_id": self.cls_id}


class Curriculum(NamedTuple):
    """What follows a schedule from step to step. For a CUDA graph, tensors on the device."""

    alpha: float | Tensor  # weight of the momentum encoder's soft targets, in [0, 1]
    hardness: float | Tensor = 1.0  # of the drawn negatives: 1 = the more similar the likelier, 0 = all alike


class Embeddings(NamedTuple):
    """Momentum embeddings of pairs, with the people they show."""

    image: Tensor  # (B, E), L2-normalised
    text: Tensor  # (B, E)
    person_id: Tensor  # (B,)


class Question(NamedTuple):
    """Own captions in which the momentum encoder shall guess words."""

    input_ids: Tensor  # (n, L)
    places: Tensor  # (M, 2) rows and columns of the words
    labels: Tensor  # (n, L) what was hidden where, for `prepare`; -100 elsewhere
    for_next_image: bool = False  # to be answered for the image of the next pair, not for the caption's own


@dataclass(frozen=True)
class Lesson:
    """A part of a batch before the online passes; nothing in it has a gradient."""

    batch: TrainBatch  # B pairs
    pairs: TrainBatch  # the first n of them
    own_pairs: Mapping[str, TrainBatch]  # by key, those that each objective sees: for most the same
    image: Tensor  # (B, 3, H, W), normalised, of image_1
    momentum: Embeddings  # of image_2 and text_2
    prepared: Mapping[str, Any]  # by key, what each objective's `prepare` gave


@dataclass(frozen=True)
class Passes:
    """What the shared passes of the online model give; None where no objective needs it."""

    image_embedding: Tensor  # (B, E)
    text_embedding: Tensor  # (B, E)
    text_tokens: Tensor  # (n, L, D) in text mode
    negatives: Negatives  # of the first n pairs
    pair_hidden: Tensor | None  # (3n, L, D): positives, images with a wrong text, texts with a wrong image
    pair_chunks: Tensor  # (3n, L) attribute chunks of their texts
    pair_class: Tensor | None  # (3n, D) of [CLS] in them
    own_hidden: Mapping[str, Tensor]  # by key, (rows, L, D) of the rows that each objective asked for


class Model(Protocol):
    """What objectives use of `models.person_search.PersonSearchModel`."""

    temperature: nn.Parameter

    def head(self, name: str) -> nn.Module: ...

    def match_logits(self, class_hidden: Tensor) -> Tensor: ...

    def chunk_logits(self, hidden: Tensor, chunk_ids: Tensor) -> tuple[Tensor, Tensor]: ...

    def word_logits(self, hidden: Tensor) -> Tensor: ...

    def reconstruct(self, image: Tensor, kept: Tensor, text_tokens: Tensor, attention_mask: Tensor) -> Tensor: ...


class Queue(Protocol):
    """What objectives use of `models.queue.FeatureQueue`."""

    image: Tensor
    text: Tensor
    person_id: Tensor


@dataclass(frozen=True)
class Step:
    """All that a loss may look at."""

    model: Model
    lesson: Lesson
    passes: Passes
    candidates: Embeddings  # of the whole batch, of all processes
    queue: Queue
    alpha: float | Tensor  # as of `Curriculum`


class Objective(Generic[Prepared]):
    """One loss with its draws, its rows of the cross-modal pass and its head. Override what differs."""

    key: ClassVar[str]  # in losses.weights, in the log and in the documentation
    sees_pairs: bool = False  # needs the pairs' rows of the cross-modal pass
    sees_chunks: bool = False  # needs the tokens of attribute chunks in them, not [CLS] alone
    has_rows: ClassVar[bool] = False  # needs rows of its own in that pass
    reads_text: ClassVar[bool] = False  # needs all tokens of the text pass, not [CLS] alone
    reaches: ClassVar[tuple[str, ...]] = ()  # parts of the model, heads of other objectives say, that it trains too

    def __init__(self, settings: ObjectiveSettings) -> None:
        self.settings = settings

    def heads(self, text_width: int, decoder: nn.Module) -> dict[str, nn.Module]:
        """The modules that it owns, under the names that the model and its checkpoints give them.

        Args: text_width, D of the cross-modal encoder; decoder, the MAE decoder as the configuration sizes it.
        """
        return {}

    def ask(self, pairs: TrainBatch) -> Question | None:
        """What the momentum encoder shall answer before `prepare`. All questions are answered in one pass."""
        return None

    def prepare(self, pairs: TrainBatch, question: Question | None, answer: Tensor | None) -> Prepared:
        """Its draws and targets. answer: (M, V) logits at the question's places."""
        return None  # type: ignore[return-value]

    def num_averaged(self, prepared: Prepared) -> Tensor | None:
        """Over how much its loss averages, where that differs between parts of a batch; None = over its pairs."""
        return None

    def rows(self, pairs: TrainBatch, prepared: Prepared) -> TextRows:
        """Its rows of the cross-modal pass, a multiple of its n pairs; row r goes with image r % n."""
        raise NotImplementedError

    def loss(self, step: Step, prepared: Prepared) -> Tensor:
        """The scalar loss. Gradients flow through `step.passes` and `step.model`."""
        raise NotImplementedError
