"""The picture of the architecture: encoders, momentum copies with queues, the decoder, and the place of each loss."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

from figures.style import BLUE, GREY, INK, ORANGE, new_figure

Point = tuple[float, float]  # inches from the lower left corner

WIDTH, HEIGHT = 11.6, 6.3
TRAINED, MOMENTUM, LOSS, INNER = "#D6E8F5", "white", "#FBE3B5", "#F4F9FD"
ROW_MOMENTUM, ROW_IMAGE, ROW_TEXT, ROW_MASKED = 5.35, 4.0, 2.5, 0.85
INPUT_X, ENCODER_X, MIDDLE_X, LOSS_X = 0.9, 3.15, 5.95, 10.7
ENCODER_WIDTH = 2.3
# half of the sketch's 4 x 6 patches, as column and row from the bottom, chosen by eye
HIDDEN = ((0, 0), (2, 0), (3, 1), (0, 1), (1, 2), (2, 2), (3, 3), (0, 3), (2, 4), (1, 4), (3, 5), (0, 5))


def draw_architecture() -> Figure:
    """One training step, left to right: inputs, encoders, where they meet, losses (orange)."""
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    _inputs(axes)
    _encoders(axes)
    _contrastive(axes)
    _cross_modal(axes)
    _reconstruction(axes)
    search = "To search, rank by the cosine of the class\nfeatures, then the first 128 by matching."
    _note(axes, (8.75, 5.45), search, ha="left")
    return figure


def _inputs(axes: Axes) -> None:
    _sketch(axes, (INPUT_X, ROW_MOMENTUM))
    _note(axes, (INPUT_X, ROW_MOMENTUM - 0.6), "the same, flipped anew")
    _sketch(axes, (INPUT_X, ROW_IMAGE))
    _note(axes, (INPUT_X, ROW_IMAGE - 0.6), "image")
    _box(
        axes,
        (INPUT_X, ROW_TEXT),
        (1.5, 0.84),
        "",
        "“a young girl with\nblonde hair, a black\ncoat and tights”",
        "white",
    )
    _sketch(axes, (INPUT_X, ROW_MASKED), hidden=HIDDEN)
    _note(axes, (INPUT_X, ROW_MASKED - 0.6), "half the patches hidden")


def _encoders(axes: Axes) -> None:
    left, right = ENCODER_X - ENCODER_WIDTH / 2, ENCODER_X + ENCODER_WIDTH / 2
    size = (ENCODER_WIDTH, 0.95)
    copies = "of the encoders:\nmoving averages"
    _box(axes, (ENCODER_X, ROW_MOMENTUM), size, "Momentum copies", copies, MOMENTUM, dashed=True)
    vim = "Vision Mamba, 24 layers,\nscanned in both directions"
    _box(axes, (ENCODER_X, ROW_IMAGE), size, "Image encoder", vim, TRAINED)
    _box(axes, (ENCODER_X, ROW_TEXT), size, "Text encoder", "BERT, layers 1 to 6", TRAINED)
    kept = "the same weights,\nkept patches only"
    _box(axes, (ENCODER_X, ROW_MASKED), size, "Image encoder", kept, TRAINED)
    for row in (ROW_MOMENTUM, ROW_IMAGE, ROW_MASKED):
        _arrow(axes, [(INPUT_X + 0.4, row), (left, row)])
    _arrow(axes, [(INPUT_X + 0.75, ROW_TEXT), (left, ROW_TEXT)])
    _arrow(axes, [(ENCODER_X, ROW_IMAGE + 0.48), (ENCODER_X, ROW_MOMENTUM - 0.48)], dashed=True)
    _arrow(axes, [(right, ROW_IMAGE - 0.1), (7.3, ROW_IMAGE - 0.1)])
    _note(axes, (right + 0.1, ROW_IMAGE - 0.22), "image tokens", ha="left")


def _contrastive(axes: Axes) -> None:
    right = ENCODER_X + ENCODER_WIDTH / 2
    for number in range(3):
        corner = (MIDDLE_X - 0.8 + 0.07 * number, ROW_MOMENTUM - 0.38 + 0.07 * number)
        axes.add_patch(Rectangle(corner, 1.4, 0.5, facecolor="white", edgecolor=GREY, linewidth=1, zorder=10 - number))
    label = "queues: features\nof past batches"
    axes.text(MIDDLE_X - 0.1, ROW_MOMENTUM - 0.13, label, ha="center", va="center", fontsize=9, zorder=12)
    _arrow(axes, [(right, ROW_MOMENTUM - 0.13), (MIDDLE_X - 0.8, ROW_MOMENTUM - 0.13)])
    itc = (MIDDLE_X, ROW_IMAGE + 0.52)
    _loss(axes, itc, "itc", "contrastive")
    _arrow(axes, [(MIDDLE_X, ROW_MOMENTUM - 0.38), (MIDDLE_X, itc[1] + 0.22)])
    _arrow(axes, [(right, ROW_IMAGE + 0.3), (MIDDLE_X - 0.62, itc[1] - 0.02)])
    _arrow(axes, [(right, ROW_TEXT + 0.2), (MIDDLE_X, ROW_TEXT + 0.2), (MIDDLE_X, itc[1] - 0.22)])
    _note(axes, (right + 0.1, ROW_TEXT + 0.31), "class features", ha="left")


def _cross_modal(axes: Axes) -> None:
    middle, top, bottom, width = 8.4, 4.75, 1.75, 2.2
    _box(axes, (middle, (top + bottom) / 2), (width, top - bottom), "", "", TRAINED)
    text = "BERT, all 12 layers, with\ncross-attention to the image"
    _write(axes, (middle, top - 0.43), "Cross-modal encoder", text)
    lanes = (
        (3.42, 0.78, "caption with its image\nand with hard negatives\n(wrong image, wrong text)"),
        (2.67, 0.5, "caption with\nmasked words"),
        (2.07, 0.5, "caption with words\nreplaced by the copy"),
    )
    for y, height, lane in lanes:
        _box(axes, (middle, y), (width - 0.2, height), "", lane, INNER, text_size=8.5)
    losses = (  # key, meaning, height of the loss, height of its lane
        ("itm", "matching", 4.05, 3.42),
        ("prd", "replaced caption", 3.55, 3.42),
        ("attribute", "adjective + noun", 3.05, 3.42),
        ("mlm", "masked words", 2.55, 2.67),
        ("mrtd", "replaced words", 2.05, 2.07),
    )
    for key, meaning, y, lane_y in losses:
        _loss(axes, (LOSS_X, y), key, meaning)
        _arrow(axes, [(middle + width / 2 - 0.1, lane_y), (LOSS_X - 0.62, y)])
    _arrow(axes, [(INPUT_X, ROW_TEXT - 0.42), (INPUT_X, 1.6), (7.9, 1.6), (7.9, bottom)])
    _note(axes, (INPUT_X + 0.1, 1.7), "captions", ha="left")
    start = (ENCODER_X + ENCODER_WIDTH / 2, ROW_MOMENTUM + 0.4)
    _arrow(axes, [start, (middle, start[1]), (middle, top)], dashed=True)
    _note(axes, (7.15, start[1] + 0.12), "guesses of the masked words: soft targets, replacements")


def _reconstruction(axes: Axes) -> None:
    right = ENCODER_X + ENCODER_WIDTH / 2
    middle, size = 6.6, (2.2, 0.95)
    _box(axes, (middle, ROW_MASKED), size, "MAE decoder", "4 blocks, with cross-\nattention to the text", TRAINED)
    _arrow(axes, [(right, ROW_MASKED), (middle - size[0] / 2, ROW_MASKED)])
    _arrow(axes, [(right, ROW_TEXT - 0.2), (middle, ROW_TEXT - 0.2), (middle, ROW_MASKED + size[1] / 2)])
    _note(axes, (right + 0.1, ROW_TEXT - 0.32), "text tokens", ha="left")
    _loss(axes, (LOSS_X, ROW_MASKED), "mae", "hidden patches")
    _arrow(axes, [(middle + size[0] / 2, ROW_MASKED), (LOSS_X - 0.62, ROW_MASKED)])


def _box(
    axes: Axes,
    middle: Point,
    size: Point,
    title: str,
    text: str,
    colour: str,
    *,
    dashed: bool = False,
    text_size: float = 9,
) -> None:
    (x, y), (width, height) = middle, size
    style = "round,pad=0,rounding_size=0.08"
    edge = GREY if colour == "white" or colour == INNER else BLUE
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle=style,
            facecolor=colour,
            edgecolor=edge,
            linewidth=1.2,
            linestyle="--" if dashed else "-",
            zorder=4,
        )
    )
    _write(axes, middle, title, text, text_size)


def _write(axes: Axes, middle: Point, title: str, text: str, text_size: float = 9) -> None:
    """A bold title, which may be empty, above one or two lines."""
    x, y = middle
    above = 0.12 + 0.07 * text.count("\n")
    axes.text(x, y + above, title, ha="center", va="center", fontsize=10, fontweight="bold", zorder=5)
    below = above - 0.22 - 0.08 * text.count("\n") if title else 0.0
    axes.text(x, y + below, text, ha="center", va="center", fontsize=text_size, zorder=5)


def _loss(axes: Axes, middle: Point, key: str, meaning: str) -> None:
    x, y = middle
    style = "round,pad=0,rounding_size=0.2"
    corner = (x - 0.62, y - 0.22)
    axes.add_patch(FancyBboxPatch(corner, 1.24, 0.44, boxstyle=style, facecolor=LOSS, edgecolor=ORANGE, zorder=4))
    axes.text(x, y + 0.08, key, ha="center", va="center", fontsize=9.5, fontweight="bold", zorder=5)
    axes.text(x, y - 0.1, meaning, ha="center", va="center", fontsize=8, zorder=5)


def _arrow(axes: Axes, points: Sequence[Point], *, dashed: bool = False) -> None:
    """A line through the points that ends in an arrowhead. An earlier line that it crosses shows a gap there."""
    style = (0, (4, 2.5)) if dashed else "-"
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color="white", linewidth=5, zorder=2, solid_capstyle="butt")
    axes.plot(x, y, color=INK, linewidth=1.2, linestyle=style, zorder=2)
    head = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    (x1, y1), (x2, y2) = points[-2:]
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    before = (x2 - 0.05 * (x2 - x1) / length, y2 - 0.05 * (y2 - y1) / length)
    axes.annotate("", xy=(x2, y2), xytext=before, arrowprops=head, zorder=3)


def _note(axes: Axes, place: Point, text: str, ha: str = "center") -> None:
    axes.text(*place, text, ha=ha, va="center", fontsize=8, color="#555555", zorder=6)


def _sketch(axes: Axes, middle: Point, hidden: Sequence[tuple[int, int]] = ()) -> None:
    """A pedestrian on a grid of 4 x 6 patches, some of them hidden."""
    patch = 0.16
    left, bottom = middle[0] - 2 * patch, middle[1] - 3 * patch
    axes.add_patch(Rectangle((left, bottom), 4 * patch, 6 * patch, facecolor="#EDF2EE", edgecolor=GREY, zorder=4))
    x = middle[0]
    for offset in (-0.07, 0.07):
        axes.add_patch(Rectangle((x + offset - 0.05, bottom + 0.05), 0.1, 0.36, facecolor="#3B4A63", zorder=5))
    axes.add_patch(Rectangle((x - 0.15, bottom + 0.36), 0.3, 0.34, facecolor="#2B2B2B", zorder=5))
    axes.add_patch(Circle((x, bottom + 0.82), 0.1, facecolor="#D8B36A", zorder=5))
    for column, row in hidden:
        corner = (left + column * patch, bottom + row * patch)
        axes.add_patch(Rectangle(corner, patch, patch, facecolor="#9A9A9A", zorder=6))
    for line in range(1, 4):
        axes.plot([left + line * patch] * 2, [bottom, bottom + 6 * patch], color="white", linewidth=0.6, zorder=7)
    for line in range(1, 6):
        axes.plot([left, left + 4 * patch], [bottom + line * patch] * 2, color="white", linewidth=0.6, zorder=7)
