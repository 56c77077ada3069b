"""Footage: a drawn scene that several people walk through, as a video, and the truth about it beside it.

    python -m dataset.synthpedes.footage cam1.mp4 --seconds 12 --people 5 --start 2026-11-20T08:00:00

writes cam1.mp4 (H.264) and cam1.json: `people` with their attributes and a caption, and `boxes` with the frame, the
time, the person's number, the box in pixels (of the body, without its shadow, cut off at the frame) and the share of
the person that is in view. The same arguments give the same pictures. It needs PyAV (requirements-video.txt).
"""

import argparse
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dataset.synthpedes.captions import write_caption
from dataset.synthpedes.people import sample_people
from dataset.synthpedes.scenes import draw_scene
from dataset.synthpedes.views import SCENES
from dataset.synthpedes.walkers import Walker, sample_walker
from utils.errors import UserError
from utils.extras import optional
from utils.files import replacing, save_json
from utils.log import one_line_errors, progress, set_up_logging

logger = logging.getLogger(__name__)

COARSE = 3  # the background is drawn smaller by this factor: its details are made for pictures of one person
NOISE = 2.0  # standard deviation of a pixel, of 255
LEAST_IN_VIEW = 0.02  # of a person; boxes of less are left out


class Box(NamedTuple):
    """A person in a frame."""

    person: int
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels
    in_view: float  # share of the person's pixels that lie in the frame and behind nobody


class Footage(NamedTuple):
    """What a video shows."""

    size: tuple[int, int]  # width, height in pixels
    fps: int
    frames: int
    scene: Image.Image
    walkers: list[Walker]
    seed: int


def compose(*, size: tuple[int, int], fps: int, seconds: float, people: int, scene: str, seed: int) -> Footage:
    """Draw the scene and the people who will walk through it.

    Raises: UserError for arguments that cannot be satisfied.
    """
    width, height = size
    if width % 2 or height % 2 or min(size) < 96:
        raise UserError(f"the size must be even and at least 96 px, not {width}x{height}")
    if seconds * fps < 1 or people < 0:
        raise UserError(f"a video needs a frame at least, got {seconds} s at {fps} frames/s and {people} people")
    rng = Random(f"footage/{seed}")
    background = draw_scene(scene, (width // COARSE, height // COARSE), rng, bystanders=False)
    drawn = [person for person, _ in sample_people(people, 0.0, set(), rng)]
    walkers = [sample_walker(person, size, seconds, rng) for person in drawn]
    return Footage(size, fps, int(seconds * fps), background.resize(size, Image.Resampling.BICUBIC), walkers, seed)


def draw_frame(footage: Footage, number: int) -> tuple[np.ndarray, list[Box]]:
    """Draw a frame: pixels (height, width, 3) uint8, and who is in it."""
    image = footage.scene.copy()
    shown = []
    hidden = Image.new("L", footage.size)  # what lies behind somebody nearer, from the nearest to the farthest
    time_s = number / footage.fps
    placed = [(index, each.at(time_s)) for index, each in enumerate(footage.walkers) if each.in_view(time_s)]
    placed.sort(key=lambda each: footage.walkers[each[0]].soles)
    for _, (sprite, corner) in placed:
        image.paste(sprite.picture, corner, sprite.alpha)
    for index, (sprite, corner) in reversed(placed):
        mask = Image.new("L", footage.size)
        mask.paste(sprite.body, corner)
        pixels = np.asarray(mask) > 127
        box = mask.point(lambda value: 255 * (value > 127)).getbbox()
        in_view = float((pixels & (np.asarray(hidden) == 0)).sum()) / max(sprite.pixels, 1)
        hidden.paste(255, corner, sprite.body)
        if box is not None and in_view >= LEAST_IN_VIEW:
            shown.append(Box(index, box, round(in_view, 3)))
    noise = np.random.default_rng((footage.seed, number)).standard_normal((*footage.size[::-1], 3), dtype=np.float32)
    pixels = np.asarray(image, np.float32) + NOISE * noise
    return pixels.clip(0, 255).astype(np.uint8), sorted(shown)


def write_footage(path: Path, footage: Footage, start: datetime | None = None) -> None:
    """Write the video, and the truth to a JSON file of the same name.

    start: the time of the first frame, written to the video's metadata as if the camera were in UTC.
    Raises: UserError without PyAV.
    """
    av = optional("av", "writing a video")
    boxes: list[dict[str, Any]] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, av.open(str(temporary), "w", format=_container(path)) as container:
        if start is not None:
            container.metadata["creation_time"] = f"{start.isoformat()}Z"
        stream = container.add_stream("libx264", rate=footage.fps, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height = footage.size
        stream.pix_fmt = "yuv420p"
        for number in progress(footage.frames, f"drawing {path.name}", unit="frames"):
            pixels, shown = draw_frame(footage, number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            time_s = round(number / footage.fps, 6)
            boxes += [{"frame": number, "time_s": time_s, **box._asdict()} for box in shown]
        container.mux(stream.encode())
    save_json(path.with_suffix(".json"), _truth(path, footage, start, boxes))


def _container(path: Path) -> str:
    kinds = {".mp4": "mp4", ".mkv": "matroska", ".avi": "avi", ".mov": "mov"}
    if path.suffix.lower() not in kinds:
        raise UserError(f"{path}: a video ends with {', '.join(kinds)}")
    return kinds[path.suffix.lower()]


def _truth(path: Path, footage: Footage, start: datetime | None, boxes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "video": path.name,
        "size": footage.size,
        "fps": footage.fps,
        "frames": footage.frames,
        "start": start.isoformat() if start else None,
        "people": list(_people(footage)),
        "boxes": boxes,
    }


def _people(footage: Footage) -> Iterator[dict[str, Any]]:
    for index, walker in enumerate(footage.walkers):
        caption = write_caption(walker.person, walker.view, Random(f"footage/{footage.seed}/{index}"))
        yield {"person": index, "caption": caption, "attributes": vars(walker.person)}


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT, e.g. 640x360, got {text!r}") from None


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time such as 2026-11-20T08:00:00, got {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dataset.synthpedes.footage", description="Draw a video of people who walk through a scene."
    )
    parser.add_argument("out", type=Path, metavar="OUT.mp4", help="the video; mkv, avi and mov as well")
    parser.add_argument("--seconds", type=float, default=12, metavar="S", help="default: %(default)s")
    parser.add_argument("--people", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--fps", type=int, default=10, metavar="N", help="frames per second, default: %(default)s")
    parser.add_argument("--size", type=_size, default=(640, 360), metavar="WxH", help="in pixels, default: 640x360")
    parser.add_argument("--scene", choices=SCENES, default="street", help="default: %(default)s")
    parser.add_argument("--start", type=_time, metavar="TIME", help="of the first frame, e.g. 2026-11-20T08:00:00")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    return parser


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    set_up_logging()
    footage = compose(
        size=options.size,
        fps=options.fps,
        seconds=options.seconds,
        people=options.people,
        scene=options.scene,
        seed=options.seed,
    )
    write_footage(options.out, footage, options.start)
    logger.info("%s: %d frames, %d people", options.out, footage.frames, len(footage.walkers))


if __name__ == "__main__":
    raise SystemExit(main())
