"""Frames of videos (PyAV) and pictures (Pillow), upright, as RGB pixels (height, width, 3) uint8."""

import math
import warnings
from collections.abc import Iterator
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gallery.footage.clock import clock_of_name, clock_of_picture, clock_of_video
from utils.errors import UserError
from utils.extras import optional
from utils.file_kinds import Start, what_came_instead

HEIF = frozenset({".heic", ".heif"})
CLOSE_S = 2.0  # lengths in metadata are that exact
SAME_TIME_S = 1e-6  # times are rounded to the file's unit
GUESSED_TIMES = frozenset({"avi", "mpeg"})  # containers that time not every frame: a jump changes the times guessed
JUMPS_S = (0.0, 10.0)  # before the wanted time: in .ts files a jump may end between two key frames
HEIF_DECODER = "pip install pillow-heif"


class Unreadable(Exception):
    """A file, or a picture of it, that cannot be decoded. The message says why, without the path."""


class Frame(NamedTuple):
    number: int  # in the video, from 0
    time_s: float | None  # from the first frame of the video; None = a picture
    pixels: np.ndarray


class Video:
    """Decodes a video, a frame in memory at a time; use it in a `with` statement.

    Attributes:
        duration_s: its length, as far as the file tells; 0 = unknown.
        clock: when it began, or None.
        broken: frames or packets so far that could not be decoded.
        reached_s: the time of the last frame so far.
    Raises: Unreadable.
    """

    def __init__(self, path: Path) -> None:
        self._av = optional("av", "reading a video")
        self._path = path
        self.broken, self.reached_s = 0, 0.0
        self._open()
        self.duration_s = _duration(self._container, self._stream)
        self.clock = clock_of_name(path.name) or clock_of_video(self._container.metadata)

    def _open(self) -> None:
        """Decode from the beginning. Raises: Unreadable."""
        try:
            self._container = self._av.open(str(self._path), metadata_errors="replace")
        except (self._av.FFmpegError, OSError) as error:
            raise Unreadable(_why(self._path, error)) from error
        if not self._container.streams.video:
            self._container.close()
            raise Unreadable("it holds no video")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self, every_s: float, first: int = 0) -> Iterator[Frame]:
        """The first frame of each span of every_s seconds, from the frame with number `first` on.

        Which frames these are does not depend on `first`. Raises: Unreadable if there is no frame that can be decoded.
        """
        start, span, number = None, -1, -1
        for number, frame in enumerate(self._decoded()):
            seconds = _seconds(frame, self._stream, number)
            start = seconds if start is None else start
            time_s = self.reached_s = seconds - start
            if (now := math.floor(time_s / every_s + 1e-6)) > span:  # times are rounded to the file's unit
                span = now
                if number >= first:
                    yield Frame(number, time_s, self._pixels(frame))
        if number < 0:
            raise Unreadable("no frame of it can be decoded")

    def damage(self) -> str | None:
        """What of the video was lost, once all frames were asked for; None = nothing."""
        told = f"{self.broken} broken frames or packets" if self.broken else ""
        if self.reached_s + CLOSE_S < self.duration_s:
            told += f"{' and ' * bool(told)}it ends after {self.reached_s:.1f} of {self.duration_s:.1f} s"
        return f"{told}; the rest was cropped" if told else None

    def pixels_at(self, time_s: float) -> np.ndarray:
        """The first frame that is not before this time, found from the key frame before it; for one call per video.

        Where the file cannot be entered there, it is decoded from its beginning.
        Raises: Unreadable if there is no such frame.
        """
        first = next(self._decoded(), None)
        if first is not None:
            wanted = _seconds(first, self._stream, 0) + time_s
            jumps = () if self._container.format.name in GUESSED_TIMES else JUMPS_S
            found = (self._after_jump(wanted, earlier_s) for earlier_s in jumps)
            frame = next(filter(None, found), None) or self._from_beginning(wanted)
            if frame is not None:
                return self._pixels(frame)
        raise Unreadable(f"no frame can be decoded at {time_s:.1f} s")

    def _after_jump(self, seconds: float, earlier_s: float) -> Any | None:
        """The first frame not before a time in the file, decoding from the key frame before `earlier_s` before it.

        None if the first frame after the jump is later, or cannot be decoded by itself.
        """
        try:
            self._container.seek(math.floor((seconds - earlier_s) / self._stream.time_base), stream=self._stream)
        except (self._av.FFmpegError, OSError):
            return None
        frames = self._decoded()
        first = next(frames, None)
        if first is None or first.time is None or not first.key_frame or first.time > seconds + SAME_TIME_S:
            return None
        timed = (frame for frame in chain([first], frames) if frame.time is not None)
        return next((frame for frame in timed if frame.time >= seconds - SAME_TIME_S), None)

    def _from_beginning(self, seconds: float) -> Any | None:
        """The first frame not before a time in the file, decoding all frames before it."""
        self._container.close()
        self._open()
        for number, frame in enumerate(self._decoded()):
            if _seconds(frame, self._stream, number) >= seconds - SAME_TIME_S:
                return frame
        return None

    def _decoded(self) -> Iterator[Any]:
        for packet in self._packets():
            try:
                frames = packet.decode()
            except self._av.FFmpegError:
                self.broken += 1
                continue
            for frame in frames:
                self.broken += bool(frame.is_corrupt)
                yield frame  # a damaged frame as well: the numbers of the others stay what they are

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                yield next(packets)
            except StopIteration:
                return
            except self._av.FFmpegError:  # the rest of the file is missing
                self.broken += 1
                return

    def _pixels(self, frame: Any) -> np.ndarray:
        pixels = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(
            np.rot90(pixels, round((frame.rotation or 0) / 90))
        )  # counter-clockwise, as PyAV has it


def read_picture(path: Path) -> tuple[Frame, datetime | None]:
    """The first picture of a file, and when it was taken. Raises: Unreadable."""
    if path.suffix.lower() in HEIF:
        try:
            optional("pillow_heif", "pictures of this kind", HEIF_DECODER).register_heif_opener()
        except UserError as error:
            raise Unreadable(str(error)) from error
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            clock = clock_of_picture(image) or clock_of_name(path.name)
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # damaged files make the decoders raise many types
        raise Unreadable(_why(path, error)) from error
    return Frame(0, None, pixels), clock


def _seconds(frame: Any, stream: Any, number: int) -> float:
    """Time of a frame in the file; from its number where the file has no times (raw streams)."""
    return float(frame.time) if frame.time is not None else number / float(stream.average_rate or 25)


def _duration(container: Any, stream: Any) -> float:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration else 0.0


def _why(path: Path, error: Exception) -> str:
    try:
        instead = what_came_instead(Start.of(path))
    except OSError as unread:
        return unread.strerror or str(unread)
    if instead or isinstance(error, UnidentifiedImageError):
        return instead or "it is not a picture of a kind that can be read"
    told = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{told} (damaged, or still being written?)"
