"""Clothes and limbs of a drawn pedestrian. Each function returns PaintedParts, which are painted in order of depth."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from dataset.synthpedes.body import SIDES, Body, Look
from dataset.synthpedes.canvas import Canvas, Cloth, Point, Spot, shade
from dataset.synthpedes.palette import luminance
from dataset.synthpedes.people import NONE, Person

_HEM = {"coat": 0.2, "dress": 0.18, "shirt": 0.045, "hoodie": 0.03}  # below the hips, in body heights
_DEEP = 0.06  # half of the trunk's thickness


class PaintedPart(NamedTuple):
    """Something to paint. Larger depths are nearer to the camera and are painted later."""

    depth: float
    paint: Callable[[], None]


def belonging(canvas: Canvas, part: str, painted: Iterable[PaintedPart]) -> list[PaintedPart]:
    """Let what is painted belong to a part of `parts.PARTS`."""
    return [PaintedPart(depth, partial(_paint_as, canvas, part, paint)) for depth, paint in painted]


def _paint_as(canvas: Canvas, part: str, paint: Callable[[], None]) -> None:
    with canvas.part(part):
        paint()


def upper_cloth(person: Person, look: Look) -> Cloth:
    """Return the cloth of the upper garment. A logo is not woven; it is painted on top."""
    woven = person.pattern not in ("plain", "logo")
    second = look.cloth(person.pattern_colour) if woven else (0, 0, 0)
    return Cloth(look.cloth(person.upper_colour), person.pattern if woven else "plain", second)


def _cylinder(canvas: Canvas, levels: list[tuple[float, float, float]]) -> list[Point]:
    """Return the outline of a stack of elliptic cross-sections (down, half-width at the side, half-thickness)."""
    right, left = [], []
    for down, side, deep in levels:
        x, y = canvas.place(Spot(0.0, 0.0, down))
        half = canvas.half_width(side, deep) * canvas.scale
        right.append((x + half, y))
        left.append((x - half, y))
    return right + left[::-1]


def leg_parts(canvas: Canvas, person: Person, look: Look, body: Body) -> list[PaintedPart]:
    """Legs with trousers, leggings or shorts, and shoes. Legs are bare under skirts and dresses."""
    parts = []
    for side in SIDES:
        depth = canvas.depth(body.legs[side][0])

        def paint(side: int = side, far: bool = depth < -0.02) -> None:
            _paint_leg(canvas, person, look, body, side, 0.82 if far else 1.0)

        parts.append(PaintedPart(-0.03 + 0.2 * depth, paint))
    return parts


def _paint_leg(canvas: Canvas, person: Person, look: Look, body: Body, side: int, light: float) -> None:
    hip, knee, ankle = body.legs[side]
    skin = Cloth(shade(look.skin, light))
    bare = person.lower in ("shorts", "skirt", "long skirt", NONE)
    if bare:
        canvas.tube(body.legs[side], [r * body.limb for r in (0.045, 0.035, 0.024)], skin)
    with canvas.part("lower"):
        if person.lower == "shorts":
            end = Spot(*(a + 0.72 * (b - a) for a, b in zip(hip, knee, strict=True)))
            cloth = Cloth(shade(look.cloth(person.lower_colour), light))
            canvas.tube([hip, end], [0.058 * body.limb, 0.056 * body.limb], cloth)
        elif not bare:
            _paint_trouser_leg(canvas, person.lower, Cloth(shade(look.cloth(person.lower_colour), light)), body, side)
    with canvas.part("shoes"):
        _paint_shoe(canvas, person, look, ankle, knee, light)


def _paint_trouser_leg(canvas: Canvas, kind: str, cloth: Cloth, body: Body, side: int) -> None:
    radii = {"jeans": (0.056, 0.042, 0.036), "leggings": (0.05, 0.036, 0.025)}
    canvas.tube(body.legs[side], [r * body.limb for r in radii.get(kind, (0.056, 0.047, 0.044))], cloth)
    if kind == "jeans":
        _paint_denim(canvas, body, side, cloth)
    elif kind == "trousers":
        crease = [canvas.place(spot._replace(front=spot.front + 0.01)) for spot in body.legs[side]]
        canvas.line(crease, shade(cloth.colour, 0.7), 0.006)


def _paint_denim(canvas: Canvas, body: Body, side: int, cloth: Cloth) -> None:
    """Paint worn thighs and turned-up hems, which distinguish jeans from trousers at this size."""
    hip, knee, ankle = body.legs[side]
    worn = shade(cloth.colour, 1.25)
    middle = canvas.place(Spot(*((a + b) / 2 for a, b in zip(hip, knee, strict=True))))
    canvas.ellipse(middle, 0.018 * canvas.scale, 0.06 * canvas.scale, worn, outlined=False)
    hem = ankle._replace(down=ankle.down - 0.022)
    canvas.tube([hem, ankle], [0.037 * body.limb] * 2, Cloth(shade(cloth.colour, 1.55)))


def _paint_shoe(canvas: Canvas, person: Person, look: Look, ankle: Spot, knee: Spot, light: float) -> None:
    colour = shade(look.cloth(person.shoe_colour), light)
    skin = shade(look.skin, light)
    heel = Spot(ankle.left, ankle.front - 0.012, ankle.down + 0.03)
    toe = Spot(ankle.left * 1.3, ankle.front + 0.075, ankle.down + 0.037)
    sole = [canvas.place(spot._replace(down=spot.down + 0.016)) for spot in (heel, toe)]
    if person.shoes == "boots":
        shin = Spot(*(a + 0.5 * (b - a) for a, b in zip(ankle, knee, strict=True)))
        canvas.tube([shin, ankle, heel], [0.04, 0.034, 0.03], Cloth(colour))
        canvas.tube([heel, toe], [0.03, 0.023], Cloth(colour))
        canvas.line(sole, shade(colour, 0.5), 0.014)
    elif person.shoes == "sandals":
        canvas.tube([ankle, heel, toe], [0.018, 0.02, 0.017], Cloth(skin))
        middle = canvas.place(Spot(*((a + b) / 2 for a, b in zip(heel, toe, strict=True))))
        canvas.ellipse(middle, 0.03 * canvas.scale, 0.012 * canvas.scale, colour)
        canvas.line([canvas.place(ankle), canvas.place(heel)], colour, 0.016)
        canvas.line(sole, colour, 0.018)
    elif person.shoes == "high heels":
        lifted = heel._replace(down=heel.down - 0.018)
        canvas.tube([ankle, lifted], [0.018, 0.02], Cloth(skin))
        canvas.tube([lifted, toe], [0.02, 0.014], Cloth(colour))
        canvas.line([canvas.place(lifted), sole[0]], colour, 0.016)
    elif person.shoes == "leather shoes":
        canvas.tube([heel, toe._replace(front=toe.front + 0.012)], [0.024, 0.017], Cloth(colour))
        canvas.line(sole, shade(colour, 0.45), 0.01)
    else:
        canvas.tube([heel, toe], [0.031, 0.027], Cloth(colour))
        canvas.line(sole, (236, 236, 232) if luminance(colour) < 150 else (150, 150, 150), 0.014)


def trunk_parts(canvas: Canvas, person: Person, look: Look, body: Body) -> list[PaintedPart]:
    """Hips, skirt, upper garment with its details, scarf."""
    parts = belonging(canvas, "upper", [PaintedPart(0.0, lambda: _paint_upper(canvas, person, look, body))])
    if person.lower != NONE:
        hips = PaintedPart(-0.005, lambda: _paint_hips(canvas, person, look, body))
        parts += belonging(canvas, "lower", [hips])
    if person.scarf_colour != NONE:
        scarf = PaintedPart(0.012, lambda: _paint_scarf(canvas, look, body, person.scarf_colour))
        parts += belonging(canvas, "scarf", [scarf])
    return parts


def _reach(body: Body, bones: float) -> float:
    """Return how far legs and cloth reach forward or back, at a depth of so many leg bones below the hips."""
    reach = []
    for hip, knee, ankle in body.legs.values():
        start, end, share = (hip, knee, bones) if bones <= 1 else (knee, ankle, bones - 1)
        reach.append(abs(start.front + share * (end.front - start.front)))
    return max(reach) + 0.045


def _paint_hips(canvas: Canvas, person: Person, look: Look, body: Body) -> None:
    cloth = Cloth(look.cloth(person.lower_colour))
    levels = [(body.waist, body.waist_width, _DEEP), (body.hip, body.hip_width, _DEEP)]
    if person.lower == "skirt":
        levels += [(body.hip + 0.15, 0.128 * body.limb, max(0.09, _reach(body, 0.75)))]
    elif person.lower == "long skirt":
        levels += [(body.hip + 0.35, 0.145 * body.limb, max(0.11, _reach(body, 1.8)))]
    else:
        levels += [(body.hip + 0.035, 0.6 * body.hip_width, 0.05)]
    canvas.polygon(_cylinder(canvas, levels), cloth)
    if "skirt" in person.lower:
        top, length = body.hip, levels[-1][0] - body.hip
        for fold in (-0.45, 0.1, 0.55):
            start, end = Spot(fold * 0.12, 0.05, top + 0.3 * length), Spot(fold * 0.2, 0.05, top + 0.95 * length)
            canvas.line([canvas.place(start), canvas.place(end)], shade(cloth.colour, 0.75), 0.008)


def _paint_upper(canvas: Canvas, person: Person, look: Look, body: Body) -> None:
    cloth = upper_cloth(person, look)
    sw, loose = body.shoulder_width, 1.06 if person.upper in ("coat", "jacket", "vest", "hoodie") else 1.0
    levels = [
        (body.neck - 0.005, 0.032, 0.034),
        (body.shoulder - 0.012, 0.7 * sw, 0.045),
        (body.shoulder + 0.012, sw, 0.055),
        (body.shoulder + 0.09, 0.95 * sw * loose, _DEEP * loose),
        (body.waist, body.waist_width * loose, 0.95 * _DEEP * loose),
        (body.hip, body.hip_width * loose, _DEEP * loose),
    ]
    if person.upper == "tank top":
        levels[0:3] = [(body.shoulder + 0.03, 0.62 * sw, 0.05)]
        bare = [(body.neck, 0.032, 0.034), (body.shoulder - 0.01, 0.75 * sw, 0.045), (body.shoulder + 0.09, sw, 0.055)]
        with canvas.part("person"):
            canvas.polygon(_cylinder(canvas, bare), Cloth(look.skin))
    flare = {"coat": 1.25, "dress": 1.45}.get(person.upper, 1.04)
    hem = body.hip + _HEM.get(person.upper, 0.02)
    deep = max(_DEEP * flare, _reach(body, 0.8)) if person.upper in ("coat", "dress") else _DEEP * flare
    levels.append((hem, body.hip_width * loose * flare, deep))
    canvas.polygon(_cylinder(canvas, levels), cloth)
    if person.upper == "tank top":
        for side in SIDES:
            ends = [Spot(side * 0.05, 0.02, body.shoulder - 0.015), Spot(side * 0.055, 0.03, body.shoulder + 0.04)]
            canvas.line([canvas.place(end) for end in ends], cloth.colour, 0.028)
    if canvas.cos > 0.15:
        _paint_front(canvas, person, look, body, hem)
    elif person.upper == "hoodie":
        hood = canvas.place(Spot(0.0, -0.05, body.shoulder + 0.01))
        half = canvas.half_width(0.062, 0.035) * canvas.scale
        canvas.ellipse(hood, half, 0.045 * canvas.scale, shade(cloth.colour, 0.85))
    if person.upper == "vest":
        _paint_quilting(canvas, body, cloth)
    if person.upper == "dress":
        half = canvas.half_width(body.waist_width, _DEEP) * canvas.scale
        x, y = canvas.place(Spot(0.0, 0.0, body.waist))
        canvas.line([(x - half, y), (x + half, y)], shade(cloth.colour, 0.5), 0.018)


def _front(canvas: Canvas, left: float, down: float) -> Point:
    """Return the pixel position of a point on the front of the trunk."""
    return canvas.place(Spot(left, _DEEP, down))


def _paint_front(canvas: Canvas, person: Person, look: Look, body: Body, hem: float) -> None:
    """Paint the opening, the collar, the pocket or the logo."""
    top, colour = body.neck + 0.012, look.cloth(person.upper_colour)
    dark = shade(colour, 0.55) if luminance(colour) > 60 else shade(colour, 1.4)
    if person.inner_colour != NONE:
        end = hem if person.upper != "vest" else hem - 0.01
        opening = [(-0.03, top), (0.03, top), (0.042, end), (-0.042, end)]
        with canvas.part("inner"):
            canvas.polygon([_front(canvas, *at) for at in opening], Cloth(look.cloth(person.inner_colour)))
    elif person.upper in ("jacket", "coat"):
        canvas.line([_front(canvas, 0, top), _front(canvas, 0, hem)], shade(colour, 0.5), 0.012)
    if person.upper in ("shirt", "jacket", "coat"):
        for side in SIDES:
            flap = [(0.0, top), (side * 0.045, top - 0.005), (side * 0.04, top + 0.055)]
            canvas.polygon([_front(canvas, *at) for at in flap], Cloth(shade(colour, 0.8)))
    if person.upper == "shirt":
        canvas.line([_front(canvas, 0, top + 0.02), _front(canvas, 0, hem)], dark, 0.006)
    elif person.upper == "hoodie":
        pocket = [(-0.045, body.waist + 0.02), (0.045, body.waist + 0.02), (0.065, body.hip), (-0.065, body.hip)]
        canvas.polygon([_front(canvas, *at) for at in pocket], Cloth(shade(colour, 0.82)))
        for side in SIDES:
            canvas.line(
                [_front(canvas, side * 0.02, top), _front(canvas, side * 0.022, top + 0.075)], (240,) * 3, 0.008
            )
    elif person.upper in ("t-shirt", "dress", "tank top"):
        neckline = _front(canvas, 0, top - 0.012)
        with canvas.part("person"):
            canvas.ellipse(neckline, 0.035 * canvas.cos * canvas.scale, 0.024 * canvas.scale, look.skin, outlined=False)
    if person.pattern == "logo":
        chest = _front(canvas, 0, body.shoulder + (0.085 if person.upper != "hoodie" else 0.105))
        size = 0.042 * canvas.scale
        with canvas.part("logo"):
            canvas.ellipse(chest, size * max(0.4, canvas.cos), size, look.cloth(person.pattern_colour))
            canvas.ellipse(chest, 0.45 * size * canvas.cos, 0.45 * size, colour, outlined=False)


def _paint_quilting(canvas: Canvas, body: Body, cloth: Cloth) -> None:
    half = canvas.half_width(body.waist_width, _DEEP) * canvas.scale
    open_half = 0.045 * canvas.scale if canvas.cos > 0.15 else 0.0
    for i in range(5):
        x, y = canvas.place(Spot(0.0, 0.0, body.shoulder + 0.05 + 0.055 * i))
        for side in SIDES:
            canvas.line([(x + side * open_half, y), (x + side * half, y)], shade(cloth.colour, 0.65), 0.008)


def _paint_scarf(canvas: Canvas, look: Look, body: Body, colour_name: str) -> None:
    cloth = Cloth(look.cloth(colour_name))
    x, y = canvas.place(Spot(0.0, 0.01, body.neck + 0.018))
    tail = [Spot(0.035, _DEEP, body.neck + 0.03), Spot(0.04, _DEEP + 0.01, body.neck + 0.16)]
    if canvas.cos > -0.2:
        canvas.tube(tail, [0.022, 0.026], cloth)
    canvas.ellipse((x, y), canvas.half_width(0.068, 0.06) * canvas.scale, 0.028 * canvas.scale, cloth.colour)


def arm_parts(canvas: Canvas, person: Person, look: Look, body: Body) -> list[PaintedPart]:
    """Arms with sleeves, and hands."""
    cloth, sleeve = upper_cloth(person, look), "upper"
    if person.upper == "vest":
        cloth, sleeve = Cloth(look.cloth(person.inner_colour)), "inner"
    parts = []
    for side in SIDES:
        depth = sum(canvas.depth(spot) for spot in body.arms[side]) / 3

        def paint(side: int = side, far: bool = depth < -0.04) -> None:
            _paint_arm(canvas, person.sleeves, look, body, side, cloth.shaded(0.82) if far else cloth, sleeve)

        parts.append(PaintedPart(depth + 0.01, paint))
    return parts


def _paint_arm(canvas: Canvas, sleeves: str, look: Look, body: Body, side: int, cloth: Cloth, sleeve: str) -> None:
    shoulder, elbow, wrist = body.arms[side]
    radii = [0.036 * body.limb, 0.031 * body.limb, 0.027 * body.limb]
    hand = wrist._replace(down=wrist.down + 0.012)
    if sleeves == "long":
        canvas.tube([hand], [0.025], Cloth(look.skin))
        with canvas.part(sleeve):
            canvas.tube([shoulder, elbow, wrist], radii, cloth)
        return
    canvas.tube([shoulder, elbow, hand], [0.8 * r for r in radii], Cloth(look.skin))
    if sleeves == "short":
        end = Spot(*(a + 0.62 * (b - a) for a, b in zip(shoulder, elbow, strict=True)))
        with canvas.part(sleeve):
            canvas.tube([shoulder, end], [radii[0], radii[0]], cloth)
