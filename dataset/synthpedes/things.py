"""Bags and carried objects of a drawn pedestrian, as PaintedParts (clothes.py)."""

from functools import partial

from dataset.synthpedes.body import SIDES, Body, Look
from dataset.synthpedes.canvas import Canvas, Cloth, Point, Rgb, Spot, shade
from dataset.synthpedes.clothes import PaintedPart, belonging
from dataset.synthpedes.palette import luminance
from dataset.synthpedes.people import NONE, Person
from dataset.synthpedes.views import CameraView


def thing_parts(canvas: Canvas, person: Person, look: Look, body: Body, view: CameraView) -> list[PaintedPart]:
    """The bag, and what the other hand carries."""
    bag, carried = [], []
    if person.bag == "backpack":
        bag = _backpack(canvas, look.cloth(person.bag_colour), body)
    elif person.bag == "shoulder bag":
        bag = _shoulder_bag(canvas, look.cloth(person.bag_colour), body, view.bag_side)
    elif person.bag == "handbag":
        wrist = body.arms[view.bag_side][2]
        colour = look.cloth(person.bag_colour)
        bag = [PaintedPart(_hand_depth(canvas, wrist), partial(_paint_handbag, canvas, colour, wrist))]
    if person.carried != NONE:
        wrist = body.arms[-view.bag_side][2]
        colour = (0, 0, 0) if person.carried_colour == NONE else look.cloth(person.carried_colour)
        carried = [PaintedPart(_hand_depth(canvas, wrist), partial(_PAINTERS[person.carried], canvas, colour, wrist))]
    return [*belonging(canvas, "bag", bag), *belonging(canvas, "carried", carried)]


def _hand_depth(canvas: Canvas, wrist: Spot) -> float:
    """Return a depth in front of the hand, unless the whole arm is behind the body."""
    depth = canvas.depth(wrist)
    return depth + 0.03 if depth > -0.06 else depth


def _edge(colour: Rgb) -> Rgb:
    """Return a line colour that is visible on the given colour."""
    return shade(colour, 0.55) if luminance(colour) > 70 else shade(colour, 1.35)


def _box(
    canvas: Canvas, centre: Point, half_width: float, half_height: float, colour: Rgb, round_: float = 0.02
) -> None:
    """Draw a rounded box around a pixel position; sizes in body heights."""
    w, h = half_width * canvas.scale, half_height * canvas.scale
    corners = (centre[0] - w, centre[1] - h, centre[0] + w, centre[1] + h)
    radius = min(round_ * canvas.scale, w)
    canvas.draw.rounded_rectangle(corners, radius, fill=colour, outline=_edge(colour), width=round(canvas.outline_px))


def _backpack(canvas: Canvas, colour: Rgb, body: Body) -> list[PaintedPart]:
    centre = Spot(0.0, -0.105, body.shoulder + 0.12)

    def pack() -> None:
        x, y = canvas.place(centre)
        half = canvas.half_width(0.095, 0.058)
        _box(canvas, (x, y), half, 0.135, colour, 0.05)
        _box(canvas, (x, y + 0.06 * canvas.scale), 0.7 * half, 0.055, shade(colour, 0.86))
        canvas.line(
            [
                (x - 0.6 * half * canvas.scale, y - 0.03 * canvas.scale),
                (x + 0.6 * half * canvas.scale, y - 0.03 * canvas.scale),
            ],
            _edge(colour),
            0.008,
        )

    def straps() -> None:
        for side in SIDES:
            places = [Spot(side * 0.06, 0.0, body.shoulder - 0.015), Spot(side * 0.066, 0.06, body.shoulder + 0.05)]
            places.append(Spot(side * 0.075, 0.05, body.waist + 0.02))
            if canvas.depth(places[1]) > 0:
                points = [canvas.place(place) for place in places]
                canvas.line(points, _edge(colour), 0.036)
                canvas.line(points, colour, 0.028)

    parts = [PaintedPart(canvas.depth(centre), pack)]
    return [*parts, PaintedPart(0.011, straps)] if canvas.cos > -0.5 else parts


def _shoulder_bag(canvas: Canvas, colour: Rgb, body: Body, side: int) -> list[PaintedPart]:
    hang = Spot(side * 0.135, 0.0, body.hip + 0.0)
    face = 1 if canvas.cos >= 0 else -1

    def strap() -> None:
        start, middle = Spot(-side * 0.06, 0.0, body.shoulder - 0.012), Spot(0.0, face * 0.065, body.waist - 0.03)
        points = [canvas.place(spot) for spot in (start, middle, hang)]
        canvas.line(points, _edge(colour), 0.03)
        canvas.line(points, colour, 0.02)

    def bag() -> None:
        x, y = canvas.place(hang)
        half = canvas.half_width(0.06, 0.09)
        _box(canvas, (x, y + 0.03 * canvas.scale), half, 0.065, colour)
        flap = (x - half * canvas.scale, y - 0.035 * canvas.scale, x + half * canvas.scale, y + 0.025 * canvas.scale)
        canvas.draw.rounded_rectangle(flap, 0.02 * canvas.scale, fill=shade(colour, 0.8), outline=_edge(colour))

    return [
        PaintedPart(0.009, strap),
        PaintedPart(canvas.depth(hang) + (0.03 if canvas.depth(hang) > -0.08 else 0.0), bag),
    ]


def _paint_handbag(canvas: Canvas, colour: Rgb, wrist: Spot) -> None:
    x, y = canvas.place(wrist)
    s = canvas.scale
    canvas.draw.arc(
        (x - 0.045 * s, y, x + 0.045 * s, y + 0.13 * s), 180, 360, fill=_edge(colour), width=max(1, round(0.014 * s))
    )
    top, bottom = y + 0.06 * s, y + 0.16 * s
    shape = [(x - 0.06 * s, top), (x + 0.06 * s, top), (x + 0.078 * s, bottom), (x - 0.078 * s, bottom)]
    canvas.polygon(shape, Cloth(colour))
    canvas.ellipse((x, top + 0.02 * s), 0.014 * s, 0.014 * s, (232, 200, 96), outlined=False)


def _paint_phone(canvas: Canvas, colour: Rgb, wrist: Spot) -> None:
    x, y = canvas.place(wrist)
    half = canvas.half_width(0.026, 0.014)
    _box(canvas, (x, y - 0.035 * canvas.scale), half, 0.045, (30, 30, 34), 0.01)
    _box(canvas, (x, y - 0.035 * canvas.scale), 0.65 * half, 0.03, (150, 214, 244), 0.004)


def _paint_bottle(canvas: Canvas, colour: Rgb, wrist: Spot) -> None:
    body = [wrist._replace(down=wrist.down + d) for d in (0.0, 0.075)]
    canvas.tube(body, [0.026, 0.026], Cloth((126, 204, 232)))
    neck = [wrist._replace(down=wrist.down + d) for d in (-0.05, -0.03)]
    canvas.tube(neck, [0.011, 0.013], Cloth((40, 104, 190)))


def _paint_book(canvas: Canvas, colour: Rgb, wrist: Spot) -> None:
    x, y = canvas.place(wrist)
    half = max(0.03, canvas.half_width(0.062, 0.02))
    _box(canvas, (x, y - 0.03 * canvas.scale), half, 0.055, (244, 240, 226), 0.004)
    _box(canvas, (x - 0.008 * canvas.scale, y - 0.034 * canvas.scale), half, 0.055, (150, 44, 50), 0.004)
    canvas.line(
        [
            (x - 0.6 * half * canvas.scale, y - 0.05 * canvas.scale),
            (x + 0.4 * half * canvas.scale, y - 0.05 * canvas.scale),
        ],
        (240, 220, 150),
        0.01,
    )


def _paint_shopping_bag(canvas: Canvas, colour: Rgb, wrist: Spot) -> None:
    x, y = canvas.place(wrist)
    s = canvas.scale
    for side in SIDES:
        canvas.line([(x, y), (x + side * 0.04 * s, y + 0.07 * s)], _edge(colour), 0.012)
    top, bottom = y + 0.06 * s, y + 0.23 * s
    canvas.polygon(
        [(x - 0.065 * s, top), (x + 0.065 * s, top), (x + 0.075 * s, bottom), (x - 0.075 * s, bottom)], Cloth(colour)
    )
    canvas.ellipse((x, y + 0.15 * s), 0.03 * s, 0.022 * s, _edge(colour), outlined=False)


def _paint_suitcase(canvas: Canvas, colour: Rgb, wrist: Spot) -> None:
    x, _ = canvas.place(wrist)
    _, ground = canvas.place(Spot(wrist.left, wrist.front, 0.985))
    s, half = canvas.scale, canvas.half_width(0.085, 0.055)
    _, hand = canvas.place(wrist)
    for side in SIDES:
        canvas.line([(x + side * 0.03 * s, hand), (x + side * 0.03 * s, ground - 0.25 * s)], (120, 120, 126), 0.01)
        canvas.ellipse((x + side * 0.6 * half * s, ground), 0.014 * s, 0.014 * s, (30, 30, 30))
    _box(canvas, (x, ground - 0.14 * s), half, 0.13, colour, 0.03)
    for i in (-1, 0, 1):
        canvas.line(
            [(x + i * 0.45 * half * s, ground - 0.25 * s), (x + i * 0.45 * half * s, ground - 0.03 * s)],
            _edge(colour),
            0.008,
        )


def _paint_umbrella(canvas: Canvas, colour: Rgb, wrist: Spot) -> None:
    x, y = canvas.place(wrist)
    s, top = canvas.scale, canvas.crown[1] - 0.135 * canvas.scale
    base = canvas.crown[1] + 0.012 * canvas.scale
    centre = x * 0.55 + canvas.crown[0] * 0.45
    canvas.line([(x, y + 0.05 * s), (centre, top - 0.012 * s)], (60, 50, 46), 0.014)
    half = 0.235 * s
    canvas.draw.chord(
        (centre - half, top, centre + half, 2 * base - top), 180, 360, fill=colour, outline=shade(colour, 0.6)
    )
    for i in (-1, 0, 1):
        rib = (centre - 0.36 * half, top, centre + 0.36 * half, 2 * base - top)
        canvas.draw.chord(rib, 180, 360, fill=shade(colour, 0.84) if i == 0 else None, outline=shade(colour, 0.6))


_PAINTERS = {
    "phone": _paint_phone,
    "bottle": _paint_bottle,
    "book": _paint_book,
    "shopping bag": _paint_shopping_bag,
    "suitcase": _paint_suitcase,
    "umbrella": _paint_umbrella,
}
