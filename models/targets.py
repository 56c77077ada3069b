"""What a training step prepares before the online pass: the random draws and the momentum encoders' targets.

B batch, n of its pairs that all losses but itc see, E embedding, L tokens, N patches, M masked words, V vocabulary.
Nothing here gets a gradient.
Source: design of the losses in ALBEF (arXiv:2107.07651), RaSa (arXiv:2305.13653) and MAE (arXiv:2111.06377).
"""

import math
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from models.momentum import MomentumEncoder
from models.person_search import TokenCounts, TrainInputs
from models.sampling import (
    IGNORED,
    draw_kept_patches,
    mask_tokens,
    most_masked,
    places_of,
    places_of_words,
    replaced_tokens,
)

# There tokens are counted where they are needed; what is known beforehand can be more than there are.
COUNTING_IS_FREE = frozenset({"cpu"})


class StepSettings(NamedTuple):
    """Constants of the draws."""

    vocab_size: int
    mask_id: int
    cls_id: int
    mlm_probability: float
    mrtd_mask_probability: float
    mask_ratio: float
    patch_size: int
    cross_modal_share: float  # of a batch's pairs, the first ones, that all losses but itc see
    tasks: frozenset[str]


class Targets(NamedTuple):
    """What the online outputs are compared with; None where a task is off."""

    momentum_image: Tensor  # (B, E)
    momentum_text: Tensor  # (B, E)
    mlm_labels: Tensor | None  # (M,)
    mlm_logits: Tensor | None  # (M, V) of the momentum encoder
    mrtd_labels: Tensor | None  # (n, L)
    masked_patches: Tensor | None  # (n, N) bool


class Text(Protocol):
    """Padded tokens; `dataset.batches.Tokens`, say."""

    input_ids: Tensor  # (B, L)
    attention_mask: Tensor  # (B, L), 1 = token
    attribute_ids: Tensor  # (B, L), 0 = none, k = k-th chunk
    num_tokens: Tensor | None  # (B,), on the CPU
    num_in_chunks: Tensor | None  # (B,), on the CPU


class Samples(Protocol):
    """Image-text pairs; `dataset.batches.TrainBatch`, say."""

    text_1: Text  # the own captions
    text_2: Text  # the weak positives
    person_id: Tensor  # (B,)


@torch.no_grad()
def prepare_step(
    image_1: Tensor, image_2: Tensor, samples: Samples, momentum_encoder: MomentumEncoder, settings: StepSettings
) -> tuple[TrainInputs, Targets]:
    """Draw masks and patches, run the momentum encoders, and let them rewrite the captions.

    Args: image_1 for the online encoder, image_2 for the momentum encoder, both (B, 3, H, W), normalised.
    """
    num_pairs = math.ceil(len(image_1) * settings.cross_modal_share)
    own_ids, own_mask = samples.text_1.input_ids[:num_pairs], samples.text_1.attention_mask[:num_pairs]
    weak_ids, weak_mask = samples.text_2.input_ids, samples.text_2.attention_mask
    counts = None if own_ids.device.type in COUNTING_IS_FREE else token_counts(samples, num_pairs)
    features, momentum_image = momentum_encoder.encode_image(image_2)
    momentum_text = momentum_encoder.encode_text(weak_ids, weak_mask, at_most=counts and counts.weak)
    own_tokens = counts and counts.own
    words = _word_targets(own_ids, own_mask, features.tokens[:num_pairs], momentum_encoder, settings, own_tokens)
    patches = None
    if "mae" in settings.tasks:
        num_patches = image_1.shape[-1] * image_1.shape[-2] // settings.patch_size**2
        patches = draw_kept_patches(num_pairs, num_patches, settings.mask_ratio, device=own_ids.device)
    inputs = TrainInputs(
        image=image_1,
        kept_patches=patches.kept if patches else None,
        person_id=samples.person_id,
        input_ids=weak_ids,
        attention_mask=weak_mask,
        attribute_ids=samples.text_2.attribute_ids,
        momentum_image=momentum_image,
        momentum_text=momentum_text,
        own_attention_mask=own_mask,
        mlm_ids=words.mlm_ids,
        mlm_places=words.mlm_places,
        mrtd_ids=words.mrtd_ids,
        counts=counts,
    )
    targets = Targets(
        momentum_image,
        momentum_text,
        words.mlm_labels,
        words.mlm_logits,
        words.mrtd_labels,
        patches.masked if patches else None,
    )
    return inputs, targets


def token_counts(samples: Samples, num_pairs: int) -> TokenCounts | None:
    """For the first num_pairs samples; None where the samples come without their numbers."""
    weak, own, chunks = samples.text_2.num_tokens, samples.text_1.num_tokens, samples.text_2.num_in_chunks
    if weak is None or own is None or chunks is None:
        return None
    return TokenCounts(
        weak=int(weak.sum()),
        weak_first=int(weak[:num_pairs].sum()),
        weak_longest=int(weak.max()),
        chunks_first=int(chunks[:num_pairs].sum()),
        chunks_most=int(chunks.max()),
        own=int(own[:num_pairs].sum()),
    )


class _Words(NamedTuple):
    mlm_ids: Tensor | None = None  # (B, L)
    mlm_places: Tensor | None = None  # (M, 2)
    mlm_labels: Tensor | None = None  # (M,)
    mlm_logits: Tensor | None = None  # (M, V)
    mrtd_ids: Tensor | None = None  # (B, L)
    mrtd_labels: Tensor | None = None  # (B, L)


def _word_targets(
    ids: Tensor,
    mask: Tensor,
    image_tokens: Tensor,
    momentum_encoder: MomentumEncoder,
    settings: StepSettings,
    num_tokens: int | None,
) -> _Words:
    """One momentum pass over both masked versions of the captions: soft targets for mlm, new words for mrtd."""
    mask_some = partial(mask_tokens, vocab_size=settings.vocab_size, mask_id=settings.mask_id, cls_id=settings.cls_id)
    num_words = None if num_tokens is None else num_tokens - len(ids)  # without [CLS]
    versions, places = [], []
    words = _Words()
    if "mlm" in settings.tasks:
        masked = mask_some(ids, mask, probability=settings.mlm_probability)
        most = None if num_words is None else most_masked(num_words, settings.mlm_probability)
        where = places_of(masked.labels != IGNORED, most)
        words = words._replace(mlm_ids=masked.input_ids, mlm_places=where, mlm_labels=masked.labels[tuple(where.T)])
        versions.append(masked.input_ids)
        places.append(where)
    if "mrtd" in settings.tasks:
        masked = mask_some(ids, mask, probability=settings.mrtd_mask_probability)
        versions.append(masked.input_ids)
        places.append(places_of_words(ids, mask, cls_id=settings.cls_id, at_most=num_words))
    if not versions:
        return words
    logits = momentum_encoder.predict_tokens(versions, mask, image_tokens, places, at_most=num_tokens)
    if "mlm" in settings.tasks:
        words = words._replace(mlm_logits=logits[0])
    if "mrtd" in settings.tasks:
        replaced = replaced_tokens(logits[-1], places[-1], ids)
        words = words._replace(mrtd_ids=replaced.input_ids, mrtd_labels=replaced.labels)
    return words
