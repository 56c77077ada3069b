"""The full frame that an image was cut from, for clients: decoded and encoded again, others blurred if so wished."""

import hashlib
import io
import math
import os
import stat
from functools import lru_cache
from pathlib import Path

from PIL import Image

from gallery.answers import CannotAnswer
from gallery.footage.decode import Unreadable, Video, read_picture
from gallery.footage.origin import Origin
from gallery.footage.sources import VIDEOS
from gallery.service.images import JPEG_QUALITY
from utils.errors import UserError

BLUR_BLOCKS = 32  # along the longer side of a blurred frame: a face is a block or two, even of somebody near the camera


class SourceGone(CannotAnswer):
    """The picture or the video is not there any more, or shows something else. The message names no file."""


class SourceUnreadable(CannotAnswer):
    """The picture or the video is there and cannot be read. The message names no file."""


def source_status(origin: Origin) -> os.stat_result:
    """Look at the file of an origin. Raises: SourceGone if it is no regular file; SourceUnreadable."""
    try:
        status = os.stat(origin.source)
    except (FileNotFoundError, NotADirectoryError):
        raise SourceGone("the recording is gone: it was deleted or moved") from None
    except OSError as error:
        raise SourceUnreadable(f"the recording cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode) or not os.path.isabs(origin.source):
        raise SourceGone("the recording is gone: there is something else in its place")
    return status


def read_frame(origin: Origin) -> Image.Image:
    """Decode the frame. Raises: SourceGone, also if the frame has another size; SourceUnreadable."""
    source_status(origin)
    try:
        if origin.time_s is None:
            pixels = read_picture(Path(origin.source))[0].pixels
        else:
            with Video(Path(origin.source)) as video:
                pixels = video.pixels_at(origin.time_s)
    except (Unreadable, UserError) as error:  # a UserError names the library that is missing
        raise SourceUnreadable(f"the recording cannot be read: {error}") from error
    frame = Image.fromarray(pixels)
    if frame.size != origin.frame_size:
        raise SourceGone("the recording is gone: its frames have another size than those that were cropped")
    return frame


def video_file(origin: Origin) -> Path:
    """The video of an origin, if a video is what is there. Raises: SourceGone, SourceUnreadable."""
    status, path = source_status(origin), Path(origin.source)
    if path.suffix.lower() not in VIDEOS:
        raise SourceUnreadable("the recording is not a kind of video that is given out")
    try:
        _check_video(path, status.st_ino, status.st_mtime_ns, status.st_size)
    except (Unreadable, UserError) as error:
        raise SourceUnreadable(f"the recording cannot be read: {error}") from error
    return path


def encode_frame(frame: Image.Image, *, longest_px: int) -> bytes:
    """As JPEG whose longest side has at most `longest_px`."""
    frame.thumbnail((longest_px, longest_px))
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def blurred_outside(frame: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """The frame with everything outside the box averaged over blocks, so that nobody else can be recognised.

    Blurring the boxes of others alone would show those whom the detector missed.
    """
    scale = BLUR_BLOCKS / max(frame.size)
    blocks = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
    blurred = frame.resize(blocks, Image.Resampling.BOX).resize(frame.size, Image.Resampling.BICUBIC)
    left, top = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    right, bottom = min(frame.width, math.ceil(box[2])), min(frame.height, math.ceil(box[3]))
    if left < right and top < bottom:
        blurred.paste(frame.crop((left, top, right, bottom)), (left, top))
    return blurred


def frame_tag(origin: Origin, *, size: str, blurred: bool) -> str:
    """An HTTP entity tag, which differs for another frame, size, blur or file. Raises: SourceGone, SourceUnreadable."""
    status = source_status(origin)
    parts = (origin.source, origin.frame, status.st_ino, status.st_mtime_ns, size, origin.box if blurred else None)
    return f'"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"'


@lru_cache(maxsize=1000)
def _check_video(path: Path, inode: int, mtime_ns: int, size: int) -> None:
    """Open a video once for each state of its file. Raises: Unreadable; UserError without PyAV."""
    with Video(path):
        pass
