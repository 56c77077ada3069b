"""Which patches of an image tell the words of each attribute chunk of a caption. L tokens, C chunks, S steps.

The words of a chunk are masked one by one. The language head says how likely each of them is, given the image and the
rest of the caption. The sum of their log-probabilities is traced through the whole model to the pixels, by integrated
gradients (arXiv:1703.01365). The path starts at an image that shows its own mean patch everywhere.

Why not attention (models/attention_maps.py): a token of a Vision Mamba also holds what the scans have carried to it.
Why not the score of the chunk by the matching head: in the attribute loss as published, all chunks of a pair have its
label, so all their scores rest on the same patches.
"""

import torch
from torch import Tensor

from dataset.texts import Places
from models.person_search import PersonSearchModel

STEPS = 3  # of the path; more do not point better


def chunk_evidence(
    model: PersonSearchModel, image: Tensor, input_ids: Tensor, chunk_ids: Tensor, *, mask_id: int, steps: int = STEPS
) -> Tensor:
    """Map each chunk to the patches: (C, rows, columns), >= 0, in raster order.

    A map, with its values below 0, adds up to what the log-probability (nats) gains from the mean patch to the image.

    Args:
        model: in evaluation mode, with a language head that was trained.
        image: (1, 3, H, W), normalised.
        input_ids: (L,), [CLS] first, without padding.
        chunk_ids: (L,), 0 = in no chunk, k = in the k-th of C.
        mask_id: of [MASK]. steps: points on the path.
    Raises: ValueError if image or chunk_ids has another shape.
    """
    if image.ndim != 4 or len(image) != 1:
        raise ValueError(f"expected one normalised image (1, 3, H, W), got {tuple(image.shape)}")
    if input_ids.shape != chunk_ids.shape or input_ids.ndim != 1:
        raise ValueError(f"expected (L,) twice, got {tuple(input_ids.shape)} and {tuple(chunk_ids.shape)}")
    (rows, columns), size = model.image_encoder.grid, model.image_encoder.patch_size
    change = image - mean_patch(image, size)
    maps = [image.new_zeros(0, rows, columns)]
    with torch.inference_mode(False), torch.enable_grad():
        places = ((torch.arange(steps, device=image.device) + 0.5) / steps).view(-1, 1, 1, 1)
        path = (image - (1 - places) * change).clone().requires_grad_()  # (S, 3, H, W)
        tokens = model.encode_image(path)[0].tokens
        for chunk in range(1, int(chunk_ids.max()) + 1):
            places_of_words = (chunk_ids == chunk).nonzero()[:, 0]
            told = log_probabilities(model, tokens, input_ids.clone(), places_of_words, mask_id)
            (gradient,) = torch.autograd.grad(told.sum(), path, retain_graph=True)  # of tokens, for the next chunk
            gains = (gradient.mean(dim=0) * change[0]).detach()  # (3, H, W)
            patches = gains.unflatten(1, (rows, size)).unflatten(3, (columns, size))  # (3, rows, P, columns, P)
            maps.append(patches.sum(dim=(0, 2, 4))[None])
    return torch.cat(maps).clamp(min=0)


def log_probabilities(
    model: PersonSearchModel, image_tokens: Tensor, input_ids: Tensor, words: Tensor, mask_id: int
) -> Tensor:
    """How likely each word is once it alone is masked, by the language head: (n, S), nats.

    Args: image_tokens (S, K, D); input_ids (L,), without padding; words (n,), their places; mask_id, of [MASK].
    """
    number, each = len(words), torch.arange(len(words), device=words.device)
    masked = input_ids.expand(number, -1).clone()
    masked[each, words] = mask_id
    ids = masked.repeat_interleave(len(image_tokens), dim=0)  # (n * S, L), word by word
    wanted = Places((ids == mask_id).long())
    hidden = model.text_encoder.cross_modal(
        ids, torch.ones_like(ids), image_tokens, own_images=len(image_tokens), wanted=wanted
    )
    at_words = hidden.unflatten(0, (number, -1))[each, :, words]  # (n, S, D)
    likely = model.word_logits(at_words).log_softmax(dim=-1)  # (n, S, V)
    return likely[each, :, input_ids[words]]


def of_tokens(evidence: Tensor, chunk_ids: Tensor) -> Tensor:
    """Maps of chunks (C, rows, columns), and of each token its chunk (L,) -> (L, rows, columns), 0 in no chunk."""
    nothing = evidence.new_zeros(1, *evidence.shape[1:])
    return torch.cat([nothing, evidence])[chunk_ids]


def mean_patch(image: Tensor, size: int) -> Tensor:
    """Images (B, 3, H, W) whose patches are all the mean of those of the given ones."""
    patches = image.unflatten(2, (-1, size)).unflatten(4, (-1, size))  # (B, 3, rows, P, columns, P)
    return patches.mean(dim=(2, 4), keepdim=True).expand_as(patches).flatten(4, 5).flatten(2, 3)
