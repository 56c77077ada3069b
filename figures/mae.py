"""The reconstruction task: images, what the masked pass sees of them, and what the decoder rebuilds."""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from figures.inputs import (
    LoadedModel,
    Pair,
    add_model_arguments,
    add_pair_arguments,
    chosen_pairs,
    encode_caption,
    load_models,
    name_of_data,
    read_input,
)
from figures.style import GREY, new_page, save
from losses.mae import KeptPatches, draw_kept_patches, mae_loss, patchify, unpatchify
from models.person_search import PersonSearchModel
from utils.errors import UserError

HIDDEN_GREY = 0.72  # grey value of hidden patches, in [0, 1]
CAPTION_INCHES, IMAGE_INCHES, GAP_INCHES, MARGIN_INCHES = 2.9, 1.0, 0.1, 0.15
HEADER_INCHES, NOTE_INCHES, FOOTER_INCHES = 0.85, 0.3, 0.5
WORDS_INCHES = 7.0  # width that title and legend need
CHARACTERS_PER_LINE = 40  # of 9 pt text on CAPTION_INCHES
LINE_INCHES = 0.165


class Rebuilt(NamedTuple):
    """One image as three pictures (H, W, 3) in [0, 1], and the errors of its hidden patches."""

    image: np.ndarray
    masked: np.ndarray  # hidden patches grey
    rebuilt: np.ndarray  # visible patches as they are
    error: float  # mean squared difference of hidden patches in normalised pixels: this image's mae loss
    error_of_mean: float  # the error if the mean colour of the visible patches filled the hidden ones


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_pair_arguments(parser, number=4)
    parser.add_argument("--out", type=Path, help="file without suffix (default: mae beside the last checkpoint)")


def make(args: argparse.Namespace) -> list[Path]:
    """`figures mae`: a row per caption and image."""
    models = load_models(args, with_decoder=True)
    pairs = chosen_pairs(args, models[0].config)
    results = [[rebuild_pair(model, pair, args.seed + row) for model in models] for row, pair in enumerate(pairs)]
    ratios = " and ".join(dict.fromkeys(f"{100 * model.config.model.mask_ratio:g} %" for model in models))
    title = f"{name_of_data(models[0].config, args.split)}: {ratios} of the patches hidden"
    figure = draw_rebuilt([pair.caption for pair in pairs], results, [model.name for model in models], title)
    return save(figure, args.out or Path(args.checkpoint[-1]).parent / "mae")


def rebuild_pair(loaded: LoadedModel, pair: Pair, seed: int) -> Rebuilt:
    """Rebuild the pair's image. Models with equal grids and mask ratios hide the same patches for the same seed."""
    _, encoded = encode_caption(loaded, pair.caption)
    ratio, generator = loaded.config.model.mask_ratio, torch.Generator().manual_seed(seed)
    drawn = draw_kept_patches(1, loaded.model.image_encoder.num_patches, ratio, generator=generator)
    kept = KeptPatches(*(field.to(loaded.device) for field in drawn))
    input_ids = torch.tensor([encoded.ids], device=loaded.device)
    return rebuild(loaded.model, read_input(loaded, pair.image), input_ids, kept)


@torch.inference_mode()
def rebuild(model: PersonSearchModel, image: Tensor, input_ids: Tensor, kept: KeptPatches) -> Rebuilt:
    """Rebuild one image from its kept patches and its caption.

    Args:
        image: (1, 3, H, W) uint8.
        input_ids: (1, L).
        kept: of one image.
    Raises: UserError if the model has no decoder.
    """
    if "decoder" not in model.heads:
        raise UserError("this model has no decoder to rebuild images with")
    normalised, patch = model.normalize(image), model.image_encoder.patch_size
    text_mask = torch.ones_like(input_ids)
    text, _ = model.encode_text(input_ids, text_mask)
    prediction = model.reconstruct(normalised, kept.kept, text.tokens, text_mask)  # (1, N, P*P*3)
    patches = patchify(normalised, patch)
    hidden = kept.masked[..., None]  # (1, N, 1)
    colours = patches.unflatten(2, (-1, 3))  # (1, N, P*P, 3)
    mean = colours[~kept.masked].mean(dim=(0, 1)).repeat(patch**2).expand_as(patches)
    grey = model.normalize(torch.full_like(image, round(255 * HIDDEN_GREY)))

    def picture(own: Tensor) -> np.ndarray:
        whole = unpatchify(own, patch, (image.shape[2], image.shape[3]))
        return (whole * model.pixel_std + model.pixel_mean).clamp(0, 1)[0].permute(1, 2, 0).cpu().numpy()

    return Rebuilt(
        picture(patches),
        picture(torch.where(hidden, patchify(grey, patch), patches)),
        picture(torch.where(hidden, prediction, patches)),
        float(mae_loss(prediction, normalised, kept.masked, patch)),
        float(mae_loss(mean, normalised, kept.masked, patch)),
    )


def draw_rebuilt(
    captions: Sequence[str], results: Sequence[Sequence[Rebuilt]], names: Sequence[str], title: str
) -> Figure:
    """Draw a row per image: caption, input, and for each model what it sees and what it rebuilds, errors below."""
    tall = results[0][0].image.shape[0] / results[0][0].image.shape[1]
    size = (IMAGE_INCHES, IMAGE_INCHES * tall)
    first_image = MARGIN_INCHES + CAPTION_INCHES
    lefts = [first_image + column * (IMAGE_INCHES + GAP_INCHES) for column in range(1 + 2 * len(names))]
    width = max(WORDS_INCHES, lefts[-1] + IMAGE_INCHES + MARGIN_INCHES)
    row_inches = size[1] + NOTE_INCHES
    height = HEADER_INCHES + len(results) * row_inches + FOOTER_INCHES
    figure, axes = new_page(width, height)
    axes.text(MARGIN_INCHES, 0.2, title, fontsize=11, fontweight="bold", va="center")
    for left, label in zip(lefts, ["input"] + ["masked", "rebuilt"] * len(names), strict=True):
        axes.text(left + IMAGE_INCHES / 2, HEADER_INCHES - 0.08, label, ha="center", va="bottom")
    for left, name in zip(lefts[1::2], names, strict=True):
        middle = left + IMAGE_INCHES + GAP_INCHES / 2
        axes.text(middle, HEADER_INCHES - 0.27, name, fontweight="bold", ha="center", va="bottom")
    for row, (caption, own) in enumerate(zip(captions, results, strict=True)):
        top = HEADER_INCHES + row * row_inches
        room = max(1, int(size[1] / LINE_INCHES))
        lines = textwrap.wrap(" ".join(caption.split()), CHARACTERS_PER_LINE, max_lines=room, placeholder=" …")
        axes.text(MARGIN_INCHES, top, "\n".join(lines), va="top", parse_math=False, linespacing=1.2)
        pictures = [own[0].image, *(part for one in own for part in (one.masked, one.rebuilt))]
        for left, picture in zip(lefts, pictures, strict=True):
            _show(axes, picture, (left, top), size)
        for left, one in zip(lefts[2::2], own, strict=True):
            note = f"{one.error:.2f}  ({one.error_of_mean:.2f})"
            axes.text(left + IMAGE_INCHES / 2, top + size[1] + 0.05, note, fontsize=8, ha="center", va="top")
    legend = "below: mean squared error of the hidden patches, in normalised pixels;\n"
    legend += "in brackets, had they been filled with the mean colour of the visible ones."
    axes.text(MARGIN_INCHES, height - FOOTER_INCHES / 2, legend, fontsize=8, va="center", linespacing=1.3)
    return figure


def _show(axes: Axes, picture: np.ndarray, corner: tuple[float, float], size: tuple[float, float]) -> None:
    (left, top), (width, height) = corner, size
    axes.imshow(picture, extent=(left, left + width, top + height, top), aspect="auto", interpolation="antialiased")
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=GREY, linewidth=0.8))
