"""A model's shared embedding: a map of it, and similarities of right and wrong pairs. T captions, I images, E width.

The map is a t-SNE (van der Maaten and Hinton, 2008) of image and caption embeddings together. Neighbours on the map are
neighbours in the embedding. The sizes of groups, and the distances between distant groups, mean nothing.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from dataset.run_loaders import eval_loaders_of
from evaluation.retrieval import embed_captions, embed_images
from figures.inputs import LoadedModel, add_model_arguments, load_models, name_of_data, positive
from figures.style import BLUE, GREEN, GREY, INK, ORANGE, PALE, PINK, RED, SKY, new_figure, save
from utils.distributed import start
from utils.errors import UserError
from utils.precision import autocast

PERSON_COLOURS = (BLUE, RED, GREEN, ORANGE, PINK, INK, SKY, "#8C6D1F")
LIGHT = "#C4C4C4"
MAX_POINTS = 2000  # of the map: t-SNE takes a minute for these
MOST_COLOURED_POINTS = 8  # images, and as many captions, of a person in colour
FEWEST_POINTS = 4
PERPLEXITY = 30
BINS = 50  # at most; fewer if there are few right pairs, whose bars would jump
FEWEST_BINS = 12
ROWS_AT_A_TIME = 512  # of the similarity matrix, which is never in memory as a whole


class EmbeddedSplit(NamedTuple):
    """Embeddings of a split; every row has length 1."""

    image: np.ndarray  # (I, E) float32
    text: np.ndarray  # (T, E) float32
    image_person_id: np.ndarray  # (I,)
    text_person_id: np.ndarray  # (T,)
    images: list[Path]  # I
    captions: list[str]  # T, cleaned


class Histograms(NamedTuple):
    """Shares of the pairs by bin. Each kind of pair adds up to 1."""

    edges: np.ndarray  # (bins + 1,) cosine
    right: np.ndarray  # (bins,) pairs of one person
    wrong: np.ndarray  # (bins,) pairs of two people
    overlap: float  # probability that a random wrong pair is more similar than a random right one; a tie counts half


@torch.inference_mode()
def embed(loaded: LoadedModel, split: str) -> EmbeddedSplit:
    """Encode all images and captions of a split, without keeping image tokens."""
    model, device = loaded.model, loaded.device
    loaders = eval_loaders_of(loaded.config, loaded.tokenizer, start(), split)
    with autocast(device, loaded.config.train.precision):
        gallery = embed_images(model, loaders.gallery, device)
        queries = embed_captions(model, loaders.captions, device)
    return EmbeddedSplit(
        gallery.embedding.numpy(),
        queries.embedding.numpy(),
        gallery.person_id.numpy(),
        queries.person_id.numpy(),
        [loaded.config.dataset.folder / "imgs" / path for path in loaders.sets.gallery.paths],
        loaders.sets.captions.texts,
    )


def add_single_model_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Arguments of a figure that shows one model on one split."""
    add_model_arguments(parser)
    parser.add_argument("--split", choices=("test", "val", "train"), default="test", help="default: test")
    parser.add_argument("--out", type=Path, metavar="PATH", help=f"files to write, without suffix (default: {out})")


def single_model(args: argparse.Namespace) -> LoadedModel:
    """The only model. Raises: UserError if several were given, or as `load_models`."""
    if len(args.checkpoint) > 1:
        raise UserError(f"one --checkpoint makes this figure, {len(args.checkpoint)} were given")
    return load_models(args)[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_single_model_arguments(parser, "embedding beside the checkpoint")
    parser.add_argument(
        "--people", type=positive, default=6, metavar="N", help="people in colour, at most 8 (default: 6)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw and of t-SNE (default: 0)")


def make(args: argparse.Namespace) -> list[Path]:
    if args.people > len(PERSON_COLOURS):
        raise UserError(f"there are colours for {len(PERSON_COLOURS)} people, not for {args.people}")
    loaded = single_model(args)
    embedded = embed(loaded, args.split)
    title = f"{loaded.name}, {name_of_data(loaded.config, args.split)}"
    out = args.out or Path(args.checkpoint[0]).parent / "embedding"
    return save(draw_embedding(embedded, title, num_people=args.people, seed=args.seed), out)


def draw_embedding(embedded: EmbeddedSplit, title: str, *, num_people: int, seed: int) -> Figure:
    """Draw the map on the left and histograms of similarities on the right."""
    figure = new_figure(7.6, 4.1, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    _draw_map(left, embedded, num_people, seed)
    _draw_histograms(right, similarity_histograms(embedded))
    return figure


def choose_points(embedded: EmbeddedSplit, num_people: int, seed: int) -> tuple[list[int], np.ndarray]:
    """Draw the people to be coloured among those with images and captions, and the points of the map.

    Returns: person ids; rows (n,) of the images followed by the captions, at most MAX_POINTS, the coloured ones first.
    Raises: UserError if nobody has both an image and a caption.
    """
    generator = np.random.default_rng(seed)
    known = np.intersect1d(embedded.image_person_id, embedded.text_person_id)
    if len(known) == 0:
        raise UserError("nobody has both an image and a caption, so there is nothing to compare")
    people = generator.permutation(known)[:num_people].tolist()
    num_images = len(embedded.image)
    coloured = np.concatenate(
        [
            first + np.flatnonzero(ids == person)[:MOST_COLOURED_POINTS]
            for person in people
            for first, ids in ((0, embedded.image_person_id), (num_images, embedded.text_person_id))
        ]
    )
    others = generator.permutation(np.setdiff1d(np.arange(num_images + len(embedded.text)), coloured))
    return people, np.concatenate([coloured, others])[:MAX_POINTS]


def tsne(points: np.ndarray, seed: int) -> np.ndarray:
    """Places (n, 2) of points (n, E) of length 1, by their cosine. The same seed gives the same places."""
    from sklearn.manifold import TSNE  # takes a second to import

    perplexity = min(PERPLEXITY, max(1.0, (len(points) - 1) / 3))
    return TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=seed).fit_transform(points)


def _draw_map(axes: Axes, embedded: EmbeddedSplit, num_people: int, seed: int) -> None:
    people, rows = choose_points(embedded, num_people, seed)
    if len(rows) < FEWEST_POINTS:
        raise UserError(f"{len(rows)} images and captions are too few for a map")
    person_id = np.concatenate([embedded.image_person_id, embedded.text_person_id])[rows]
    places = tsne(np.concatenate([embedded.image, embedded.text])[rows], seed)
    is_image = rows < len(embedded.image)
    grey = ~np.isin(person_id, people)
    for shown, marker in ((is_image, "o"), (~is_image, "^")):
        x, y = places[grey & shown].T
        axes.scatter(x, y, s=6, marker=marker, color=LIGHT, linewidths=0)
    for number, (person, colour) in enumerate(zip(people, PERSON_COLOURS[: len(people)], strict=True), 1):
        own = person_id == person
        ends = [places[own & shown].mean(axis=0) for shown in (is_image, ~is_image)]
        axes.plot(*np.array(ends).T, color=colour, linewidth=0.8, alpha=0.6)
        for shown, marker, end in ((is_image, "o", ends[0]), (~is_image, "^", ends[1])):
            x, y = places[own & shown].T
            axes.scatter(x, y, s=24, marker=marker, color=colour, edgecolors="white", linewidths=0.4, zorder=3)
            # without colours, in print, the numbers tell the people apart
            label = axes.text(
                end[0], end[1], str(number), fontsize=8, fontweight="bold", ha="center", va="center", zorder=4
            )
            label.set_path_effects([withStroke(linewidth=2, foreground="white")])
    axes.set_title("t-SNE of the embeddings")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[["top", "right"]].set_visible(True)
    counted = f"● {is_image.sum():,} images   ▲ {(~is_image).sum():,} captions   in colour: {len(people)} people,"
    axes.set_xlabel(f"{counted}\nnumbered at the middle of their images and of their captions", fontsize=8)


def similarity_histograms(embedded: EmbeddedSplit) -> Histograms:
    """Over all T x I pairs. Raises: UserError if there is no right or no wrong pair."""
    fine = np.linspace(-1, 1, 4001)  # for the overlap, and for bins that are chosen once the range is known
    counts = np.zeros((2, len(fine) - 1), dtype=np.int64)  # wrong, right
    for first in range(0, len(embedded.text), ROWS_AT_A_TIME):
        rows = slice(first, first + ROWS_AT_A_TIME)
        similarity = np.clip(embedded.text[rows] @ embedded.image.T, -1, 1)
        right = embedded.text_person_id[rows, None] == embedded.image_person_id[None]
        for kind in (0, 1):
            counts[kind] += np.histogram(similarity[right == kind], fine)[0]
    totals = counts.sum(axis=1)
    if not totals.all():
        raise UserError("similarities of right and wrong pairs need captions and images of two people at least")
    wrong, right = counts / totals[:, None]
    used = np.flatnonzero(counts.any(axis=0))
    number = int(np.clip(np.sqrt(totals[1]), FEWEST_BINS, BINS))
    step = -(-(used[-1] + 1 - used[0]) // number)  # fine bins per bin, rounded up
    first = min(used[0], len(wrong) - step * number)
    bins = slice(first, first + step * number)
    overlap = float((right * (1 - wrong.cumsum() + wrong / 2)).sum())
    coarse = [share[bins].reshape(-1, step).sum(axis=1) for share in (right, wrong)]
    edges = fine[first : first + step * number + 1 : step]
    return Histograms(edges, right=coarse[0], wrong=coarse[1], overlap=overlap)


def _draw_histograms(axes: Axes, histograms: Histograms) -> None:
    kinds = (("wrong pairs", histograms.wrong, GREY, "--"), ("right pairs", histograms.right, BLUE, "-"))
    for name, share, colour, style in kinds:
        axes.stairs(100 * share, histograms.edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(100 * share, histograms.edges, color=colour, linewidth=1.4, linestyle=style, label=name)
    axes.set_title("similarity of captions and images")
    overlap = f"a random wrong pair exceeds a random right one: {100 * histograms.overlap:.1f} %"
    axes.set_xlabel(f"cosine\n{overlap}", fontsize=8)
    axes.set_ylabel("percent of the pairs per bin")
    axes.set_ylim(0, None)
    axes.legend(loc="upper left", frameon=True, edgecolor=PALE)
