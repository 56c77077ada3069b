"""Head, hair, face and hat of a drawn pedestrian, as PaintedParts (clothes.py). R is half the head's height."""

from functools import partial

from dataset.synthpedes.body import SIDES, Body, Look, hair_rgb
from dataset.synthpedes.canvas import Canvas, Cloth, Point, Rgb, Spot, shade
from dataset.synthpedes.clothes import PaintedPart, belonging
from dataset.synthpedes.people import NONE, Person

_SIDE_OF_HEAD = 0.84  # half-width of the head, in R
_DARK = (26, 24, 28)


def head_parts(canvas: Canvas, person: Person, look: Look, body: Body) -> list[PaintedPart]:
    """Everything above the collar."""
    neck = [Spot(0.0, 0.0, body.neck + 0.025), body.head]
    parts = [
        PaintedPart(-0.002, lambda: canvas.tube(neck, [0.034, 0.034], Cloth(shade(look.skin, 0.88)))),
        PaintedPart(0.014, lambda: _paint_skull(canvas, person, look, body)),
    ]
    hair = hair_rgb(person)
    if hair is not None:
        parts += belonging(canvas, "hair", _hair_parts(canvas, person, body, hair))
    if canvas.cos > -0.4:
        face = PaintedPart(0.016, lambda: _paint_face(canvas, person, look, body))
        parts += belonging(canvas, "head" if hair is None else "person", [face])
    if person.hat != NONE:
        parts += belonging(canvas, "hat", _hat_parts(canvas, person.hat, look.cloth(person.hat_colour), body))
    return parts


def _at(canvas: Canvas, body: Body, left: float, front: float, down: float) -> Point:
    """Return the pixel position of a point given relative to the head's centre, in R."""
    r = body.head_radius
    spot = Spot(body.head.left + left * r, body.head.front + front * r, body.head.down + down * r)
    x, y = canvas.place(spot)
    return x, y - canvas.pitch * canvas.depth(
        spot
    ) * canvas.scale * 0.5  # the face is seen less from above than the feet


def _pixels(canvas: Canvas, body: Body) -> float:
    """R in pixels."""
    return body.head_radius * canvas.scale


def _paint_skull(canvas: Canvas, person: Person, look: Look, body: Body) -> None:
    r = _pixels(canvas, body)
    centre = _at(canvas, body, 0, 0, 0)
    hair = hair_rgb(person)
    with canvas.part("head" if hair is None else "hair"):
        canvas.ellipse(centre, _SIDE_OF_HEAD * r, r, look.skin if hair is None else hair)
    if hair is not None and person.hair in ("short", "ponytail", "bun") and canvas.cos < 0.3:
        nape = _at(canvas, body, 0, -0.3, 0.75)
        canvas.ellipse(nape, 0.5 * r, 0.25 * r, look.skin, outlined=False)


def _hair_parts(canvas: Canvas, person: Person, body: Body, hair: Rgb) -> list[PaintedPart]:
    r = body.head_radius
    head = body.head
    back = (
        -0.055 * canvas.cos
    )  # of hair that hangs down the back: behind the trunk in front views, in front of it in back views
    cloth = Cloth(hair)
    parts = []
    if person.hair in ("long", "shoulder-length"):
        end = {"long": 2.9, "shoulder-length": 1.45}[person.hair]
        fall = [Spot(0, head.front - f * r, head.down + d * r) for f, d in ((0.25, 0.0), (0.45, 0.8), (0.5, end))]
        parts.append(PaintedPart(back, lambda: canvas.tube(fall, [0.98 * r, 0.92 * r, 0.7 * r], cloth)))
        if canvas.cos > 0.3:
            for side in SIDES:
                lock = [Spot(side * 0.8 * r, head.front, head.down + d * r) for d in (-0.2, 0.6, end - 0.25)]
                paint = partial(canvas.tube, lock, [0.2 * r, 0.24 * r, 0.2 * r], cloth)
                parts.append(PaintedPart(0.02 + 0.1 * canvas.depth(lock[0]), paint))
    elif person.hair == "ponytail":
        places = ((0.75, -0.35), (1.35, 0.1), (1.35, 1.0), (1.15, 1.9))
        tail = [Spot(0, head.front - f * r, head.down + d * r) for f, d in places]
        parts.append(PaintedPart(1.5 * back, lambda: canvas.tube(tail, [0.2 * r, 0.34 * r, 0.3 * r, 0.12 * r], cloth)))
    elif person.hair == "bun":
        knot = [Spot(0, head.front - 0.45 * r, head.down - 1.02 * r)]
        parts.append(PaintedPart(0.013 + 0.1 * back, lambda: canvas.tube(knot, [0.42 * r], cloth)))
    return parts


def _paint_face(canvas: Canvas, person: Person, look: Look, body: Body) -> None:
    r = _pixels(canvas, body)
    turn = 0.55 + 0.45 * canvas.cos
    bald = person.hair == "bald"
    centre = _at(canvas, body, 0, 0.36, 0.08 if bald else 0.2)
    rx, ry = 0.72 * r * turn, (0.86 if bald else 0.78) * r
    canvas.ellipse(centre, rx, ry, look.skin, outlined=False)
    if person.beard != NONE:
        colour = hair_rgb(person) or ((150, 150, 152) if person.age == "elderly" else (70, 46, 32))
        box = (centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + 1.1 * ry)
        with canvas.part("beard"):
            canvas.draw.chord(box, 15, 165, fill=colour)
    lips = ((196, 40, 58), 0.14) if person.gender == "female" and person.age != "child" else ((150, 78, 66), 0.07)
    mouth = [_at(canvas, body, left, 0.75, 0.62) for left in (-0.17, 0.17)]
    canvas.line(mouth, lips[0], lips[1] * body.head_radius)
    eyes = [side for side in SIDES if 0.75 * canvas.cos - 0.32 * side * canvas.sin > 0.12]
    places = [_at(canvas, body, 0.32 * side, 0.75, 0.1) for side in eyes]
    for place in places:
        canvas.ellipse(place, 0.085 * r, 0.1 * r, _DARK, outlined=False)
    if person.glasses != NONE and places:
        with canvas.part("glasses"):
            _paint_glasses(canvas, body, places, eyes, person.glasses == "sunglasses")


def _paint_glasses(canvas: Canvas, body: Body, places: list[Point], eyes: list[int], tinted: bool) -> None:
    r = _pixels(canvas, body)
    for side, (x, y) in zip(eyes, places, strict=True):
        canvas.line([(x, y), _at(canvas, body, 0.84 * side, 0.0, 0.02)], _DARK, 0.09 * body.head_radius)
        box = (x - 0.26 * r, y - 0.22 * r, x + 0.26 * r, y + 0.22 * r)
        fill = _DARK if tinted else (214, 230, 238)
        canvas.draw.ellipse(box, fill=fill, outline=_DARK, width=max(1, round(0.09 * r)))
        if not tinted:
            canvas.ellipse((x, y), 0.07 * r, 0.08 * r, _DARK, outlined=False)
    if len(places) == 2:
        canvas.line(places, _DARK, 0.07 * body.head_radius)


def _hat_parts(canvas: Canvas, hat: str, colour: Rgb, body: Body) -> list[PaintedPart]:
    r = _pixels(canvas, body)
    x, y = _at(canvas, body, 0, 0, 0)

    def dome(top: float, bottom: float, width: float) -> None:
        box = (x - width * r, y - top * r, x + width * r, y + (top - 2 * bottom) * r)
        canvas.draw.chord(box, 180, 360, fill=colour, outline=shade(colour, 0.6), width=round(canvas.outline_px))

    def cap_visor() -> None:
        front = 1.0 if canvas.cos > -0.3 else 0.4
        corners = [(-0.62, 0.55, -0.3), (0.62, 0.55, -0.3), (0.45, 1.5 * front, -0.08), (-0.45, 1.5 * front, -0.08)]
        canvas.polygon([_at(canvas, body, *corner) for corner in corners], Cloth(shade(colour, 0.8)))

    def beanie() -> None:
        canvas.ellipse((x, y - 1.28 * r), 0.24 * r, 0.24 * r, shade(colour, 1.5))
        dome(1.2, 0.3, 0.95)
        band = (x - 0.95 * r, y - 0.42 * r, x + 0.95 * r, y - 0.12 * r)
        canvas.draw.rounded_rectangle(band, 0.12 * r, fill=shade(colour, 0.78))

    def sun_hat() -> None:
        canvas.ellipse((x, y - 0.32 * r), 1.6 * r, 0.36 * r, shade(colour, 0.92))
        dome(1.2, 0.36, 0.86)
        canvas.draw.rectangle((x - 0.84 * r, y - 0.52 * r, x + 0.84 * r, y - 0.36 * r), fill=shade(colour, 0.5))

    if hat == "cap":
        visor_depth = 0.021 if canvas.cos > -0.3 else -0.03
        return [PaintedPart(0.02, lambda: dome(1.12, 0.28, 0.93)), PaintedPart(visor_depth, cap_visor)]
    return [PaintedPart(0.03, beanie if hat == "beanie" else sun_hat)]
