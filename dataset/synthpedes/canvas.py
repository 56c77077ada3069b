"""Outlined shapes, patterned cloth and the projection of body points onto a picture (Pillow, in pixels)."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from PIL import Image, ImageDraw

from dataset.synthpedes.palette import Rgb
from dataset.synthpedes.parts import SCENE, Pen

Point = tuple[float, float]  # x to the right, y down


def shade(colour: Rgb, factor: float) -> Rgb:
    """Darken (factor < 1) or lighten (> 1) an 8-bit colour."""
    if factor <= 1:
        return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))
    rest = 1 / factor
    return (
        int(255 - (255 - colour[0]) * rest),
        int(255 - (255 - colour[1]) * rest),
        int(255 - (255 - colour[2]) * rest),
    )


class Spot(NamedTuple):
    """A point of the body in body heights, or a direction from one point to another."""

    left: float  # towards the person's left hand
    front: float  # in the direction that the person faces
    down: float  # 0 = crown, 1 = soles


class Cloth(NamedTuple):
    """The filling of a shape."""

    colour: Rgb
    pattern: str = "plain"  # plain | striped | checked | dotted
    second: Rgb = (0, 0, 0)  # of the pattern

    def shaded(self, factor: float) -> "Cloth":
        return Cloth(shade(self.colour, factor), self.pattern, shade(self.second, factor))


class Canvas:
    """A picture being drawn, with the place and the orientation of one person in it.

    Args:
        image: RGBA as parts.py has it, or RGB where nobody asks for the parts; drawn on in place.
        scale: pixels per body height.
        crown: pixel position of the body's axis at height 0.
        yaw: orientation of the person (dataset/synthpedes/views.py).
        pitch: how far nearer points sink in the picture, since the camera looks down a little.
    """

    def __init__(self, image: Image.Image, scale: float, crown: Point, yaw: float, pitch: float = 0.12) -> None:
        self.image = image
        self.draw = Pen(image, SCENE)
        self.scale = scale
        self.crown = crown
        self.cos, self.sin = math.cos(yaw), math.sin(yaw)
        self.pitch = pitch
        self.outline_px = max(1.0, 0.0075 * scale)
        self._swatches: dict[tuple[Cloth, int], Image.Image] = {}

    def part(self, name: str) -> AbstractContextManager[None]:
        """What is painted meanwhile belongs to this part, one of `parts.PARTS`."""
        return self.draw.part(name)

    def depth(self, spot: Spot) -> float:
        """Return how near a point is to the camera, in body heights; the body's axis is 0."""
        return spot.front * self.cos - spot.left * self.sin

    def place(self, spot: Spot) -> Point:
        """Return the pixel position of a body point."""
        x = spot.left * self.cos + spot.front * self.sin
        y = spot.down + self.pitch * self.depth(spot)
        return self.crown[0] + x * self.scale, self.crown[1] + y * self.scale

    def half_width(self, side: float, deep: float) -> float:
        """Visible half-width of an upright elliptic cylinder with half-axes side and deep, in body heights."""
        return math.hypot(side * self.cos, deep * self.sin)

    def polygon(self, points: Sequence[Point], cloth: Cloth) -> None:
        """Fill a closed shape and outline it."""
        edge = shade(cloth.colour, 0.6)
        if cloth.pattern == "plain":
            self.draw.polygon(points, fill=cloth.colour, outline=edge, width=round(self.outline_px))
            return
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon(points, fill=255)
        self.image.paste(self._swatch(cloth), mask=mask)
        self.draw.polygon(points, outline=edge, width=round(self.outline_px))

    def ellipse(self, centre: Point, rx: float, ry: float, colour: Rgb, outlined: bool = True) -> None:
        """Fill an ellipse whose half-axes are in pixels."""
        box = (centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry)
        self.draw.ellipse(
            box, fill=colour, outline=shade(colour, 0.6) if outlined else None, width=round(self.outline_px)
        )

    def line(self, points: Sequence[Point], colour: Rgb, width: float) -> None:
        """Draw an open line; width in body heights."""
        self.draw.line(points, fill=colour, width=max(1, round(width * self.scale)), joint="curve")

    def tube(self, spots: Sequence[Spot], radii: Sequence[float], cloth: Cloth) -> None:
        """Draw a limb as circles of the given radii (body heights) joined by their tangents, with one outline."""
        points = [self.place(spot) for spot in spots]
        sizes = [radius * self.scale for radius in radii]
        edge = self.draw.ink(shade(cloth.colour, 0.6))
        _capsules(self.draw.plain, points, [size + self.outline_px for size in sizes], edge)
        if cloth.pattern == "plain":
            _capsules(self.draw.plain, points, sizes, self.draw.ink(cloth.colour))
            return
        mask = Image.new("L", self.image.size)
        _capsules(ImageDraw.Draw(mask), points, sizes, 255)
        self.image.paste(self._swatch(cloth), mask=mask)

    def _swatch(self, cloth: Cloth) -> Image.Image:
        """Return a picture filled with patterned cloth."""
        key = cloth, self.draw.shows
        if key not in self._swatches:
            self._swatches[key] = _weave(self.image.size, cloth, self.draw.shows, self.scale, self.crown)
        return self._swatches[key]


def _capsules(
    draw: ImageDraw.ImageDraw, points: Sequence[Point], radii: Sequence[float], fill: tuple[int, int, int, int] | int
) -> None:
    for (x, y), r in zip(points, radii, strict=True):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    for i in range(len(points) - 1):
        (x0, y0), (x1, y1), r0, r1 = points[i], points[i + 1], radii[i], radii[i + 1]
        length = math.hypot(x1 - x0, y1 - y0)
        if length < 1e-6:
            continue
        nx, ny = (y0 - y1) / length, (x1 - x0) / length
        corners = [(x0 + nx * r0, y0 + ny * r0), (x1 + nx * r1, y1 + ny * r1)]
        corners += [(x1 - nx * r1, y1 - ny * r1), (x0 - nx * r0, y0 - ny * r0)]
        draw.polygon(corners, fill=fill)


def _weave(size: tuple[int, int], cloth: Cloth, shows: int, scale: float, origin: Point) -> Image.Image:
    """Draw stripes, checks or dots over a whole picture, aligned with the body."""
    image = Image.new("RGBA", size, (*cloth.colour, shows))
    draw, second = ImageDraw.Draw(image), (*cloth.second, shows)
    width, height = size
    step = (0.056 if cloth.pattern == "striped" else 0.062) * scale
    rows = [origin[1] + step * i for i in range(int(-origin[1] / step), int((height - origin[1]) / step) + 1)]
    columns = [origin[0] + step * i for i in range(int(-origin[0] / step) - 1, int((width - origin[0]) / step) + 2)]
    if cloth.pattern == "striped":
        for y in rows:
            draw.rectangle((0, y, width, y + 0.45 * step), fill=second)
    elif cloth.pattern == "checked":
        blend = (*((a + b) // 2 for a, b in zip(cloth.colour, cloth.second, strict=True)), shows)
        for y in rows:
            draw.rectangle((0, y, width, y + 0.42 * step), fill=blend)
        for x in columns:
            draw.rectangle((x, 0, x + 0.42 * step, height), fill=blend)
        for y in rows:
            for x in columns:
                draw.rectangle((x, y, x + 0.42 * step, y + 0.42 * step), fill=second)
    else:
        r = 0.24 * step
        for i, y in enumerate(rows):
            for x in columns:
                cx = x + (i % 2) * step / 2
                draw.ellipse((cx - r, y - r, cx + r, y + r), fill=second)
    return image
