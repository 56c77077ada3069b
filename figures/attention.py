"""Where models look in an image for each word of a caption, one row per model, or which patches tell its chunks.

Maps of `models.attention_maps` or `models.evidence_maps`. W words. Word pieces are merged into words, and words are
coloured by their attribute chunk.
"""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional as F

from dataset.attributes import Chunks, chunk_ids, chunks_by_rules, chunks_by_spacy, installed_parser
from dataset.tokenizer import Encoded
from dataset.words import CaptionWord, words_in
from figures.inputs import (
    LoadedModel,
    Pair,
    add_model_arguments,
    check_rows,
    draw_rows,
    encode_caption,
    load_models,
    name_of_data,
    pairs_of,
    read_input,
)
from figures.retrievals import read_picture
from figures.style import BLUE, GREEN, GREY, INK, ORANGE, PALE, PINK, RED, SKY, new_page, save
from models.attention_maps import default_layer, word_attention
from models.evidence_maps import chunk_evidence, of_tokens
from utils.errors import UserError

HEAT = LinearSegmentedColormap.from_list("heat", ["#FFFFFF", "#FED976", "#FD8D3C", "#E31A1C", "#800026"])
CHUNK_COLOURS = ((BLUE, "white"), (ORANGE, INK), (GREEN, "white"), (PINK, INK), (SKY, INK), (RED, "white"))
CELLS_PER_LINE = 10
CELL_INCHES, GAP_INCHES, NAME_INCHES, MARGIN_INCHES = 0.72, 0.05, 0.42, 0.15
HEADER_INCHES, CAPTION_LINE_INCHES, FOOTER_INCHES = 0.42, 0.17, 0.62
WORD_INCHES, BAR_INCHES, LINE_GAP_INCHES = 0.24, 0.1, 0.14
CHARACTERS_PER_LINE = 112  # of the caption, 9 pt
CELL_PIXELS = 144  # width of the images in the file
WORD_POINTS, CHARACTERS_PER_CELL = 8.0, 8  # longer words are written smaller
LEGENDS = {
    "attention": "Attention of the word times the gradient of the matching score, positive part.",
    "evidence": "What each patch adds to the probability of the chunk's words, by integrated gradients, positive part.",
}
NUMBER_POINTS = 5.5  # of the chunks' numbers, at the upper right of their words


class Explained(NamedTuple):
    """One model's view of a caption and an image."""

    words: list[CaptionWord]
    maps: Tensor  # (W, rows, columns)
    label: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--split", choices=("test", "val", "train"), default="test", help="default: test")
    parser.add_argument("--query", type=int, metavar="ROW", help="caption of the split, from 0, on its own image")
    parser.add_argument("--seed", type=int, default=0, help="of the draw without --query (default: 0)")
    parser.add_argument("--image", type=Path, help="any other picture, instead of the caption's own")
    parser.add_argument("--caption", help="any other sentence; needs --image")
    text = "evidence: which patches tell the words of each attribute chunk (default: attention)"
    parser.add_argument("--maps", choices=("attention", "evidence"), default="attention", help=text)
    parser.add_argument("--layer", type=int, help="of the cross-modal encoder, from 0 (default: two thirds up)")
    parser.add_argument("--out", type=Path, help="file without suffix (default: attention beside the last checkpoint)")


def make(args: argparse.Namespace) -> list[Path]:
    """`figures attention`: a map for every word of one caption on one image."""
    models = load_models(args)
    pair, title = _chosen(args, models[0])
    if args.maps == "evidence" and args.layer is not None:
        raise UserError("--layer goes with --maps attention: evidence is traced through all layers")
    explained = [
        explain_chunks(loaded, pair) if args.maps == "evidence" else explain(loaded, pair, args.layer)
        for loaded in models
    ]
    words = min((one.words for one in explained), key=len)  # one model may cut captions earlier than another
    maps, labels = [one.maps for one in explained], [one.label for one in explained]
    picture = np.asarray(read_picture(pair.image))
    figure = draw_attention(pair.caption, picture, words, maps, labels, title, LEGENDS[args.maps])
    return save(figure, args.out or Path(args.checkpoint[-1]).parent / args.maps)


def explain(loaded: LoadedModel, pair: Pair, layer: int | None) -> Explained:
    """Map of every word of the pair's caption.

    Args:
        layer: of the cross-modal encoder, from 0; None = `default_layer`.
    Raises: UserError if the caption has no word or the picture cannot be read; as `word_attention`.
    """
    cleaned, encoded = encode_caption(loaded, pair.caption)
    words = words_in(cleaned, encoded, chunks_of(cleaned))
    if not words:
        raise UserError(f"the caption {pair.caption!r} has no word")
    layer = default_layer(loaded.model) if layer is None else layer
    return Explained(words, word_maps(loaded, pair.image, encoded, words, layer), f"{loaded.name}\nlayer {layer}")


def explain_chunks(loaded: LoadedModel, pair: Pair) -> Explained:
    """Evidence of every word in an attribute chunk. Raises: as `explain`."""
    if not loaded.config.losses.weights.get("mlm", 0) > 0:
        raise UserError(f"{loaded.name} was trained without mlm, so it cannot tell words: use --maps attention")
    cleaned, encoded = encode_caption(loaded, pair.caption)
    chunks = chunks_of(cleaned)
    words = [word for word in words_in(cleaned, encoded, chunks) if word.chunk]
    if not words:
        raise UserError(f"the caption {pair.caption!r} has no attribute chunk, such as 'red coat'")
    image = loaded.model.normalize(read_input(loaded, pair.image))
    ids, numbers = (
        torch.tensor(row, device=loaded.device) for row in (encoded.ids, chunk_ids(encoded.offsets, chunks))
    )
    mask_id = loaded.tokenizer.mask_token_id
    maps = of_tokens(chunk_evidence(loaded.model, image, ids, numbers, mask_id=mask_id), numbers).cpu()
    return Explained(words, torch.stack([maps[word.tokens[0]] for word in words]), f"{loaded.name}\nevidence")


def chunks_of(caption: str) -> Chunks:
    """Attribute chunks of one cleaned caption, which may be of no data set and is therefore parsed anew."""
    model = installed_parser().model
    return next(iter(chunks_by_rules([caption]) if model is None else chunks_by_spacy([caption], model)))


def word_maps(loaded: LoadedModel, picture: Path, encoded: Encoded, words: Sequence[CaptionWord], layer: int) -> Tensor:
    """The map of each word, the mean of those of its word pieces: (W, rows, columns) on the CPU."""
    image = loaded.model.normalize(read_input(loaded, picture))
    maps = word_attention(loaded.model, image, torch.tensor(encoded.ids, device=loaded.device), layer).cpu()
    return torch.stack([maps[word.tokens].mean(dim=0) for word in words])


def draw_attention(
    caption: str,
    picture: np.ndarray,
    words: Sequence[CaptionWord],
    maps: Sequence[Tensor],
    labels: Sequence[str],
    title: str,
    legend: str,
) -> Figure:
    """Draw a cell per word and model, the words in reading order.

    Args:
        picture: (height, width, 3) uint8.
        maps: for each model (W or more, rows, columns), all >= 0.
        labels: of the models.
    """
    cell = (CELL_INCHES, CELL_INCHES * float(np.clip(picture.shape[0] / picture.shape[1], 0.75, 3)))
    lines = textwrap.wrap(" ".join(caption.split()), CHARACTERS_PER_LINE)
    row_inches = cell[1] + BAR_INCHES
    line_inches = WORD_INCHES + len(maps) * row_inches + LINE_GAP_INCHES
    top = HEADER_INCHES + len(lines) * CAPTION_LINE_INCHES + 0.1
    width = 2 * MARGIN_INCHES + NAME_INCHES + CELLS_PER_LINE * (CELL_INCHES + GAP_INCHES)
    height = top + -(-(1 + len(words)) // CELLS_PER_LINE) * line_inches + FOOTER_INCHES
    figure, axes = new_page(width, height)
    axes.text(MARGIN_INCHES, 0.2, title, fontsize=11, fontweight="bold", va="center")
    axes.text(MARGIN_INCHES, HEADER_INCHES, "\n".join(lines), va="top", parse_math=False, linespacing=1.2)
    grey = _pale_grey(picture, cell)
    strongest = [float(own[: len(words)].max()) for own in maps]
    for number, word in enumerate([CaptionWord("image", 0, []), *words]):  # the first cell shows the image itself
        line, column = divmod(number, CELLS_PER_LINE)
        left = MARGIN_INCHES + NAME_INCHES + column * (CELL_INCHES + GAP_INCHES)
        line_top = top + line * line_inches
        _write_word(axes, word, (left, line_top))
        for row, own in enumerate(maps):
            corner = (left, line_top + WORD_INCHES + row * row_inches)
            if column == 0:
                _write_label(axes, labels[row], corner[1] + cell[1] / 2)
            if number == 0:
                _show(axes, _resized(picture, cell), corner, cell)
            else:
                _show(axes, grey * _colours(own[number - 1], grey.shape[:2]), corner, cell)
                _draw_bar(axes, float(own[number - 1].max()) / (strongest[row] or 1), (left, corner[1] + cell[1]))
    _draw_legend(axes, height, legend)
    return figure


def _chosen(args: argparse.Namespace, loaded: LoadedModel) -> tuple[Pair, str]:
    """The pair that the arguments ask for, and the figure's title.

    Raises: UserError if the arguments contradict one another.
    """
    if args.caption is not None:
        if args.image is None or args.query is not None:
            raise UserError("--caption needs --image, and no --query")
        return Pair(args.caption, args.image, -1), args.image.name
    pairs = pairs_of(loaded.config, args.split)
    if args.query is None:
        args.query = draw_rows(1, np.array([pair.person_id for pair in pairs]), args.seed)[0]
    check_rows([args.query], len(pairs))
    pair, title = pairs[args.query], f"{name_of_data(loaded.config, args.split)}, caption {args.query}"
    return (pair, title) if args.image is None else (pair._replace(image=args.image), f"{title}, {args.image.name}")


def _resized(picture: np.ndarray, cell: tuple[float, float]) -> np.ndarray:
    """(height, width, 3) uint8 -> pixels of a cell in [0, 1]."""
    size = (round(CELL_PIXELS * cell[1] / cell[0]), CELL_PIXELS)
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    pixels = F.interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    return pixels[0].permute(1, 2, 0).numpy()


def _pale_grey(picture: np.ndarray, cell: tuple[float, float]) -> np.ndarray:
    """The picture as a map's background: (h, w, 1), light enough to tell the colours apart."""
    grey = _resized(picture, cell) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return (0.45 + 0.55 * grey)[..., None]


def _colours(heat: Tensor, size: tuple[int, int]) -> np.ndarray:
    """A map (rows, columns), divided by its maximum, as colours (h, w, 3); 0 is white."""
    scaled = heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)
    smooth = F.interpolate(scaled[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
    return HEAT(smooth.numpy())[..., :3]


def _show(axes: Axes, pixels: np.ndarray, corner: tuple[float, float], cell: tuple[float, float]) -> None:
    (left, top), (width, height) = corner, cell
    axes.imshow(pixels, extent=(left, left + width, top + height, top), aspect="auto", interpolation="antialiased")
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=GREY, linewidth=0.6))


def _write_word(axes: Axes, word: CaptionWord, corner: tuple[float, float]) -> None:
    """Write the word above its cell, on the colour of its chunk and with the chunk's number."""
    background, ink = CHUNK_COLOURS[(word.chunk - 1) % len(CHUNK_COLOURS)] if word.chunk else (None, INK)
    height = WORD_INCHES - 0.05
    if background:
        axes.add_patch(Rectangle(corner, CELL_INCHES, height, facecolor=background, edgecolor="none"))
        place = (corner[0] + CELL_INCHES - 0.02, corner[1] + 0.02)
        axes.text(*place, str(word.chunk), color=ink, fontsize=NUMBER_POINTS, ha="right", va="top")
    points = max(5.0, WORD_POINTS * min(1.0, CHARACTERS_PER_CELL / len(word.text)))
    middle = (corner[0] + CELL_INCHES / 2, corner[1] + height / 2)
    axes.text(*middle, word.text, color=ink, fontsize=points, ha="center", va="center_baseline", parse_math=False)


def _write_label(axes: Axes, label: str, middle: float) -> None:
    place = (MARGIN_INCHES + NAME_INCHES / 2 - 0.05, middle)
    axes.text(*place, label, fontsize=8, rotation=90, ha="center", va="center", linespacing=1.3)


def _draw_bar(axes: Axes, share: float, corner: tuple[float, float]) -> None:
    place = (corner[0], corner[1] + 0.025)
    axes.add_patch(Rectangle(place, CELL_INCHES, 0.035, facecolor=PALE, edgecolor="none"))
    axes.add_patch(Rectangle(place, CELL_INCHES * share, 0.035, facecolor=INK, edgecolor="none"))


def _draw_legend(axes: Axes, height: float, legend: str) -> None:
    middle = height - FOOTER_INCHES / 2
    left, width = MARGIN_INCHES + NAME_INCHES, 1.0
    ramp = HEAT(np.linspace(0, 1, 128))[None, :, :3]
    axes.imshow(ramp, extent=(left, left + width, middle + 0.0, middle - 0.12), aspect="auto")
    axes.add_patch(Rectangle((left, middle - 0.12), width, 0.12, fill=False, edgecolor=GREY, linewidth=0.6))
    axes.text(left, middle + 0.05, "0", fontsize=8, ha="left", va="top")
    axes.text(left + width, middle + 0.05, "the word's maximum", fontsize=8, ha="center", va="top")
    text = f"{legend}\n"
    text += "Bar below a map: its maximum, against that of the model's strongest word.\n"
    text += "Words with one number on one colour: an attribute chunk."
    axes.text(left + width + 0.9, middle, text, fontsize=8, va="center", linespacing=1.3)
