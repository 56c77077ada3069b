"""Contrastive loss with momentum targets between and within images and texts.

B rows, K candidates, Q queue length, E embedding width. Embeddings are L2-normalised, so a product is a cosine.
Source: ALBEF (arXiv:2107.07651), soft targets; RaSa (arXiv:2305.13653), targets spread over a person's
candidates and the two directions within a modality.
"""

import torch
from torch import Tensor

from losses.objective import Objective, Step
from losses.precision import at_least_float32


def identity_targets(person_id: Tensor, candidate_id: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Spread each row's weight evenly over the candidates of the same person: (B,), (K,) -> (B, K), rows sum to 1.

    Raises: ValueError if a row has no candidate of its person; on a GPU, which would have to be waited for, its row
    becomes NaN instead.
    """
    same = (person_id[:, None] == candidate_id[None, :]).to(dtype)
    num_same = same.sum(dim=1, keepdim=True)
    if num_same.device.type == "cpu" and not num_same.all():
        raise ValueError("a person_id has no match among the candidates; put the batch itself in front of the queue")
    return same / num_same


def itc_loss(
    logits: Tensor, targets: Tensor, momentum_logits: Tensor | None = None, *, alpha: float | Tensor = 0.0
) -> Tensor:
    """Cross-entropy of one direction against soft targets, in nats, mean over B.

    Args:
        logits: (B, K) similarity / temperature.
        targets: (B, K), rows sum to 1.
        momentum_logits: (B, K) of the momentum encoder; they get no gradient.
        alpha: share of the momentum encoder's softmax in the targets, in [0, 1].
    Returns: scalar, never below the entropy of the targets: it can rise while the queue fills with the same people.
    Raises: ValueError if shapes differ, or if alpha can be above 0 and momentum_logits is missing.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must have one shape")
    logits = at_least_float32(logits)
    if momentum_logits is not None:
        if momentum_logits.shape != logits.shape:
            raise ValueError(f"momentum_logits {tuple(momentum_logits.shape)} must be shaped {tuple(logits.shape)}")
        soft_targets = at_least_float32(momentum_logits.detach()).softmax(dim=1)
        targets = alpha * soft_targets + (1 - alpha) * targets
    elif isinstance(alpha, Tensor) or alpha > 0:  # reading a tensor's value would make the GPU wait
        raise ValueError("alpha above 0 needs momentum_logits")
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    momentum_image: Tensor,
    momentum_text: Tensor,
    *,
    queue_image: Tensor,
    queue_text: Tensor,
    person_id: Tensor,
    queue_person_id: Tensor,
    temperature: Tensor,
    alpha: float | Tensor,
    candidate_image: Tensor | None = None,
    candidate_text: Tensor | None = None,
    candidate_person_id: Tensor | None = None,
) -> Tensor:
    """Mean of itc_loss over the directions image->text, text->image, image->image and text->text.

    Each row is compared with the momentum embeddings of the batch followed by those of the queue. Gradient reaches
    image, text and, through the online logits alone, temperature.

    Args:
        image, text: (B, E) online embeddings.
        momentum_image, momentum_text: (B, E) of the momentum encoders, of the same samples.
        queue_image, queue_text: (Q, E); queue_person_id: (Q,), -100 where the queue was never filled.
        person_id: (B,).
        temperature: scalar that divides the similarity.
        alpha: share of the momentum encoder's softmax in the targets, in [0, 1].
        candidate_image, candidate_text, candidate_person_id: (R, E), (R, E), (R,) momentum embeddings and ids gathered
            from all processes, own ones included; all three or none (then the own ones are taken).
    Raises: ValueError if only some of the three candidate arguments are given.
    """
    gathered = (candidate_image, candidate_text, candidate_person_id)
    if any(part is None for part in gathered) and not all(part is None for part in gathered):
        raise ValueError("give candidate_image, candidate_text and candidate_person_id together, or none of them")
    image_columns = torch.cat([momentum_image if candidate_image is None else candidate_image, queue_image])
    text_columns = torch.cat([momentum_text if candidate_text is None else candidate_text, queue_text])
    column_id = torch.cat([person_id if candidate_person_id is None else candidate_person_id, queue_person_id])
    # images and texts are compared with the same columns, so two directions at a time are one product
    rows = at_least_float32(torch.cat([image, text]))
    momentum_rows = at_least_float32(torch.cat([momentum_image, momentum_text]))
    targets = identity_targets(person_id, column_id, dtype=rows.dtype).repeat(2, 1)
    # Without autocast: bf16 products, divided by a temperature near 0.05, would be off by several hundredths.
    with torch.autocast(device_type=image.device.type, enabled=False):
        losses = []
        for candidates in (text_columns, image_columns):
            columns = at_least_float32(candidates.detach()).T
            with torch.no_grad():
                momentum_logits = momentum_rows @ columns / temperature
            losses.append(itc_loss(rows @ columns / temperature, targets, momentum_logits, alpha=alpha))
        return torch.stack(losses).mean()


class ITC(Objective[None]):
    """The only objective that sees all B pairs, and the momentum embeddings of other processes and earlier batches."""

    key = "itc"
    reaches = ("vision_proj", "text_proj", "temperature")

    def loss(self, step: Step, prepared: None) -> Tensor:
        momentum, candidates, queue = step.lesson.momentum, step.candidates, step.queue
        return contrastive_loss(
            step.passes.image_embedding,
            step.passes.text_embedding,
            momentum.image,
            momentum.text,
            queue_image=queue.image,
            queue_text=queue.text,
            person_id=momentum.person_id,
            queue_person_id=queue.person_id,
            temperature=step.model.temperature,
            alpha=step.alpha,
            candidate_image=candidates.image,
            candidate_text=candidates.text,
            candidate_person_id=candidates.person_id,
        )
