"""A training step written plainly: the definition that the step of train.py is measured against.

Each loss makes the passes that it needs by itself: one of the momentum encoder for mlm and one for mrtd, and of the
online encoder one for positives, one for negatives, one for mlm, one for mrtd. Word distributions are computed at every
place of every caption; samples and chunks are looped over; the optimiser goes through the parameters one by one. Random
draws are those of losses/, in the order of `training.lessons.prepare_lesson`, so that after the same seed both steps
draw the same. One process, no accumulation, no autocast.

B batch, n of its pairs that all losses but itc see, L tokens, V vocabulary. Source: MARS (arXiv:2407.04287), RaSa
(arXiv:2305.13653) and ALBEF (arXiv:2107.07651) for the losses.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.plain_bert import plain_cross_modal, plain_text
from bench.plain_vim import plain_image
from dataset.batches import TrainBatch
from dataset.texts import Texts
from losses.mae import KeptPatches, draw_kept_patches, patchify
from losses.masking import IGNORED, MaskedTokens, mask_tokens
from losses.mrtd import ReplacedTokens, places_of_words, replaced_tokens
from losses.negatives import Negatives, draw_negatives
from losses.objective import ObjectiveSettings
from models.image_features import ImageFeatures
from models.momentum import MomentumEncoder
from models.person_search import PersonSearchModel
from models.queue import FeatureQueue
from models.text_encoder import TextEncoder
from training.objectives import Objectives
from training.state import TrainState
from utils.config import Config


class Embedded(NamedTuple):
    """What the two encoders of a model, online or momentum, make of the batch."""

    image: ImageFeatures
    image_embedding: Tensor  # (B, E)
    text_tokens: Tensor  # (B, L, D)
    text_embedding: Tensor  # (B, E)


class Taught(NamedTuple):
    momentum: Embedded
    mlm: MaskedTokens
    mlm_logits: Tensor  # (n, L, V)
    mrtd: ReplacedTokens
    patches: KeptPatches


def plain_step(
    state: TrainState, objectives: Objectives, batch: TrainBatch, alpha: float, config: Config
) -> dict[str, Tensor]:
    """One optimiser step with the arguments and the result of `training.step.train_step`."""
    losses = plain_losses(state, objectives, batch, alpha)
    weights = config.losses.weights
    losses["total"] = sum(weights[key] * loss for key, loss in losses.items())  # type: ignore[assignment]
    state.optimizer.zero_grad(set_to_none=True)
    losses["total"].backward()
    if config.optimizer.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.clip_norm, foreach=False)
    state.optimizer.step()
    state.schedule.step()
    state.model.clamp_temperature()
    update_momentum(state.model, state.momentum_encoder)
    state.step += 1
    return {key: loss.detach() for key, loss in losses.items()}


def plain_losses(state: TrainState, objectives: Objectives, batch: TrainBatch, alpha: float) -> dict[str, Tensor]:
    """All seven losses, by key; the queue takes in the batch."""
    model, n = state.model, math.ceil(len(batch.person_id) * objectives.share)
    image, own_mask = model.normalize(batch.image_1), batch.text_1.attention_mask[:n]
    taught = teach(state.momentum_encoder, model.normalize(batch.image_2), batch, n, objectives.objectives[0].settings)
    online, momentum = embed(model, image, batch.text_2), taught.momentum
    with torch.no_grad():
        logits_i2t = online.image_embedding @ momentum.text_embedding.T / model.temperature
        logits_t2i = online.text_embedding @ momentum.image_embedding.T / model.temperature
        drawn = draw_negatives(logits_i2t, logits_t2i, batch.person_id)
    losses = {"itc": contrastive(online, momentum, state.queue, batch.person_id, model.temperature, alpha)}
    losses |= matching(model, online, batch, drawn, n)
    tokens = online.image.tokens[:n]
    mlm_logits = word_logits(model.text_encoder, taught.mlm.input_ids, own_mask, tokens)
    losses["mlm"] = masked_words(mlm_logits, taught.mlm.labels, taught.mlm_logits, alpha)
    hidden = plain_cross_modal(model.text_encoder, taught.mrtd.input_ids, own_mask, tokens)
    mrtd_logits, labels = model.head("mrtd_head")(hidden).flatten(0, 1), taught.mrtd.labels.flatten()
    losses["mrtd"] = F.cross_entropy(mrtd_logits, labels, ignore_index=IGNORED)
    text_mask = batch.text_2.attention_mask[:n]
    losses["mae"] = reconstruct(model, image[:n], taught.patches, online.text_tokens[:n], text_mask)
    state.queue.push(momentum.image_embedding, momentum.text_embedding, batch.person_id)
    return losses


@torch.no_grad()
def teach(teacher: MomentumEncoder, image: Tensor, batch: TrainBatch, n: int, settings: ObjectiveSettings) -> Taught:
    """The draws, and what the momentum encoders make of them."""
    momentum = embed(teacher, image, batch.text_2)
    ids, mask, tokens = batch.text_1.input_ids[:n], batch.text_1.attention_mask[:n], momentum.image.tokens[:n]
    mlm = mask_tokens(ids, mask, probability=settings.mlm_probability, **settings.words())
    mrtd = mask_tokens(ids, mask, probability=settings.mrtd_mask_probability, **settings.words())
    mlm_logits = word_logits(teacher.text_encoder, mlm.input_ids, mask, tokens)
    mrtd_logits = word_logits(teacher.text_encoder, mrtd.input_ids, mask, tokens)
    places = places_of_words(ids, mask, cls_id=settings.cls_id)
    rewritten = replaced_tokens(mrtd_logits[tuple(places.T)], places, ids)
    num_patches = teacher.image_encoder.num_patches
    patches = draw_kept_patches(n, num_patches, settings.mask_ratio, device=ids.device)
    return Taught(momentum, mlm, mlm_logits, rewritten, patches)


def embed(model: PersonSearchModel | MomentumEncoder, image: Tensor, text: Texts) -> Embedded:
    features = plain_image(model.image_encoder, image)
    text_tokens = plain_text(model.text_encoder, text.input_ids, text.attention_mask)
    image_embedding = F.normalize(model.vision_proj(features.pooled), dim=-1)
    return Embedded(features, image_embedding, text_tokens, F.normalize(model.text_proj(text_tokens[:, 0]), dim=-1))


def word_logits(encoder: TextEncoder, input_ids: Tensor, attention_mask: Tensor, image_tokens: Tensor) -> Tensor:
    """(n, L, V) at every place, padding too."""
    return encoder.mlm_logits(plain_cross_modal(encoder, input_ids, attention_mask, image_tokens))


def contrastive(
    online: Embedded, momentum: Embedded, queue: FeatureQueue, person_id: Tensor, temperature: Tensor, alpha: float
) -> Tensor:
    images = torch.cat([momentum.image_embedding, queue.image]).detach()
    texts = torch.cat([momentum.text_embedding, queue.text]).detach()
    same = (person_id[:, None] == torch.cat([person_id, queue.person_id])[None]).float()
    hard = same / same.sum(dim=1, keepdim=True)
    losses = []
    for own, teacher, candidates in (
        (online.image_embedding, momentum.image_embedding, texts),
        (online.text_embedding, momentum.text_embedding, images),
        (online.image_embedding, momentum.image_embedding, images),
        (online.text_embedding, momentum.text_embedding, texts),
    ):
        with torch.no_grad():
            target = alpha * (teacher @ candidates.T / temperature).softmax(dim=1) + (1 - alpha) * hard
        losses.append(-((own @ candidates.T / temperature).log_softmax(dim=1) * target).sum(dim=1).mean())
    return torch.stack(losses).mean()


def matching(
    model: PersonSearchModel, online: Embedded, batch: TrainBatch, drawn: Negatives, n: int
) -> dict[str, Tensor]:
    """itm, prd and attribute: positives in one pass, both kinds of negatives in another."""
    ids, mask, chunks = batch.text_2.input_ids, batch.text_2.attention_mask, batch.text_2.attribute_ids
    tokens = online.image.tokens
    positive = plain_cross_modal(model.text_encoder, ids[:n], mask[:n], tokens[:n])
    # a text with a wrong image, then an image with a wrong text; a batch of one person has neither
    rows = [(r, int(drawn.image_index[r])) for r in range(n) if drawn.image_valid[r]]
    rows += [(int(drawn.text_index[r]), r) for r in range(n) if drawn.text_valid[r]]
    texts = [text for text, _ in rows]
    losses = {"prd": F.cross_entropy(model.head("prd_head")(positive[:, 0]), batch.replaced[:n])}
    hidden, chunk_rows = list(positive), list(chunks[:n])
    if rows:
        images = torch.stack([tokens[image] for _, image in rows])
        negative = plain_cross_modal(model.text_encoder, ids[texts], mask[texts], images)
        hidden, chunk_rows = [*hidden, *negative], [*chunk_rows, *(chunks[text] for text in texts)]
    labels = torch.tensor([1] * n + [0] * len(rows), device=ids.device)
    losses["itm"] = F.cross_entropy(model.itm_head(torch.stack([row[0] for row in hidden])), labels)
    losses["attribute"] = attributes(model, hidden, chunk_rows, labels)
    return losses


def attributes(model: PersonSearchModel, hidden: Sequence[Tensor], chunks: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Pair by pair (L, D) and chunk by chunk, ids (L,)."""
    per_pair = []
    for row, ids, label in zip(hidden, chunks, labels, strict=True):
        losses = []
        for chunk in range(1, int(ids.max()) + 1):
            mean = row[ids == chunk].mean(dim=0)
            losses.append(F.cross_entropy(model.itm_head(mean), label))
        if losses:
            per_pair.append(torch.stack(losses).mean())
    return torch.stack(per_pair).mean() if per_pair else labels.new_zeros((), dtype=torch.float32)


def masked_words(logits: Tensor, labels: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """mlm from distributions at every place (n, L, V), labels (n, L)."""
    hard = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    distilled = -(teacher.softmax(dim=-1) * logits.log_softmax(dim=-1)).sum(dim=-1)  # (n, L)
    return (1 - alpha) * hard + alpha * distilled[labels != IGNORED].mean()


def reconstruct(
    model: PersonSearchModel, image: Tensor, patches: KeptPatches, text_tokens: Tensor, text_mask: Tensor
) -> Tensor:
    """mae of normalised images (n, 3, H, W)."""
    features = plain_image(model.image_encoder, image, patches.kept)
    prediction = model.head("decoder")(features, patches.kept, text_tokens, text_mask)
    error = (prediction - patchify(image, model.image_encoder.patch_size)).square().mean(dim=2)  # (n, patches)
    return error[patches.masked].mean()


@torch.no_grad()
def update_momentum(model: PersonSearchModel, teacher: MomentumEncoder) -> None:
    online = dict(model.named_parameters())
    for name, own in teacher.named_parameters():
        if online[name].requires_grad:
            own.mul_(teacher.momentum).add_(online[name], alpha=1 - teacher.momentum)
