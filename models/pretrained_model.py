"""The model as a folder that can be shared: config.json with every size, model.safetensors with every weight.

model = PretrainedPersonSearch.from_pretrained("exported/cuhk")     # a folder, or a name on the Hugging Face hub
"""

from typing import Any

from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from models.build import model_parts
from models.checkpoint_kinds import HEAD_OF_TASK
from models.person_search import PersonSearchModel


class PretrainedPersonSearch(PersonSearchModel, PyTorchModelHubMixin, library_name="mamba-tbps", license="mit"):
    """A PersonSearchModel built from plain values, so that its folder needs no other file.

    Args:
        max_words: maximum number of words of a cleaned caption, and of its tokens with [CLS].
        tasks: keys of the losses whose heads the folder holds.
        others: see `models.build.model_sizes`.
    """

    def __init__(
        self,
        *,
        image_encoder: dict[str, Any],
        text_encoder: dict[str, Any],
        decoder: dict[str, Any],
        embed_dim: int,
        temperature: float,
        pixel_mean: list[float],
        pixel_std: list[float],
        tasks: list[str],
        max_words: int,
    ) -> None:
        parts = model_parts(image_encoder, text_encoder, decoder)
        super().__init__(
            parts.image_encoder,
            parts.text_encoder,
            embed_dim=embed_dim,
            temperature=temperature,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        heads: dict[str, nn.Module] = {
            "prd": nn.Linear(parts.text_encoder.width, 2),
            "mrtd": nn.Linear(parts.text_encoder.width, 2),
            "mae": parts.decoder,
        }
        self.add_heads({HEAD_OF_TASK[task]: head for task, head in heads.items() if task in tasks})
        self.max_words = max_words
