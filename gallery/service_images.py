"""Pictures that come in and go out. Both are decoded and, going out, encoded anew: nothing but pixels passes."""

import io
from pathlib import Path

from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP")
SIZES_PX = {"thumbnail": 320, "full": 1600}  # longest side
JPEG_QUALITY = 88


class UnreadableImage(ValueError):
    """The file is no picture, is damaged or gone, or has too many pixels; the message is one sentence."""


def read_image(file: Path | io.BytesIO, *, max_pixels: int, longest_px: int | None = None) -> Image.Image:
    """Picture -> RGB, upright; where longest_px is given, as large as that or larger. Raises: UnreadableImage."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size  # from the file's header: nothing is decoded yet
            if width * height > max_pixels:
                raise UnreadableImage(f"the picture has {width} x {height} pixels; at most {max_pixels:,} are allowed")
            if longest_px is not None:
                image.draft("RGB", (longest_px, longest_px))  # a JPEG decodes faster at a fraction of its size
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnreadableImage:
        raise
    except Exception as error:  # the decoders raise errors of many kinds at damaged files
        raise UnreadableImage(f"the file is no readable picture ({', '.join(FORMATS)})") from error


def encode_image(path: Path, *, max_pixels: int, longest_px: int) -> bytes:
    """JPEG of an image file, upright, its longest side at most `longest_px`. Raises: UnreadableImage."""
    image = read_image(path, max_pixels=max_pixels, longest_px=longest_px)
    image.thumbnail((longest_px, longest_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def version_tag(path: Path, size: str) -> str:
    """Changes whenever the file does: an HTTP entity tag. Raises: UnreadableImage."""
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableImage("the file is gone") from error
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}-{size}"'
