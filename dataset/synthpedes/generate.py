"""SynthPedes: a benchmark of drawn pedestrians on disk, as CUHK-PEDES, ICFG-PEDES, RSTPReid or a table.

    python -m dataset.synthpedes data/synth --format CUHK-PEDES --people-train 400 --people-val 50 --people-test 60

writes the annotation file, imgs/, parts.json with the boxes of what each picture shows (shown.py), and synthetic.json
with the arguments and the attributes of all people. Prepare it with bash shell/data_process.sh CUHK-PEDES data/synth.
The same arguments give the same bytes for any number of workers.
"""

import argparse
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from dataset.benchmarks import BENCHMARKS, SPLITS, Benchmark
from dataset.benchmarks import benchmark as benchmark_named
from dataset.synthpedes.body import sample_look
from dataset.synthpedes.captions import describe
from dataset.synthpedes.figure import draw_picture
from dataset.synthpedes.files import clear, digest, finish, holds, image_path, people_of, record
from dataset.synthpedes.people import Person, sample_people
from dataset.synthpedes.shown import FILE, Shown, write_shown
from dataset.synthpedes.views import sample_view, visible_attributes
from utils.errors import UserError
from utils.log import one_line_errors, progress, set_up_logging

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the same arguments give other files than before
PEOPLE_PER_TASK = 8


class Drawing(NamedTuple):
    """What a drawing process needs besides the people."""

    images: Path | None  # the imgs/ folder; None = the pictures are there already
    benchmark: Benchmark
    images_per_person: int
    captions_per_image: int
    seed: int
    size_px: tuple[int, int]  # height, largest width


class View(NamedTuple):
    """A picture of the benchmark."""

    path: str  # under imgs/
    record: dict[str, Any]  # its entry of the annotation file
    shown: Shown


class Member(NamedTuple):
    """A person of the benchmark."""

    person_id: int
    split: str
    person: Person
    resembles: int | None  # id of the person whom this one was drawn to resemble


def generate(
    out: Path,
    *,
    benchmark: str,
    people: dict[str, int],
    images_per_person: int,
    captions_per_image: int,
    seed: int,
    size_px: tuple[int, int],
    workers: int,
    lookalikes: float = 0.3,
    apart_from: Sequence[Path] = (),
) -> None:
    """Write a benchmark to a folder, or leave the folder as it is if it already holds the same one.

    Args:
        out: folder; made if needed.
        benchmark: the format to write: CUHK-PEDES, ICFG-PEDES, RSTPReid or custom (a table).
        people: how many people by split (train, val, test); ICFG-PEDES has no val.
        images_per_person, captions_per_image: at least 1.
        seed: determines everything that is drawn.
        size_px: (height, largest width) of the images; the width varies from 3/4 of the largest to the largest.
        workers: drawing processes; 1 draws in this process.
        lookalikes: share in [0, 0.9] of people who differ from another of their split in one or two attributes only.
        apart_from: folders of SynthPedes. None of their people is drawn again, and the ids go on after the last one.
    Raises: UserError for arguments that cannot be satisfied and for a folder that holds something else.
    """
    chosen = benchmark_named(benchmark)
    _check(chosen, people, images_per_person, captions_per_image, size_px, workers, lookalikes)
    counts = {split: people.get(split, 0) for split in SPLITS}
    arguments = {
        "benchmark": benchmark,
        "people": counts,
        "images_per_person": images_per_person,
        "captions_per_image": captions_per_image,
        "seed": seed,
        "size_px": list(size_px),
        "lookalikes": lookalikes,
    }
    others = {number: person for folder in apart_from for number, person in people_of(folder, unlike_seed=seed).items()}
    if others:
        arguments["apart_from"] = digest(others)
    made = {"version": VERSION, "arguments": arguments}
    complete = holds(out, chosen, made)
    if complete and (out / FILE).is_file():
        logger.info("%s holds this SynthPedes already: nothing to do", out)
        return
    if not complete:
        clear(out, chosen)
    start = time.monotonic()
    members = draw_members(counts, lookalikes, seed, others)
    images = None if complete else out / "imgs"
    drawing = Drawing(images, chosen, images_per_person, captions_per_image, seed, size_px)
    views = _draw_all(drawing, members, workers)
    write_shown(out, {view.path: view.shown for view in views})
    if complete:
        logger.info("%s holds this SynthPedes already: only %s was added", out, FILE)
        return
    told = [
        {"id": m.person_id, "split": m.split, "resembles": m.resembles, "attributes": vars(m.person)} for m in members
    ]
    finish(out, chosen, [view.record for view in views], made | {"people": told})
    speed = len(views) / (time.monotonic() - start)
    logger.info("%s: %d images of %d people, %.0f images/s", out, len(views), len(members), speed)


def _check(
    benchmark: Benchmark,
    people: dict[str, int],
    images_per_person: int,
    captions_per_image: int,
    size_px: tuple[int, int],
    workers: int,
    lookalikes: float,
) -> None:
    """Raises: UserError for the first argument that cannot be satisfied."""
    if set(people) - set(SPLITS) or min(people.values(), default=0) < 0 or not sum(people.values()):
        raise UserError(f"people must be counts of {', '.join(SPLITS)}, at least 0 and not all 0, got {people}")
    if people.get("val") and benchmark.splits and not benchmark.splits["val"].people:
        raise UserError(f"{benchmark.name} has no validation people: leave val at 0 (training holds some out of train)")
    counts = {"images per person": images_per_person, "captions per image": captions_per_image, "workers": workers}
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} must be at least 1, not {count}")
    height, width = size_px
    if not (32 <= height <= 2048 and height / 4 <= width <= height):
        raise UserError(f"size must be 32 to 2048 px high and a quarter to once as wide, not {height} x {width}")
    if not 0 <= lookalikes <= 0.9:
        raise UserError(f"lookalikes must be in [0, 0.9], not {lookalikes}")


def draw_members(people: dict[str, int], lookalikes: float, seed: int, others: dict[int, Person]) -> list[Member]:
    """Draw all people, with ids counted on from those of the others through train, val and test."""
    members: list[Member] = []
    taken, last = set(others.values()), max(others, default=0)
    for split, count in people.items():
        first = last + len(members) + 1
        for person, resembles in sample_people(count, lookalikes, taken, Random(f"{seed}/{split}")):
            same = None if resembles is None else first + resembles
            members.append(Member(last + len(members) + 1, split, person, same))
    return members


def _draw_all(drawing: Drawing, members: list[Member], workers: int) -> list[View]:
    """Draw the pictures of all people, in the order of the ids."""
    tasks = [members[i : i + PEOPLE_PER_TASK] for i in range(0, len(members), PEOPLE_PER_TASK)]
    views: list[View] = []
    with progress[None](len(members) * drawing.images_per_person, "drawing SynthPedes", unit="images") as bar:
        for part in _results(drawing, tasks, workers):
            views += part
            bar.advance(len(part))
    return views


def _results(drawing: Drawing, tasks: list[list[Member]], workers: int) -> Iterator[list[View]]:
    workers = min(workers, len(tasks))
    if workers == 1:
        yield from map(partial(draw_people, drawing), tasks)
        return
    # Spawned, not forked: a live progress bar runs a thread, which does not survive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(partial(draw_people, drawing), tasks)


def draw_people(drawing: Drawing, members: list[Member]) -> list[View]:
    """Draw some people's pictures, and write them unless they are there already."""
    return [_draw_view(drawing, member, view) for member in members for view in range(drawing.images_per_person)]


def _draw_view(drawing: Drawing, member: Member, number: int) -> View:
    """Draw, write and describe one picture."""
    look = sample_look(Random(f"{drawing.seed}/{member.person_id}"))
    rng = Random(f"{drawing.seed}/{member.person_id}/{number}")
    view = sample_view(member.person, rng)
    captions = [describe(member.person, view, rng) for _ in range(drawing.captions_per_image)]
    height, widest = drawing.size_px
    width = rng.randint(3 * widest // 4, widest)
    image = (member.person_id - 1) * drawing.images_per_person + number
    relative = image_path(drawing.benchmark, member.split, member.person_id, number, image)
    picture = draw_picture(member.person, look, view, (height, width), rng)
    if drawing.images is not None:
        path = drawing.images / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.jpeg)
    shown = Shown(member.person_id, sorted(visible_attributes(member.person, view)), picture.parts, captions)
    texts = [caption.text for caption in captions]
    return View(relative, record(drawing.benchmark, member.split, member.person_id, relative, texts), shown)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        return int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, e.g. 128x64, got {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dataset.synthpedes",
        description="Draw SynthPedes, a benchmark of made-up pedestrians with captions, in the format of a real one.",
        epilog="Prepare it for training like the real one: bash shell/data_process.sh FORMAT OUT",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--format", choices=list(BENCHMARKS), default="CUHK-PEDES", help="default: %(default)s")
    parser.add_argument("--people-train", type=int, default=400, metavar="N", help="default: %(default)s")
    parser.add_argument("--people-val", type=int, metavar="N", help="default: 50; ICFG-PEDES has none")
    parser.add_argument("--people-test", type=int, default=60, metavar="N", help="default: %(default)s")
    parser.add_argument("--images-per-person", type=int, default=4, metavar="N", help="default: %(default)s")
    parser.add_argument("--captions-per-image", type=int, metavar="N", help="default: 2; 1 for ICFG-PEDES")
    text = "height and largest width in pixels, default: 128x64 (widths vary from 48 to 64)"
    parser.add_argument("--size", type=_size, default=(128, 64), metavar="HxW", help=text)
    text = "share of people who differ from another in one or two attributes only, default: %(default)s"
    parser.add_argument("--lookalikes", type=float, default=0.3, metavar="SHARE", help=text)
    text = "folders of SynthPedes none of whose people, ids and seeds may come again, e.g. for pretraining"
    parser.add_argument("--apart-from", type=Path, nargs="+", default=[], metavar="FOLDER", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="default: all cores")
    return parser


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    set_up_logging()
    is_icfg = options.format == "ICFG-PEDES"
    val = options.people_val if options.people_val is not None else 0 if is_icfg else 50
    captions = options.captions_per_image if options.captions_per_image is not None else 1 if is_icfg else 2
    generate(
        options.out,
        benchmark=options.format,
        people={"train": options.people_train, "val": val, "test": options.people_test},
        images_per_person=options.images_per_person,
        captions_per_image=captions,
        seed=options.seed,
        size_px=options.size,
        workers=options.workers,
        lookalikes=options.lookalikes,
        apart_from=options.apart_from,
    )


if __name__ == "__main__":
    raise SystemExit(main())
