"""Ring buffer of past momentum embeddings, the extra candidates of the contrastive loss. Q length, E embedding width.

Source: MoCo (arXiv:1911.05722); person ids beside the embeddings as in RaSa (arXiv:2305.13653).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMPTY = -100  # person id of a row that was never filled; no person has it


class FeatureQueue(nn.Module):
    """Embeddings of images and texts with their person ids; all of it buffers, so that checkpoints hold it."""

    image: Tensor  # (Q, E), rows L2-normalised, random until filled
    text: Tensor  # (Q, E)
    person_id: Tensor  # (Q,) int64
    pointer: Tensor  # (1,) int64, the row that is written next

    def __init__(self, size: int, embed_dim: int) -> None:
        """Raises ValueError if size is below 1."""
        super().__init__()
        if size < 1:
            raise ValueError(f"the queue's size must be at least 1, got {size}")
        self.register_buffer("image", F.normalize(torch.randn(size, embed_dim), dim=1))
        self.register_buffer("text", F.normalize(torch.randn(size, embed_dim), dim=1))
        self.register_buffer("person_id", torch.full((size,), EMPTY))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def push(self, image: Tensor, text: Tensor, person_id: Tensor) -> None:
        """Overwrite the oldest rows with image and text (n, E) and person_id (n,); of more than Q rows the last Q stay.

        Raises: ValueError if the three differ in length.
        """
        if not len(image) == len(text) == len(person_id):
            raise ValueError(f"images, texts and ids must pair up, got {len(image)}, {len(text)} and {len(person_id)}")
        size = len(self.person_id)
        dropped = max(0, len(image) - size)
        offset = torch.arange(dropped, len(image), device=self.pointer.device)
        row = (self.pointer + offset) % size  # (n,), tensor arithmetic: a GPU need not wait
        self.image[row] = image[dropped:].to(self.image.dtype)
        self.text[row] = text[dropped:].to(self.text.dtype)
        self.person_id[row] = person_id[dropped:]
        self.pointer.add_(len(image)).remainder_(size)
