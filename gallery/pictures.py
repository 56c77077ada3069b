"""Picture files to pixels: the one decoder of the gallery, so that what the model sees is what people are shown.

RGB, 8 bits, upright. Benchmarks are read by dataset.images, which ignores EXIF orientation: for their crops, which have
none, both give the same pixels. Knows no torch.
"""

import hashlib
import io
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from gallery.answers import CannotAnswer
from gallery.segments import ImageFile

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
    """No picture, damaged, or with too many pixels; one sentence without a path."""


class PictureChanged(CannotAnswer):
    """The file of an indexed image is gone, or its content is not what was indexed."""

    def __init__(self) -> None:
        super().__init__("the file of this image is gone or is not what was indexed; index the folder again")


class IndexedImage(NamedTuple):
    """An indexed image's file, and what it held then."""

    path: Path
    size: int  # bytes
    sha256: bytes

    @classmethod
    def of(cls, root: Path, image: ImageFile) -> "IndexedImage":
        return cls(root / image.path, image.size, image.sha256)

    def read(self) -> bytes:
        """The file's content. Raises: PictureChanged if it is not what was indexed."""
        try:
            status = self.path.stat()
            if stat.S_ISREG(status.st_mode) and status.st_size == self.size:  # else not even opened
                data = self.path.read_bytes()
                if hashlib.sha256(data).digest() == self.sha256:
                    return data
        except OSError as error:
            raise PictureChanged from error
        raise PictureChanged


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, longest_px: int | None = None) -> Image.Image:
    """Picture -> RGB, upright; where longest_px is given, its longest side is as long as that or longer.

    Raises: UnreadablePicture.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size  # from the file's header: nothing is decoded yet
            if width * height > max_pixels:
                raise UnreadablePicture(
                    f"the picture has {width} x {height} pixels; at most {max_pixels:,} are allowed"
                )
            if longest_px is not None:
                image.draft("RGB", (longest_px, longest_px))  # a JPEG decodes faster at a fraction of its size
            return upright(image)
    except UnreadablePicture:
        raise
    except Exception as error:  # the decoders raise errors of many kinds at damaged files
        raise UnreadablePicture(f"the file is no readable picture ({', '.join(FORMATS)})") from error


def upright(image: Image.Image) -> Image.Image:
    """An open picture -> RGB, upright, without metadata, so that it is not turned a second time."""
    turn = TURNS.get(_orientation(image))
    pixels = _eight_bits(image).convert("RGB")
    pixels = pixels if turn is None else pixels.transpose(turn)
    pixels.info.clear()
    return pixels


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow reads grey pictures of 16 bits as such, and would clip them when it converts them."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing, as in browsers
        return 1
