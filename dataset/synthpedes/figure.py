"""One picture of one person: scene, figure, occluder, camera."""

from random import Random
from typing import NamedTuple

from PIL import Image

from dataset.synthpedes.body import Look, build_body
from dataset.synthpedes.camera import develop
from dataset.synthpedes.canvas import Canvas
from dataset.synthpedes.clothes import arm_parts, leg_parts, trunk_parts
from dataset.synthpedes.head import head_parts
from dataset.synthpedes.parts import SCENE, Part, visible_parts
from dataset.synthpedes.people import Person
from dataset.synthpedes.scenes import draw_occluder, draw_scene
from dataset.synthpedes.things import thing_parts
from dataset.synthpedes.views import CameraView

ENLARGED = 2  # the figure is drawn larger by this factor and scaled down, to avoid jagged edges
_UMBRELLA_ROOM = 0.14  # above the crown, in body heights


class Picture(NamedTuple):
    """A picture of a person."""

    jpeg: bytes
    parts: dict[str, Part]  # what of the person can be seen, by the names of `parts.PARTS`


def draw_picture(person: Person, look: Look, view: CameraView, size_px: tuple[int, int], rng: Random) -> Picture:
    """Draw a view of a person, as a JPEG file of size_px (height, width)."""
    height, width = size_px
    scene = draw_scene(view.scene, (width, height), rng)
    image = scene.resize((width * ENLARGED, height * ENLARGED), Image.Resampling.NEAREST)
    image.putalpha(SCENE)
    draw_person(image, person, look, view)
    draw_occluder(image, view, rng)
    parts = visible_parts(image, ENLARGED)
    return Picture(develop(image.convert("RGB").reduce(ENLARGED), rng), parts)


def draw_person(image: Image.Image, person: Person, look: Look, view: CameraView) -> None:
    """Draw a person at the position and in the pose of the view. image: as of Canvas."""
    room = _UMBRELLA_ROOM if person.carried == "umbrella" else 0.0
    scale = view.height * image.height / (1 + room)
    crown = (view.centre * image.width, view.top * image.height + room * scale)
    canvas = Canvas(image, scale, crown, view.yaw)
    body = build_body(person, look, view)
    shadow = (crown[0], crown[1] + 0.985 * scale)
    canvas.ellipse(shadow, 0.2 * scale, 0.025 * scale, (72, 72, 76), outlined=False)
    parts = leg_parts(canvas, person, look, body) + trunk_parts(canvas, person, look, body)
    parts += arm_parts(canvas, person, look, body) + head_parts(canvas, person, look, body)
    parts += thing_parts(canvas, person, look, body, view)
    with canvas.part("person"):
        for part in sorted(parts, key=lambda part: part.depth):
            part.paint()
