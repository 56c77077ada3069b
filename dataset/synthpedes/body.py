"""Joints of a drawn pedestrian from a pose. Places are Spots in fractions of the body height (canvas.py)."""

import math
from dataclasses import dataclass
from random import Random

from dataset.synthpedes.canvas import Rgb, Spot
from dataset.synthpedes.palette import CLOTH_RGB, HAIR_RGB
from dataset.synthpedes.people import NONE, Person
from dataset.synthpedes.views import CameraView

SIDES = (1, -1)  # the person's left, right
_SKIN_RGB = ((246, 214, 186), (232, 190, 156), (208, 158, 118), (158, 108, 74), (104, 68, 46))


@dataclass(frozen=True)
class Look:
    """Looks of a person that no caption mentions: drawn once per person, the same in all views."""

    skin: Rgb
    build: float  # width of body and limbs, 1 = average
    tint: tuple[int, int, int]  # added to cloth colours, so that two red coats are not the same red

    def cloth(self, name: str) -> Rgb:
        """Return the person's own shade of a named cloth colour."""
        r, g, b = (max(0, min(255, c + t)) for c, t in zip(CLOTH_RGB[name], self.tint, strict=True))
        return r, g, b


def sample_look(rng: Random) -> Look:
    """Draw the looks of a person that no caption mentions."""
    tint = (rng.randint(-10, 10), rng.randint(-10, 10), rng.randint(-10, 10))
    return Look(skin=rng.choice(_SKIN_RGB), build=rng.uniform(0.92, 1.12), tint=tint)


@dataclass(frozen=True)
class Body:
    """Joints by side (+1 left, -1 right) and half-widths, in body heights."""

    head: Spot  # centre
    head_radius: float  # half of the head's height
    neck: float  # heights of the trunk's levels
    shoulder: float
    waist: float
    hip: float
    shoulder_width: float  # half-widths
    waist_width: float
    hip_width: float
    arms: dict[int, tuple[Spot, Spot, Spot]]  # shoulder, elbow, wrist
    legs: dict[int, tuple[Spot, Spot, Spot]]  # hip, knee, ankle
    limb: float  # width of the limbs, 1 = average


def hair_rgb(person: Person) -> Rgb | None:
    """Return the hair colour; None for bald people."""
    return None if person.hair_colour == NONE else HAIR_RGB[person.hair_colour]


def build_body(person: Person, look: Look, view: CameraView) -> Body:
    """Place the joints of a person in a view."""
    child, female = person.age == "child", person.gender == "female"
    head_radius = 0.108 if child else 0.08
    neck = 2 * head_radius + 0.005
    shoulder, hip = neck + 0.035, (0.56 if child else 0.5)
    stoop = 0.045 if person.age == "elderly" else 0.012
    shoulder_width = (0.092 if female else 0.108) * look.build
    return Body(
        head=Spot(0.0, stoop, head_radius),
        head_radius=head_radius,
        neck=neck,
        shoulder=shoulder,
        waist=shoulder + 0.55 * (hip - shoulder),
        hip=hip,
        shoulder_width=shoulder_width,
        waist_width=(0.074 if female else 0.093) * look.build,
        hip_width=(0.1 if female else 0.095) * look.build,
        arms={side: _arm(person, view, side, shoulder_width, shoulder) for side in SIDES},
        legs={side: _leg(view, side, hip) for side in SIDES},
        limb=look.build * (0.92 if female else 1.0) * (1.08 if child else 1.0),
    )


def _swing(start: Spot, length: float, forward: float, outward: float) -> Spot:
    """Return the end of a bone that hangs from start, swung forward and outward (radians; outward > 0 is left)."""
    down = math.cos(forward) * math.cos(outward)
    return Spot(
        start.left + length * math.sin(outward),
        start.front + length * math.sin(forward) * math.cos(outward),
        start.down + length * down,
    )


def _leg(view: CameraView, side: int, hip: float) -> tuple[Spot, Spot, Spot]:
    step = side * view.stride
    bone = (0.945 - hip) / 2
    start = Spot(side * 0.05, 0.0, hip)
    knee = _swing(start, bone, 0.42 * step + 0.06, side * 0.03)
    bend = 0.1 + 0.5 * max(0.0, -step) ** 2  # the leg behind is bent and its heel lifted
    ankle = _swing(knee, bone, 0.42 * step + 0.06 - bend, side * 0.02)
    return start, knee, ankle


def _arm(
    person: Person, view: CameraView, side: int, shoulder_width: float, shoulder: float
) -> tuple[Spot, Spot, Spot]:
    start = Spot(side * (shoulder_width - 0.012), 0.0, shoulder + 0.03)
    forward, bend, outward = -0.5 * side * view.stride, 0.3, 0.22
    if side != view.bag_side and person.carried in ("phone", "book", "umbrella"):
        forward, bend, outward = 0.35, {"phone": 2.0, "book": 1.5, "umbrella": 1.9}[person.carried], 0.05
    elif (side == view.bag_side and person.bag == "handbag") or (
        side != view.bag_side and person.carried in ("bottle", "shopping bag", "suitcase")
    ):
        forward, bend, outward = 0.5 * forward, 0.2, 0.3
    elbow = _swing(start, 0.145, forward, side * outward)
    wrist = _swing(elbow, 0.13, forward + bend, side * outward * 0.4)
    return start, elbow, wrist
