"""The run that turns pictures and videos into crops: frame by frame, so that memory does not grow with their length."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import tee
from typing import NamedTuple

import numpy as np
import simplejpeg

from gallery.footage.decode import Frame, Unreadable, Video, read_picture
from gallery.footage.detectors import Detector, People, detector_named
from gallery.footage.ledger import Entry, Ledger, image_path
from gallery.footage.origin import Origin
from gallery.footage.regions import regions_of, stands_in
from gallery.footage.request import CropRequest
from gallery.footage.sources import BadSource, Source, find_sources
from gallery.footage.table import Crop
from gallery.footage.tracking import LONGEST_STEP_S, tracks
from utils.extras import optional
from utils.log import progress

JPEG_QUALITY = 92


class CropReport(NamedTuple):
    """What a run did."""

    crops: int  # in the folder now
    new_crops: int
    pictures: int  # that were cropped in this run
    videos: int
    unchanged: int  # sources
    bad: list[BadSource]
    other_kinds: Counter[str]  # by suffix: files in the folders that are neither pictures nor videos
    seconds: float


def crop(request: CropRequest, detector: Detector | None = None) -> CropReport:
    """Crop what is new or has changed; what is done stays as it is, also if its source is gone.

    detector: instead of the one that the request names.
    Raises: UserError as find_sources, detector_named and Ledger do.
    """
    begin = time.perf_counter()
    found = find_sources(request.sources, outside=request.out)
    with Ledger(request.out) as ledger:
        entries = {source: ledger.entry(source, request.settings(source)) for source in found.sources}
        todo = [source for source, entry in entries.items() if entry is None or not entry.done]
        _check_packages(todo)
        if todo and detector is None:
            detector = detector_named(request.detector, request.weights)
        try:
            done = _crop_all(todo, _Cropper(request, ledger, detector)) if detector else _Done()
        finally:
            total = ledger.write_table()  # also after Ctrl-C
    return CropReport(
        crops=total,
        new_crops=done.crops,
        pictures=done.pictures,
        videos=done.videos,
        unchanged=len(entries) - len(todo),
        bad=[*found.bad, *done.bad],
        other_kinds=found.other_kinds,
        seconds=time.perf_counter() - begin,
    )


def cut(frame: np.ndarray, box: Sequence[float], padding: float) -> bytes:
    """The JPEG file of a box (x0, y0, x1, y1) with some padding, cut off at the frame."""
    x0, y0, x1, y1 = box
    across, down = padding * (x1 - x0), padding * (y1 - y0)
    height, width = frame.shape[:2]
    left, right = max(0, round(x0 - across)), min(width, round(x1 + across))
    top, bottom = max(0, round(y0 - down)), min(height, round(y1 + down))
    return simplejpeg.encode_jpeg(np.ascontiguousarray(frame[top:bottom, left:right]), quality=JPEG_QUALITY)


def who_counts(found: People, source: Source, request: CropRequest) -> People:
    tall = found.boxes[:, 3] - found.boxes[:, 1] >= request.min_height
    inside = stands_in(found.boxes, regions_of(source.path, request.regions))
    return found.where((found.scores >= request.score) & tall & inside)


def save_crops(source: Source, frame: Frame, clock: datetime | None, found: People, request: CropRequest) -> list[Crop]:
    """Write the crops of the people in a frame. clock: when the video began, or the picture was taken."""
    at = clock + timedelta(seconds=frame.time_s or 0) if clock else None
    height, width = frame.pixels.shape[:2]
    crops = []
    for number, (box, score) in enumerate(zip(found.boxes.tolist(), found.scores.tolist(), strict=True)):
        image = image_path(source, frame.number, number)
        path = request.out / image
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cut(frame.pixels, box, request.padding))
        origin = Origin(source.name, frame.number, frame.time_s, at, tuple(box), (width, height), score, None)
        crops.append(Crop(image, origin))
    return crops


def with_tracks(ledger: Ledger, entry: Entry, every_s: float) -> Iterator[tuple[str, int]]:
    """The crops of a video and their tracks, a frame in memory at a time. None if the frames are too far apart."""
    if every_s > LONGEST_STEP_S:
        return
    frames, tracked = tee(ledger.seen(entry))
    for frame, numbers in zip(frames, tracks((each.sighting for each in tracked), every_s), strict=True):
        yield from zip(frame.images, numbers, strict=True)


def _check_packages(todo: Sequence[Source]) -> None:
    """Raises: UserError before anything is done rather than after a long video."""
    optional("pyarrow.parquet", "the table of the crops")
    if any(source.is_video for source in todo):
        optional("av", "reading a video")
        optional("trackers", "tracking")


@dataclass
class _Done:
    """What a run has done so far."""

    crops: int = 0
    pictures: int = 0
    videos: int = 0
    bad: list[BadSource] = field(default_factory=list)


class _Cropper(NamedTuple):
    """What cropping a source needs besides the source."""

    request: CropRequest
    ledger: Ledger
    detector: Detector

    def entry(self, source: Source) -> Entry:
        settings = self.request.settings(source)
        return self.ledger.entry(source, settings) or self.ledger.begin(source, settings)

    def people(self, source: Source, frame: Frame, clock: datetime | None) -> list[Crop]:
        """Find the people of a frame who count, and write their crops."""
        return save_crops(
            source, frame, clock, who_counts(self.detector(frame.pixels), source, self.request), self.request
        )


def _crop_all(sources: Sequence[Source], cropper: _Cropper) -> _Done:
    done = _Done()
    pictures = [source for source in sources if not source.is_video]
    for source in progress(pictures, "cropping", unit="pictures"):
        with _noting(source, done):
            _crop_picture(source, cropper, done)
    videos = [source for source in sources if source.is_video]
    lengths = {}
    for source in videos:
        with _noting(source, done), Video(source.path) as video:
            lengths[source] = video.duration_s
    with progress(round(sum(lengths.values())), "cropping", unit="s of video") as bar:
        clock = _Clock(bar)
        for source, length in lengths.items():
            with _noting(source, done):
                _crop_video(source, cropper, done, clock)
            clock.finish(length)
    return done


def _crop_picture(source: Source, cropper: _Cropper, done: _Done) -> None:
    frame, clock = read_picture(source.path)
    entry = cropper.entry(source)
    crops = cropper.people(source, frame, clock)
    cropper.ledger.add(entry, crops, 1)
    cropper.ledger.finish(entry)
    done.crops += len(crops)
    done.pictures += 1


def _crop_video(source: Source, cropper: _Cropper, done: _Done, clock: "_Clock") -> None:
    every_s = cropper.request.every_s
    with Video(source.path) as video:
        entry = cropper.entry(source)
        for frame in video.frames(every_s, entry.next_frame):
            crops = cropper.people(source, frame, video.clock)
            cropper.ledger.add(entry, crops, frame.number + 1)
            done.crops += len(crops)
            clock.reach(frame.time_s or 0)
        cropper.ledger.finish(entry, with_tracks(cropper.ledger, entry, every_s))
        if damage := video.damage():
            done.bad.append(BadSource(source.path, damage))
    done.videos += 1


@contextmanager
def _noting(source: Source, done: _Done) -> Iterator[None]:
    """Note a source that cannot be read, and go on with the next."""
    try:
        yield
    except Unreadable as error:
        done.bad.append(BadSource(source.path, str(error)))


class _Clock:
    """Turns times in videos into whole seconds of a progress bar."""

    def __init__(self, bar: progress[int]) -> None:
        self._bar, self._before, self._shown = bar, 0.0, 0

    def reach(self, time_s: float) -> None:
        """Time in the current video."""
        seconds = int(self._before + time_s) - self._shown
        if seconds > 0:
            self._bar.advance(seconds)
            self._shown += seconds

    def finish(self, length_s: float) -> None:
        """The current video is done, or cannot be read."""
        self.reach(length_s)
        self._before += length_s
