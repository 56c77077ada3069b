"""Decode picture files to upright 8-bit RGB. The model and the people who search see the same pixels.

The loaders of the benchmarks use dataset.images, which ignores the EXIF orientation. Both give the same pixels for the
crops of the benchmarks, which have none. Imports no torch.
"""

import hashlib
import io
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from gallery.answers import CannotAnswer
from gallery.store.segments import ImageFile
from utils.file_kinds import START_BYTES, Start, what_came_instead

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000  # 150 MB when decoded
ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadablePicture(CannotAnswer):
    """Not a picture, damaged, or too many pixels. The message is one sentence without a path."""


class PictureChanged(CannotAnswer):
    """The file of an indexed image is gone, or its content has changed since."""

    def __init__(self) -> None:
        super().__init__("the file of this image is gone or is not what was indexed; index the folder again")


class IndexedImage(NamedTuple):
    """The file of an indexed image, and the size and hash that it had when it was indexed."""

    path: Path
    size: int  # bytes
    sha256: bytes

    @classmethod
    def of(cls, root: Path, image: ImageFile) -> "IndexedImage":
        return cls(root / image.path, image.size, image.sha256)

    def read(self) -> bytes:
        """The content of the file. Raises: PictureChanged if it is gone or has changed."""
        try:
            status = self.path.stat()
            if stat.S_ISREG(status.st_mode) and status.st_size == self.size:  # opening a pipe would block
                data = self.path.read_bytes()
                if hashlib.sha256(data).digest() == self.sha256:
                    return data
        except OSError as error:
            raise PictureChanged from error
        raise PictureChanged


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, longest_px: int | None = None) -> Image.Image:
    """Decode a picture to upright RGB.

    longest_px: a smaller picture will do, as long as its longest side has at least so many pixels.
    Raises: UnreadablePicture.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size  # read from the header, before anything is decoded
            if width * height > max_pixels:
                raise UnreadablePicture(
                    f"the picture has {width} x {height} pixels; at most {max_pixels:,} are allowed"
                )
            if longest_px is not None:
                image.draft("RGB", (longest_px, longest_px))  # JPEG decodes faster at a fraction of its size
            return upright(image)
    except UnreadablePicture:
        raise
    except Exception as error:  # damaged files make the decoders raise many types
        instead = what_came_instead(Start(data[:START_BYTES], len(data)))
        why = f": {instead}" if instead else ""
        raise UnreadablePicture(f"the file is no readable picture ({', '.join(FORMATS)}){why}") from error


def upright(image: Image.Image) -> Image.Image:
    """Turn an open picture upright and convert it to RGB. Drops its metadata, so that nothing turns it again."""
    turn = TURNS.get(_orientation(image))
    pixels = _eight_bits(image).convert("RGB")
    pixels = pixels if turn is None else pixels.transpose(turn)
    pixels.info.clear()
    return pixels


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey pictures, which Pillow would clip when it converts them to RGB."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # browsers ignore damaged EXIF as well
        return 1
