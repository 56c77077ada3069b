"""Score the pairs of a block of images, a batch of pairs after another. I images of the block, P pairs, S slots.

On a CPU a batch holds what fits a budget of tokens (`PackedScoring`). On a GPU batches have one of a few sets of
shapes, so that CUDA graphs can replay them (`SlottedScoring`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dataset.texts import LENGTH_STEP, counting_is_free
from models.joined_weights import joined_once
from models.pair_layouts import PackedPairs, SlottedPairs, TextStates, send, starts
from models.pair_scorer import PairScorer
from utils.cuda_graphs import Graphs
from utils.memory import cut

QUERIES_OF_A_SLOT = 512  # so that the copy of an image's keys and values for each slot is little beside its products
SLOT_STEPS = 8  # the slots of a batch are a multiple of this part of a whole batch
TOKEN_STEPS = 32  # its tokens are a multiple of this part of its padded tokens


class Budget(NamedTuple):
    """How much is held in memory at a time."""

    images: int  # with their keys and values
    tokens: int  # of the texts of the pairs that are scored together


class Scoring(Protocol):
    def __call__(
        self, image_tokens: Tensor, text_index: Tensor, image_index: Tensor, advance: Callable[[int], None]
    ) -> Tensor:
        """Score P pairs: (P,), on the device.

        Args:
            image_tokens: (I, K, image width).
            text_index, image_index: (P,) rows of the texts and of image_tokens, sorted by image; on the CPU.
            advance: is told how many pairs were scored.
        """
        ...


@contextmanager
def scoring_of(scorer: PairScorer, texts: TextStates, budget: Budget, num_image_tokens: int) -> Iterator[Scoring]:
    """What is fastest on the device. The weights must not change inside."""
    if counting_is_free(scorer.device):
        yield PackedScoring(scorer, texts, budget)
    else:
        with joined_once(scorer.text_encoder, scorer.device.type):  # for all blocks: graphs read these copies
            yield SlottedScoring(scorer, texts, budget, num_image_tokens)


class PackedScoring:
    def __init__(self, scorer: PairScorer, texts: TextStates, budget: Budget) -> None:
        self._scorer, self._texts, self._budget = scorer, texts, budget

    def __call__(
        self, image_tokens: Tensor, text_index: Tensor, image_index: Tensor, advance: Callable[[int], None]
    ) -> Tensor:
        keys_values = list(self._scorer.keys_values(image_tokens))
        parts = []
        for rows in cut(self._texts.length[text_index], self._budget.tokens):
            pairs = PackedPairs(self._texts, text_index[rows], image_index[rows])
            parts.append(self._scorer.scores(self._texts, keys_values, pairs))
            advance(rows.stop - rows.start)
        return torch.cat(parts)


class SlottedScoring:
    def __init__(self, scorer: PairScorer, texts: TextStates, budget: Budget, num_image_tokens: int) -> None:
        self._scorer, self._budget = scorer, budget
        self._length = F.pad(texts.length, (0, 1), value=1)  # the last text fills slots: the first text's [CLS] alone
        start = F.pad(texts.start, (0, 1), value=0)
        self._texts = TextStates(texts.tokens, send(start, scorer.device), send(self._length, scorer.device))
        shape = (budget.images, num_image_tokens, 2 * texts.tokens.shape[1])
        # graphs read from where they were captured, so all blocks of images share this memory
        self._keys_values = [torch.empty(shape, dtype=scorer.dtype, device=scorer.device) for _ in scorer.layers]
        self._graphs = Graphs("re-ranking")

    def __call__(
        self, image_tokens: Tensor, text_index: Tensor, image_index: Tensor, advance: Callable[[int], None]
    ) -> Tensor:
        device = self._scorer.device
        for own, new in zip(self._keys_values, self._scorer.keys_values(image_tokens), strict=True):
            own[: len(new)] = new
        scores, pairs = [], []
        for batch in batches_of(self._length, text_index, image_index, self._budget.tokens):
            index = send(batch.text, device), send(batch.image, device)
            scores.append(self._graphs(self._score, *index, batch.longest, batch.at_most).clone())
            pairs.append(batch.pair)
            advance(int((batch.pair >= 0).sum()))
        pair = torch.cat(pairs)
        place = torch.empty_like(text_index)
        place[pair[pair >= 0]] = (pair >= 0).nonzero()[:, 0]
        return torch.cat(scores)[send(place, device)]

    def _score(self, text_index: Tensor, image_index: Tensor, longest: int, at_most: int) -> Tensor:
        pairs = SlottedPairs(self._texts, text_index, image_index, longest=longest, at_most=at_most)
        return self._scorer.scores(self._texts, self._keys_values, pairs)


class Batch(NamedTuple):
    """Pairs in slots of one image each, for `SlottedPairs`; on the CPU."""

    text: Tensor  # (slots * pairs of a slot,)
    image: Tensor  # (slots,)
    longest: int  # tokens of a text, at most
    at_most: int  # tokens of all texts
    pair: Tensor  # as text: the number of the pair given; -1 = none, only fills its slot


def batches_of(length: Tensor, text_index: Tensor, image_index: Tensor, tokens: int) -> Iterator[Batch]:
    """Cut pairs sorted by image into batches of texts of similar lengths, of `tokens` padded tokens at most.

    Args: length: of all texts; the last one fills slots.
    """
    longest = -(-length[text_index] // LENGTH_STEP) * LENGTH_STEP
    for bound in longest.unique().tolist():
        own = (longest == bound).nonzero()[:, 0]
        per_slot = max(1, QUERIES_OF_A_SLOT // bound)
        image, pair = _slots(own, image_index[own], per_slot)
        whole = max(1, tokens // (bound * per_slot))
        step = -(-whole // SLOT_STEPS)
        for images, pairs in zip(image.split(whole), pair.split(whole), strict=True):
            missing = -len(images) % step
            pairs = F.pad(pairs, (0, 0, 0, missing), value=-1).flatten()
            text = torch.where(pairs >= 0, text_index[pairs], len(length) - 1)
            token_step = -(-bound * len(text) // TOKEN_STEPS)
            at_most = -(-int(length[text].sum()) // token_step) * token_step
            yield Batch(text, F.pad(images, (0, missing)), bound, at_most, pairs)


def _slots(pair: Tensor, image_index: Tensor, per_slot: int) -> tuple[Tensor, Tensor]:
    """Put pairs (P,) of images (P,), which are sorted, into slots of one image each.

    Returns: images (S,); pairs (S, per_slot), -1 = none.
    """
    images, count = image_index.unique_consecutive(return_counts=True)
    slots = -(-count // per_slot)  # of each image
    number = torch.arange(len(pair)) - starts(count).repeat_interleave(count)  # of a pair among those of its image
    slotted = torch.full((int(slots.sum()) * per_slot,), -1)
    slotted[starts(slots).repeat_interleave(count) * per_slot + number] = pair
    return images.repeat_interleave(slots), slotted.view(-1, per_slot)
