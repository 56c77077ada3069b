"""People who walk through drawn footage: their pictures step by step, and where they are at a time."""

import math
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image

from dataset.synthpedes.body import Look, sample_look
from dataset.synthpedes.figure import draw_person
from dataset.synthpedes.people import NONE, Person
from dataset.synthpedes.views import CameraView

PHASES = 12  # pictures per two steps
SPRITES = 40 * PHASES  # kept in memory: of the people in view
STEPS_PER_SECOND = 1.9
HEIGHTS_PER_SECOND = 0.8  # of walking, in body heights: 1.4 m/s for 1.75 m
ENLARGED = 2  # drawn larger by this factor and scaled down, to avoid jagged edges
ROOM = 0.1  # of the sprite's height, above and below the person
GROUND = 0.95  # body height below which there may be shadow


class Sprite(NamedTuple):
    """A person in one pose, cut out."""

    picture: Image.Image  # RGB
    alpha: Image.Image  # with the shadow
    body: Image.Image  # alpha without the shadow
    pixels: int  # of the body


@dataclass(frozen=True)
class Walker:
    """A person who crosses the picture on a straight line."""

    person: Person
    look: Look
    view: CameraView
    height: int  # of the person in pixels
    soles: float  # y in pixels
    start_s: float  # when the person is in the middle of the picture
    speed: float  # pixels per second; > 0: to the right
    middle: float  # x in pixels of the middle of the picture

    def in_view(self, time_s: float) -> bool:
        return abs(time_s - self.start_s) * abs(self.speed) < self.middle + self.height

    def at(self, time_s: float) -> tuple[Sprite, tuple[int, int]]:
        """The person's picture at a time, and where its top left corner is."""
        phase = int(time_s * STEPS_PER_SECOND / 2 * PHASES) % PHASES
        sprite = _sprite(self, phase)
        x = self.middle + (time_s - self.start_s) * self.speed - sprite.alpha.width / 2
        return sprite, (round(x), round(self.soles - self.height * (1 + ROOM)))


def sample_walker(person: Person, size: tuple[int, int], seconds: float, rng: Random) -> Walker:
    """Draw how a person walks through a picture of size (width, height) within some seconds."""
    width, height = size
    share = rng.uniform(0.36, 0.62) * (0.8 if person.age == "child" else 1)
    direction = rng.choice([-1, 1])
    speed = HEIGHTS_PER_SECOND * share * height * rng.uniform(0.8, 1.2)
    view = CameraView(
        yaw=direction * (math.pi / 2 + rng.uniform(-0.5, 0.5)),
        stride=0.8,
        top=ROOM / (1 + 2 * ROOM),
        height=1 / (1 + 2 * ROOM),
        centre=0.5,
        scene="street",
        occluder=NONE,
        occluder_top=1.0,
        bag_side=rng.choice([-1, 1]),
    )
    return Walker(
        person=person,
        look=sample_look(rng),
        view=view,
        height=round(share * height),
        soles=height * (0.62 + 0.55 * (share - 0.3)) + 0.18 * height,
        start_s=rng.uniform(0.1, 0.9) * seconds,
        speed=direction * speed,
        middle=width / 2,
    )


@lru_cache(SPRITES)
def _sprite(walker: Walker, phase: int) -> Sprite:
    """Draw a pose over black and over white: where the two differ, the background shows through."""
    stride = walker.view.stride * math.sin(2 * math.pi * phase / PHASES)
    view = CameraView(**{**vars(walker.view), "stride": stride})
    side = 2 * round(walker.height * (1 + 2 * ROOM) / 2)
    over = {shade: _drawn(walker, view, side, shade) for shade in (0, 255)}
    difference = np.abs(over[255].astype(np.int16) - over[0]).min(axis=2)
    alpha = (255 - difference).clip(0, 255).astype(np.uint8)
    picture = np.where(alpha[..., None] > 0, over[0] * (255 / np.maximum(alpha, 1))[..., None], 0).clip(0, 255)
    body = alpha.copy()
    ground = round(side * (walker.view.top + GROUND * walker.view.height))
    columns = (body[:ground] > 127).any(axis=0)
    body[ground:, ~columns] = 0  # shadow beside the feet
    body[round(side * (walker.view.top + walker.view.height)) :] = 0  # shadow in front of them
    pixels = int((body > 127).sum())
    return Sprite(Image.fromarray(picture.astype(np.uint8)), Image.fromarray(alpha), Image.fromarray(body), pixels)


def _drawn(walker: Walker, view: CameraView, side: int, shade: int) -> np.ndarray:
    image = Image.new("RGB", (side * ENLARGED, side * ENLARGED), (shade,) * 3)
    draw_person(image, walker.person, walker.look, view)
    return np.asarray(image.convert("RGB").reduce(ENLARGED))
