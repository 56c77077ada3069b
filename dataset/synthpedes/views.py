"""How a picture of a person is taken (orientation, pose, framing, occluder), and which attributes it shows.

Angles in radians. yaw 0 faces the camera, pi/2 faces the right edge of the picture, pi shows the back. Body heights are
fractions of the person's height, 0 at the crown and 1 at the soles; places in the picture are fractions of its size.
"""

import math
from dataclasses import dataclass
from random import Random

from dataset.synthpedes.people import NONE, Person, pick

SCENES = ("street", "wall", "lawn", "corridor", "shop", "plain")
_CENTRE_YAWS = {
    0.0: 0.3,
    math.pi: 0.24,
    math.pi / 2: 0.1,
    -math.pi / 2: 0.1,
    0.7: 0.07,
    -0.7: 0.07,
    2.4: 0.06,
    -2.4: 0.06,
}


@dataclass(frozen=True)
class CameraView:
    """Everything about one picture that is not an attribute of the person."""

    yaw: float
    stride: float  # in [-1, 1]: how far the left leg is in front; near 0 = standing
    top: float  # crown of the head (or top of an open umbrella), fraction of the picture's height
    height: float  # from there to the soles, fraction of the picture's height; the feet may be outside
    centre: float  # of the body, fraction of the picture's width
    scene: str  # one of SCENES
    occluder: str  # hedge | bonnet | railing (in front of the feet) | pole | passer-by (at the side) | none
    occluder_top: float  # of hedge, bonnet or railing, fraction of the picture's height
    bag_side: int  # +1: the person's left, -1: right; the carried object is on the other side

    @property
    def from_front(self) -> bool:
        """Whether the face and the front of the clothes are visible."""
        return math.cos(self.yaw) > 0.5

    @property
    def from_back(self) -> bool:
        """Whether neither the face nor the front of the clothes is visible."""
        return math.cos(self.yaw) < -0.5

    @property
    def walking(self) -> bool:
        return abs(self.stride) > 0.45

    @property
    def lowest(self) -> float:
        """The body height down to which the person is visible."""
        bottom = self.occluder_top if self.occluder in ("hedge", "bonnet", "railing") else 1.0
        return (min(bottom, 1.0) - self.top) / self.height

    def near(self, side: int) -> bool:
        """Whether something that hangs on a side (+1 left, -1 right) is visible and not hidden by the body."""
        return -side * math.sin(self.yaw) > -0.6


def sample_view(person: Person, rng: Random) -> CameraView:
    """Draw a view: mostly the whole figure, sometimes cut off or occluded."""
    centre_yaw = rng.choices(list(_CENTRE_YAWS), list(_CENTRE_YAWS.values()))[0]
    walking = rng.random() < 0.6
    stride = rng.choice([-1, 1]) * rng.uniform(0.55, 1.0) if walking else rng.uniform(-0.25, 0.25)
    top, height = rng.uniform(0.03, 0.08), rng.uniform(0.85, 0.92)
    framing = pick(rng, {"usual": 0.7, "loose": 0.18, "cut": 0.12})
    if framing == "loose":
        top, height = rng.uniform(0.1, 0.16), rng.uniform(0.74, 0.8)
    elif framing == "cut":
        height = rng.uniform(1.02, 1.16)
    if person.age == "child":
        top, height = top + 0.12 * height, 0.88 * height
    occluder = pick(rng, {NONE: 0.78, "hedge": 0.04, "bonnet": 0.04, "railing": 0.03, "pole": 0.05, "passer-by": 0.06})
    return CameraView(
        yaw=centre_yaw + rng.uniform(-0.25, 0.25),
        stride=stride,
        top=top,
        height=height,
        centre=0.5 + rng.uniform(-0.06, 0.06),
        scene=rng.choice(SCENES),
        occluder=occluder,
        occluder_top=min(0.95, top + height * rng.uniform(0.76, 0.88)),
        bag_side=rng.choice([-1, 1]),
    )


def visible_attributes(person: Person, view: CameraView) -> set[str]:
    """Return the attributes that this view shows; things that the person lacks are left out."""
    shown = {"gender", "age", "upper", "upper_colour", "sleeves"}
    candidates = {"hair", "hair_colour", "hat", "lower", "lower_colour", "scarf_colour"}
    if not view.from_back:
        candidates |= {"beard", "glasses"}
    if view.from_front:
        candidates |= {"inner_colour"}
    if person.hair == "ponytail" and view.from_front:
        candidates.discard("hair")
    if person.upper == "vest":
        candidates |= {"inner_colour"}  # its sleeves are visible from all sides
    if person.pattern != "plain" and (person.pattern != "logo" or view.from_front):
        shown |= {"pattern", "pattern_colour"}
    if view.lowest > 0.97:
        candidates |= {"shoes", "shoe_colour"}
    if _bag_shown(person, view):
        candidates |= {"bag", "bag_colour"}
    if _carried_shown(person, view):
        candidates |= {"carried", "carried_colour"}
    if person.hat != NONE:
        shown.add("hat_colour")
    return shown | {name for name in candidates if getattr(person, name) != NONE}


def _bag_shown(person: Person, view: CameraView) -> bool:
    return person.bag == "backpack" or view.near(view.bag_side)


def _carried_shown(person: Person, view: CameraView) -> bool:
    if person.carried == "umbrella":
        return True
    if person.carried in ("phone", "book"):  # held in front of the chest
        return not view.from_back
    if person.carried == "suitcase" and view.lowest < 0.97:
        return False
    return view.near(-view.bag_side)
