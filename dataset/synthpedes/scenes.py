"""Backgrounds and occluders of drawn pedestrians (Pillow; sizes in pixels of the finished picture)."""

from collections.abc import Callable
from random import Random

from PIL import Image, ImageDraw, ImageFilter

from dataset.synthpedes.canvas import Rgb, shade
from dataset.synthpedes.palette import CLOTH_RGB
from dataset.synthpedes.views import CameraView

Pen = ImageDraw.ImageDraw


def draw_scene(scene: str, size: tuple[int, int], rng: Random, *, bystanders: bool = True) -> Image.Image:
    """Draw a background of size (width, height), slightly out of focus, with or without other people."""
    image = Image.new("RGB", size)
    pen = ImageDraw.Draw(image)
    _SCENES[scene](pen, *size, rng)
    if scene != "plain":
        for _ in range(rng.randint(0, 3)):
            _clutter(pen, *size, rng)
        for _ in range(rng.choice([0, 0, 1, 1, 2]) if bystanders else 0):
            _bystander(pen, *size, rng)
    return image.filter(ImageFilter.BoxBlur(rng.uniform(0.6, 1.4)))


def _grey(rng: Random, low: int, high: int, spread: int = 10) -> Rgb:
    base = rng.randint(low, high)
    return base + rng.randint(-spread, spread), base + rng.randint(-spread, spread), base + rng.randint(-spread, spread)


def _ramp(pen: Pen, width: int, top: int, bottom: int, start: Rgb, end: Rgb) -> None:
    """Paint a vertical colour gradient in bands."""
    step = max(1, (bottom - top) // 16)
    for y in range(top, bottom, step):
        t = (y - top) / max(1, bottom - top)
        mixed = tuple(int(a + t * (b - a)) for a, b in zip(start, end, strict=True))
        pen.rectangle((0, y, width, y + step), fill=mixed)


def _ground(pen: Pen, w: int, h: int, top: int, rng: Random) -> None:
    colour = _grey(rng, 110, 185)
    _ramp(pen, w, top, h, shade(colour, 0.9), colour)
    vanish = rng.uniform(0, w)
    for i in range(-2, 7):
        pen.line((vanish + (i - 2) * 4, top, vanish + (i - 2) * 22, h), fill=shade(colour, 0.85))
    for i in range(1, 5):
        y = top + (h - top) * (i / 5) ** 1.5
        pen.line((0, y, w, y), fill=shade(colour, 0.85))


def _street(pen: Pen, w: int, h: int, rng: Random) -> None:
    horizon = int(h * rng.uniform(0.35, 0.6))
    pen.rectangle((0, 0, w, horizon), fill=(rng.randint(170, 215), rng.randint(195, 225), rng.randint(215, 240)))
    x = -rng.randint(0, 15)
    while x < w:
        house, roof = rng.randint(16, 34), rng.randint(-10, horizon // 2)
        colour = rng.choice([(186, 150, 122), (160, 168, 176), (206, 190, 160), (142, 110, 96), (120, 128, 140)])
        pen.rectangle((x, roof, x + house, horizon), fill=colour)
        for wy in range(roof + 4, horizon - 6, 11):
            for wx in range(x + 3, x + house - 5, 9):
                pen.rectangle((wx, wy, wx + 4, wy + 6), fill=rng.choice([(70, 80, 96), (200, 214, 220), (90, 96, 104)]))
        x += house
    _ground(pen, w, h, horizon, rng)


def _wall(pen: Pen, w: int, h: int, rng: Random) -> None:
    foot = int(h * rng.uniform(0.68, 0.85))
    colour = rng.choice([(168, 96, 76), (190, 170, 146), (150, 150, 152), (206, 200, 186), (120, 92, 84)])
    pen.rectangle((0, 0, w, foot), fill=colour)
    brick = rng.randint(5, 9)
    for row, y in enumerate(range(0, foot, brick)):
        pen.line((0, y, w, y), fill=shade(colour, 0.86))
        for x in range((row % 2) * brick, w, 2 * brick):
            pen.line((x, y, x, y + brick), fill=shade(colour, 0.86))
    if rng.random() < 0.4:
        x, y = rng.randint(0, w), rng.randint(8, h // 2)
        pen.rectangle(
            (x, y, x + 16, y + 22), fill=rng.choice([(228, 210, 90), (90, 140, 190), (226, 226, 226), (190, 70, 70)])
        )
    _ground(pen, w, h, foot, rng)


def _lawn(pen: Pen, w: int, h: int, rng: Random) -> None:
    horizon = int(h * rng.uniform(0.3, 0.5))
    _ramp(pen, w, 0, horizon, (150, 190, 226), (214, 228, 236))
    for _ in range(rng.randint(2, 5)):
        x, y, r = rng.randint(-5, w + 5), horizon - rng.randint(0, 22), rng.randint(10, 20)
        pen.rectangle((x - 2, y, x + 2, horizon + 6), fill=(96, 70, 48))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(rng.randint(40, 90), rng.randint(95, 140), rng.randint(40, 70)))
    grass = (rng.randint(84, 130), rng.randint(140, 175), rng.randint(64, 90))
    _ramp(pen, w, horizon, h, shade(grass, 0.85), shade(grass, 1.1))
    for _ in range(40):
        blade_x, blade_y = rng.uniform(0, w), rng.uniform(horizon, h)
        pen.line((blade_x, blade_y, blade_x + 1, blade_y - 3), fill=shade(grass, rng.uniform(0.75, 1.2)))
    if rng.random() < 0.5:
        left, right = rng.uniform(-20, w * 0.4), rng.uniform(w * 0.6, w + 20)
        path = [(w / 2 - 6, horizon), (w / 2 + 6, horizon), (right, h), (left, h)]
        pen.polygon(path, fill=(200, 186, 156))


def _corridor(pen: Pen, w: int, h: int, rng: Random) -> None:
    wall, floor = _grey(rng, 170, 225, 14), _grey(rng, 140, 210, 14)
    foot = int(h * rng.uniform(0.5, 0.7))
    _ramp(pen, w, 0, foot, shade(wall, 1.1), shade(wall, 0.9))
    for i in range(rng.randint(1, 3)):
        x = rng.randint(-8, w) + 3 * i
        pen.rectangle(
            (x, foot - rng.randint(50, 72), x + 15, foot),
            fill=rng.choice([(126, 92, 66), (120, 140, 158), (90, 94, 98)]),
        )
    for x in range(rng.randint(0, 12), w, 22):
        pen.rectangle((x, 2, x + 10, 5), fill=(252, 252, 240))
    _ramp(pen, w, foot, h, shade(floor, 0.85), floor)
    for i in range(-3, 8):
        pen.line((w / 2 + (i - 2) * 7, foot, w / 2 + (i - 2) * 30, h), fill=shade(floor, 0.8))
    for i in range(1, 6):
        y = foot + (h - foot) * (i / 6) ** 1.6
        pen.line((0, y, w, y), fill=shade(floor, 0.8))


def _shop(pen: Pen, w: int, h: int, rng: Random) -> None:
    foot = int(h * rng.uniform(0.62, 0.76))
    pen.rectangle((0, 0, w, foot), fill=_grey(rng, 60, 110))
    sign = rng.choice(list(CLOTH_RGB.values()))
    pen.rectangle((0, 0, w, h // 8), fill=sign)
    for x in range(2, w, 7):
        pen.rectangle((x, h // 24, x + rng.randint(2, 5), h // 12), fill=shade(sign, 1.9))
    x = -rng.randint(0, 12)
    while x < w:
        pane = rng.randint(16, 30)
        pen.rectangle(
            (x + 2, h // 8 + 3, x + pane, foot - 3),
            fill=(rng.randint(150, 210), rng.randint(180, 215), rng.randint(190, 225)),
        )
        for _ in range(4):
            gx, gy = x + rng.randint(2, pane - 4), rng.randint(h // 5, foot - 9)
            pen.rectangle(
                (gx, gy, gx + rng.randint(3, 7), gy + rng.randint(4, 10)), fill=rng.choice(list(CLOTH_RGB.values()))
            )
        x += pane + 1
    _ground(pen, w, h, foot, rng)


def _plain(pen: Pen, w: int, h: int, rng: Random) -> None:
    colour = _grey(rng, 100, 215, 24)
    _ramp(pen, w, 0, h, shade(colour, rng.uniform(0.75, 1.2)), shade(colour, rng.uniform(0.7, 1.1)))
    pen.ellipse((w * 0.15, h * 0.9, w * 0.85, h * 0.99), fill=shade(colour, 0.72))


_SCENES: dict[str, Callable[[Pen, int, int, Random], None]] = {
    "street": _street,
    "wall": _wall,
    "lawn": _lawn,
    "corridor": _corridor,
    "shop": _shop,
    "plain": _plain,
}


def _clutter(pen: Pen, w: int, h: int, rng: Random) -> None:
    """Paint a post, bin, bicycle or car somewhere behind the person."""
    x, ground = rng.randint(-6, w + 6), rng.randint(int(h * 0.6), int(h * 0.92))
    kind = rng.choice(["post", "bin", "bicycle", "car"])
    if kind == "post":
        pen.rectangle((x, 0, x + 2, ground), fill=_grey(rng, 50, 110))
    elif kind == "bin":
        pen.rectangle((x, ground - 18, x + 11, ground), fill=rng.choice([(52, 92, 66), (70, 74, 80), (60, 80, 130)]))
        pen.rectangle((x - 1, ground - 20, x + 12, ground - 17), fill=(40, 42, 46))
    elif kind == "bicycle":
        for wheel in (x, x + 18):
            pen.ellipse((wheel - 7, ground - 14, wheel + 7, ground), outline=(40, 40, 44))
        pen.line(
            (x, ground - 7, x + 6, ground - 17, x + 15, ground - 17, x + 18, ground - 7),
            fill=rng.choice([(180, 40, 40), (40, 60, 150)]),
        )
    else:
        body = rng.choice([(176, 34, 38), (60, 84, 150), (210, 212, 214), (60, 62, 66), (222, 200, 120)])
        pen.rounded_rectangle((x - 24, ground - 15, x + 24, ground - 3), 4, fill=body)
        pen.rounded_rectangle((x - 14, ground - 24, x + 13, ground - 13), 4, fill=(80, 96, 110))
        for wheel in (x - 14, x + 14):
            pen.ellipse((wheel - 5, ground - 8, wheel + 5, ground + 2), fill=(28, 28, 30))


def _bystander(pen: Pen, w: int, h: int, rng: Random, size: float | None = None, x: float | None = None) -> None:
    """Paint another person roughly: at the edge of the background, or as a passer-by in front."""
    s = size or h * rng.uniform(0.25, 0.6)
    x = rng.choice([rng.uniform(-2, w * 0.16), rng.uniform(w * 0.84, w + 2)]) if x is None else x
    foot = h * rng.uniform(0.62, 0.9) if size is None else h * 1.05
    colours = list(CLOTH_RGB.values())
    lower, upper = rng.choice(colours), rng.choice(colours)
    for side in (-0.05, 0.05):
        pen.line((x + side * s, foot - 0.48 * s, x + 1.6 * side * s, foot), fill=lower, width=max(1, int(0.08 * s)))
    pen.rounded_rectangle((x - 0.13 * s, foot - 0.84 * s, x + 0.13 * s, foot - 0.44 * s), 0.06 * s, fill=upper)
    pen.ellipse((x - 0.065 * s, foot - s, x + 0.065 * s, foot - 0.83 * s), fill=(206, 160, 126))
    pen.chord((x - 0.07 * s, foot - 1.01 * s, x + 0.07 * s, foot - 0.85 * s), 180, 360, fill=(50, 38, 32))


def draw_occluder(image: Image.Image, view: CameraView, rng: Random) -> None:
    """Paint what stands between the camera and the person."""
    pen, (w, h) = ImageDraw.Draw(image), image.size
    top = view.occluder_top * h
    if view.occluder == "hedge":
        green = (rng.randint(44, 76), rng.randint(96, 132), rng.randint(46, 66))
        pen.rectangle((0, top + 0.02 * h, w, h), fill=green)
        for _ in range(40):
            x, y, r = rng.uniform(0, w), rng.uniform(top + 0.02 * h, h), rng.uniform(0.03, 0.06) * w
            pen.ellipse((x - r, y - r, x + r, y + r), fill=shade(green, rng.uniform(0.75, 1.3)))
    elif view.occluder == "bonnet":
        colour = rng.choice([(170, 36, 40), (54, 76, 140), (204, 206, 210), (54, 56, 60)])
        pen.rounded_rectangle((-0.3 * w, top, rng.uniform(1.0, 1.2) * w, 1.2 * h), 0.05 * h, fill=colour)
        pen.line((0, top + 0.02 * h, w, top + 0.02 * h), fill=shade(colour, 1.5), width=max(1, h // 90))
    elif view.occluder == "railing":
        colour = _grey(rng, 60, 190)
        pen.rectangle((0, top, w, top + 0.025 * h), fill=colour)
        for i in range(9):
            x = (i + 0.3) * w / 9
            pen.rectangle((x, top, x + 0.045 * w, h), fill=colour)
    elif view.occluder == "pole":
        x = rng.choice([rng.uniform(0.05, 0.3), rng.uniform(0.66, 0.9)]) * w
        colour = _grey(rng, 70, 170)
        pen.rectangle((x, 0, x + 0.07 * w, h), fill=colour)
        pen.rectangle((x, 0, x + 0.02 * w, h), fill=shade(colour, 1.3))
    elif view.occluder == "passer-by":
        _bystander(pen, w, h, rng, size=0.95 * h, x=rng.choice([-0.02, 1.02]) * w)
