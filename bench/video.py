"""From video to crops and vectors: seconds of video per second by stage, what is found, and memory by length.

    python -m bench.video [--seconds 60] [--size 640x360] [--fps 25] [--detector ssdlite] [--config configs/demo.yaml]

The video is drawn (dataset/synthpedes/footage.py), so who is in it is known. Stages, each alone over the whole video:

- decode: all frames; a frame every --every seconds goes on;
- detect: the people of such a frame;
- write: their crops as JPEG files, and their rows in the ledger;
- track: all detections of the video, and the table;
- encode: the crops, read and resized, by the image encoder of --config with random weights (fp32, batches of 16).

Then a person counts as found if a box overlaps theirs by more than half; people of whom less than half is in view are
left out. A track is pure as far as its crops are of the person whom most of them are of. The last table is the peak of
the memory of a process that crops a video of that length: a drawn minute, again and again.
"""

import argparse
import json
import resource
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sized
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import torch
from PIL import Image
from torchvision.ops import box_iou

from bench.rows import Rows
from dataset.synthpedes.footage import compose, write_footage
from gallery.encoding.encoder import pixels_of
from gallery.footage.cropping import crop, save_crops, who_counts, with_tracks
from gallery.footage.decode import Frame, Video
from gallery.footage.detectors import DEFAULT, People, detector_named
from gallery.footage.ledger import Ledger
from gallery.footage.origin import Origin
from gallery.footage.request import CropRequest
from gallery.footage.sources import source_at
from gallery.footage.table import read_table
from models.build import build_model
from utils.config import load_config
from utils.extras import optional

SAME = 0.5  # intersection over union of a box and the person that it is of
IN_VIEW = 0.5  # share of a person
BATCH = 16
PEOPLE_PER_S = 0.4  # of drawn footage
LONG_FPS, LONG_EVERY_S = 2, 2.0  # of the videos of the last table, and between looks at them


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = drawn(folder / "film.mp4", args.seconds, args.fps, args.size)
        measure_stages(film, folder, args)
        tell_what_was_found(film, folder, args)
        measure_memory(folder, args)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--seconds", type=int, default=60, metavar="S", help="of the video (default: %(default)s)")
    add("--size", default="640x360", metavar="WxH", help="default: %(default)s")
    add("--fps", type=int, default=25, metavar="N", help="default: %(default)s")
    add("--every", type=float, default=0.5, metavar="S", help="between looks at it (default: %(default)s)")
    add("--detector", default=DEFAULT, metavar="NAME", help="as of search.py crop")
    add("--scores", type=float, nargs="+", default=[0.2, 0.3, 0.5], metavar="S", help="least scores to count with")
    add("--config", type=Path, default=Path("configs/demo.yaml"), help="of the image encoder (default: %(default)s)")
    add("--threads", type=int, default=2, metavar="N", help="default: %(default)s")
    add("--minutes", type=int, nargs="*", default=[1, 30], metavar="M", help="lengths for memory (default: 1 30)")
    return parser.parse_args()


def drawn(path: Path, seconds: int, fps: int, size: str) -> Path:
    width, height = map(int, size.split("x"))
    people = max(1, round(PEOPLE_PER_S * seconds))
    write_footage(path, compose(size=(width, height), fps=fps, seconds=seconds, people=people, scene="street", seed=0))
    return path


class Stages:
    """A row for each stage as soon as it is measured."""

    def __init__(self, args: argparse.Namespace) -> None:
        title = f"{args.seconds} s of video, {args.size} at {args.fps} frames/s, {args.threads} threads"
        self._rows = Rows({"stage": 8, "call": 15}, ("calls", "ms a call", "s of video/s"), title=title)
        self._video_s = args.seconds
        self._taken: dict[str, float] = {}

    def add(self, name: str, call: str, run: Callable[[], Sized | int]) -> None:
        """Time a stage. run: returns how many calls it made, or what it got by them."""
        begin = time.perf_counter()
        got = run()
        self._taken[name] = seconds = time.perf_counter() - begin
        calls = got if isinstance(got, int) else len(got)
        each_ms, rate = 1e3 * seconds / max(calls, 1), self._video_s / seconds
        self._rows.add(name, call, f"{calls:,}", f"{each_ms:.2f}", f"{rate:.1f}")

    def add_all(self) -> None:
        total = sum(self._taken.values())
        self._rows.add("all", "", "", "", f"{self._video_s / total:.1f}")
        print("\nof the time:", ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in self._taken.items()))


def measure_stages(film: Path, folder: Path, args: argparse.Namespace) -> None:
    request = CropRequest(sources=[str(film)], out=folder / "crops", every_s=args.every, detector=args.detector)
    detector, source, stages = detector_named(request.detector), source_at(film), Stages(args)
    frames: list[Frame] = []
    found: list[People] = []

    def decode() -> int:
        with Video(film) as video:
            frames.extend(video.frames(args.every))
        return args.seconds * args.fps

    def detect() -> list[People]:
        found.extend(who_counts(detector(frame.pixels), source, request) for frame in frames)
        return found

    stages.add("decode", "frame", decode)
    detector(frames[0].pixels)  # warms up
    optional("trackers", "tracking")  # takes a second to load
    stages.add("detect", "frame looked at", detect)
    with Ledger(request.out) as ledger:
        entry = ledger.begin(source, request.settings(source))

        def write() -> int:
            for frame, people in zip(frames, found, strict=True):
                ledger.add(entry, save_crops(source, frame, None, people, request), frame.number + 1)
            return sum(len(people.boxes) for people in found)

        def track() -> int:
            ledger.finish(entry, with_tracks(ledger, entry, args.every))
            return ledger.write_table()

        stages.add("write", "crop", write)
        stages.add("track", "crop", track)
    config = load_config(args.config)
    model = build_model(config).eval()

    @torch.inference_mode()
    def encode() -> list[Path]:
        paths = [request.out / image for image in read_table(request.out)]
        for start in range(0, len(paths), BATCH):
            crops = [pixels_of(Image.open(path), config.dataset.image_size) for path in paths[start : start + BATCH]]
            model.encode_image(model.normalize(torch.stack(crops)))
        return paths

    stages.add("encode", "crop", encode)
    stages.add_all()


class Sighted(NamedTuple):
    """A crop, and whom it shows."""

    frame: int
    track: int
    score: float
    person: int | None  # of the truth; None = nobody


def tell_what_was_found(film: Path, folder: Path, args: argparse.Namespace) -> None:
    """For each least score, a run over the video, compared with the truth."""
    values = ("people", "recall", "crops", "of nobody", "purity", "tracks/person")
    rows = Rows({"score": 8}, values, title=f"found by {args.detector}")
    truth = json.loads(film.with_suffix(".json").read_text())
    for least in args.scores:
        out = folder / f"crops-{least}"
        request = CropRequest(sources=[str(film)], out=out, every_s=args.every, detector=args.detector, score=least)
        crop(request)
        found = sighted(read_table(out), truth["boxes"])
        with Video(film) as video:
            looked_at = {frame.number for frame in video.frames(args.every)}
        rows.add(f"{least}", *quality(found, truth["boxes"], looked_at))


def sighted(origins: Mapping[str, Origin], boxes: list[dict[str, Any]]) -> list[Sighted]:
    """Whom each crop shows: the person whose box overlaps its box most, if that is more than SAME."""
    people = defaultdict(list)
    for box in boxes:
        people[box["frame"]].append(box)
    found = []
    for origin in origins.values():
        person = None
        if there := people[origin.frame]:
            overlaps = box_iou(torch.tensor([origin.box]), torch.tensor([box["box"] for box in there]).float())[0]
            person = there[int(overlaps.argmax())]["person"] if overlaps.max() > SAME else None
        found.append(Sighted(origin.frame, origin.track or 0, origin.score or 0.0, person))
    return found


def quality(found: list[Sighted], boxes: list[dict[str, Any]], looked_at: set[int]) -> list[str]:
    """Cells: people to be found, recall, crops, crops of nobody, purity of tracks, tracks per person."""
    wanted = {(box["frame"], box["person"]) for box in boxes if box["frame"] in looked_at and box["in_view"] > IN_VIEW}
    known = [each for each in found if each.person is not None]
    tracks: dict[int, Counter[int | None]] = defaultdict(Counter)
    of_person: dict[int | None, set[int]] = defaultdict(set)
    for each in known:
        tracks[each.track][each.person] += 1
        of_person[each.person].add(each.track)
    recall = len(wanted & {(each.frame, each.person) for each in known}) / max(len(wanted), 1)
    purity = sum(max(people.values()) for people in tracks.values()) / max(len(known), 1)
    per_person = sum(map(len, of_person.values())) / max(len(of_person), 1)
    counts = f"{len(wanted)}", f"{recall:.1%}", f"{len(found)}", f"{len(found) - len(known)}"
    return [*counts, f"{purity:.1%}", f"{per_person:.2f}"]


def measure_memory(folder: Path, args: argparse.Namespace) -> None:
    """A process of its own for each length."""
    rows = Rows({"minutes": 8}, ("crops", "peak MiB"), title=f"memory, {args.size} at {LONG_FPS} frames/s")
    minute = drawn(folder / "minute.mp4", 60, LONG_FPS, args.size)
    for minutes in args.minutes:
        film, out = repeated(minute, folder / f"{minutes}.mp4", minutes, args.size), folder / f"crops-{minutes}"
        request = CropRequest(sources=[str(film)], out=out, every_s=LONG_EVERY_S, detector=args.detector)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            crops, peak = pool.submit(crop_alone, request).result()
        rows.add(f"{minutes}", f"{crops:,}", f"{peak:.0f}")


def repeated(minute: Path, path: Path, times: int, size: str) -> Path:
    """A film of so many minutes that are all the same."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=LONG_FPS, options={"preset": "ultrafast"})
        stream.width, stream.height = map(int, size.split("x"))
        stream.pix_fmt = "yuv420p"
        for _ in range(times):
            with Video(minute) as video:
                for frame in video.frames(1 / LONG_FPS):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def crop_alone(request: CropRequest) -> tuple[int, float]:
    """How many crops, and the peak of this process's memory in MiB."""
    return crop(request).crops, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
