"""Which patches of an image speak for each attribute chunk of a caption. L tokens, C chunks, S steps.

Attention over image tokens (models/attention_maps.py) does not tell: a token of a Vision Mamba also holds what the
scans have carried to it from everywhere else. So the matching logit of a chunk is traced through the whole model to the
pixels, by integrated gradients (arXiv:1703.01365). The path starts at an image that shows its mean patch everywhere.
"""

import torch
from torch import Tensor

from models.person_search import MATCH, PersonSearchModel

STEPS = 4  # of the path; more do not point better


def chunk_evidence(
    model: PersonSearchModel, image: Tensor, input_ids: Tensor, chunk_ids: Tensor, *, steps: int = STEPS
) -> Tensor:
    """Map each chunk to the patches: (C, rows, columns), >= 0, in raster order.

    A map, with its values below 0, adds up to what the chunk's logit gains from the mean patch to the image.

    Args:
        model: in evaluation mode.
        image: (1, 3, H, W), normalised.
        input_ids: (L,), [CLS] first, without padding.
        chunk_ids: (L,), 0 = in no chunk, k = in the k-th of C.
        steps: points on the path.
    Raises: ValueError if image or chunk_ids has another shape.
    """
    if image.ndim != 4 or len(image) != 1:
        raise ValueError(f"expected one normalised image (1, 3, H, W), got {tuple(image.shape)}")
    if input_ids.shape != chunk_ids.shape or input_ids.ndim != 1:
        raise ValueError(f"expected (L,) twice, got {tuple(input_ids.shape)} and {tuple(chunk_ids.shape)}")
    size, num_chunks = model.image_encoder.patch_size, int(chunk_ids.max())
    change = image - mean_patch(image, size)
    with torch.inference_mode(False), torch.enable_grad():
        places = ((torch.arange(steps, device=image.device) + 0.5) / steps).view(-1, 1, 1, 1)
        path = (image - (1 - places) * change).clone().requires_grad_()  # (S, 3, H, W)
        tokens = model.encode_image(path)[0].tokens
        ids = input_ids.clone().expand(steps, -1)
        hidden = model.text_encoder.cross_modal(ids, torch.ones_like(ids), tokens)
        logits = model.chunk_logits(hidden, chunk_ids.clone().expand(steps, -1))[0][:, :num_chunks, MATCH]  # (S, C)
        gradients = [torch.autograd.grad(logits[:, k].sum(), path, retain_graph=True)[0] for k in range(num_chunks)]
    rows, columns = model.image_encoder.grid
    if not gradients:
        return image.new_zeros(0, rows, columns)
    gains = torch.stack([gradient.mean(dim=0) * change[0] for gradient in gradients])  # (C, 3, H, W)
    patches = gains.unflatten(2, (rows, size)).unflatten(4, (columns, size))  # (C, 3, rows, P, columns, P)
    return patches.sum(dim=(1, 3, 5)).clamp(min=0)


def of_tokens(evidence: Tensor, chunk_ids: Tensor) -> Tensor:
    """Maps of chunks (C, rows, columns), and of each token its chunk (L,) -> (L, rows, columns), 0 in no chunk."""
    nothing = evidence.new_zeros(1, *evidence.shape[1:])
    return torch.cat([nothing, evidence])[chunk_ids]


def mean_patch(image: Tensor, size: int) -> Tensor:
    """Images (B, 3, H, W) whose patches are all the mean of those of the given ones."""
    patches = image.unflatten(2, (-1, size)).unflatten(4, (-1, size))  # (B, 3, rows, P, columns, P)
    return patches.mean(dim=(2, 4), keepdim=True).expand_as(patches).flatten(4, 5).flatten(2, 3)
