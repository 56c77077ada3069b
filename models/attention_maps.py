"""Where in an image the cross-modal encoder looks for each word of a caption. L tokens, K image tokens.

Grad-CAM on cross-attention as in ALBEF (arXiv:2107.07651, section 6.3): the attention probabilities of one layer times
the gradient of the matching logit with respect to them, positive part, mean over heads. Attention that raises the score
stays; attention that has no effect or lowers the score becomes 0.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.bert_layers import Attention
from models.person_search import PersonSearchModel
from utils.errors import UserError


class CrossAttention(NamedTuple):
    """Attention of one layer for one text-image pair, and its effect on the score."""

    logit: Tensor  # (), the matching logit of the pair
    probabilities: Tensor  # (heads, L, K), the columns of the patches last; rows sum to 1
    gradient: Tensor  # (heads, L, K), of the logit with respect to each probability


def word_attention(model: PersonSearchModel, image: Tensor, input_ids: Tensor, layer: int | None = None) -> Tensor:
    """Map each token to the patches: (L, rows, columns), >= 0, in raster order; [CLS] is token 0.

    The maps of one caption share a unit and can be compared; maps of different captions or layers cannot.

    Args:
        image: (1, 3, H, W), normalised. input_ids: (L,), [CLS] first, without padding.
        layer: number of the layer, from 0; None = `default_layer`.
    Raises: ValueError if image or input_ids has another shape; UserError if the layer has no map of words.
    """
    if image.ndim != 4 or len(image) != 1 or not image.is_floating_point():
        raise ValueError(f"expected one normalised image (1, 3, H, W), got {image.dtype} {tuple(image.shape)}")
    if input_ids.ndim != 1:
        raise ValueError(f"expected the tokens of one caption (L,), got {tuple(input_ids.shape)}")
    with torch.no_grad(), _evaluating(model):
        image_tokens = model.encode_image(image)[0].tokens  # (1, K, D)
    return token_maps(model, image_tokens, input_ids, default_layer(model) if layer is None else layer)


def token_maps(model: PersonSearchModel, image_tokens: Tensor, input_ids: Tensor, layer: int) -> Tensor:
    """As `word_attention`, for an image that is encoded already. Arguments and errors as of `cross_attention`."""
    attention = cross_attention(model, image_tokens, input_ids, layer)
    heat = (attention.probabilities * attention.gradient).clamp(min=0).mean(dim=0)  # (L, K)
    return heat[:, -model.image_encoder.num_patches :].unflatten(1, model.image_encoder.grid)


def default_layer(model: PersonSearchModel) -> int:
    """Return the layer two thirds up (8 of 12, as ALBEF shows), or the nearest one that has maps of words.

    Raises: UserError if no layer has maps, because only the last one has cross-attention.
    """
    usable = _usable_layers(model)
    if not usable:
        raise UserError(
            "this model has no attention of words to show: only its last layer attends to the image, and there only "
            "[CLS] has a say in the matching score"
        )
    wanted = model.text_encoder.sizes.num_hidden_layers * 2 // 3
    return min(usable, key=lambda number: abs(number - wanted))


def cross_attention(model: PersonSearchModel, image_tokens: Tensor, input_ids: Tensor, layer: int) -> CrossAttention:
    """Return the attention of one layer and the gradient of the matching logit. The model stays as it is.

    Args:
        image_tokens: (1, K, D), from the image encoder. input_ids: (L,).
    Raises: UserError if the layer does not exist, has no cross-attention, or is the last one.
    """
    _check_layer(model, layer)
    sublayer: Any = model.text_encoder.bert.encoder.layer[layer].crossattention
    with torch.inference_mode(False), torch.enable_grad(), _evaluating(model):
        image_tokens, input_ids = image_tokens.clone(), input_ids.clone()  # those of inference mode have no gradient
        with _explicit(sublayer, image_tokens[0]) as seen:
            logit = model.match(input_ids[None], torch.ones_like(input_ids[None]), image_tokens)[0]
        (probabilities,) = seen
        (gradient,) = torch.autograd.grad(logit, probabilities)
    return CrossAttention(logit.detach(), probabilities.detach(), gradient)


@contextmanager
def _explicit(sublayer: Attention, image_tokens: Tensor) -> Iterator[list[Tensor]]:
    """Compute the cross-attention of one caption explicitly, and collect its probabilities in the yielded list.

    A hook replaces the result of fused attention before the output projection, so the rest of the pass is the model's
    own. image_tokens: (K, D). Other threads that use the model meanwhile are not affected.
    """
    seen: list[Tensor] = []
    caller, attention = threading.get_ident(), sublayer.self

    def replace(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
        if threading.get_ident() != caller:
            return None
        fused, hidden = inputs  # (L, D) each
        queries, keys, values = (
            y.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)  # (heads, L or K, D / heads)
            for y in (attention.query(hidden), attention.key(image_tokens), attention.value(image_tokens))
        )
        logits = queries @ keys.mT / queries.shape[-1] ** 0.5
        probabilities = logits.softmax(dim=-1).detach().requires_grad_()
        seen.append(probabilities)
        return (probabilities @ values).transpose(0, 1).flatten(1).to(fused.dtype), hidden

    hook = sublayer.output.register_forward_pre_hook(replace)
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode (no dropout) and back. Does nothing if the model is in it already."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


def _usable_layers(model: PersonSearchModel) -> list[int]:
    """Return the layers with cross-attention except the last, whose [CLS] alone reaches the matching head."""
    layers = model.text_encoder.bert.encoder.layer
    return [number for number, layer in enumerate(layers[:-1]) if hasattr(layer, "crossattention")]


def _check_layer(model: PersonSearchModel, layer: int) -> None:
    usable = _usable_layers(model)
    if layer not in usable:
        layers = ", ".join(map(str, usable)) or "none"
        raise UserError(
            f"layer {layer} has no attention of words to show; those that have: {layers} (numbered from 0; in the last "
            "one only [CLS] has a say in the matching score)"
        )
