"""Indexed images for clients: decoded and encoded again, so that only pixels go out."""

import io

from gallery.encoding.pictures import IndexedImage, decode

SIZES_PX = {"thumbnail": 320, "full": 1600}  # longest side
JPEG_QUALITY = 88


def encode_image(image: IndexedImage, *, max_pixels: int, longest_px: int) -> bytes:
    """An indexed image as upright JPEG whose longest side has at most `longest_px`.

    Raises: PictureChanged, UnreadablePicture.
    """
    picture = decode(image.read(), max_pixels=max_pixels, longest_px=longest_px)
    picture.thumbnail((longest_px, longest_px))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def version_tag(image: IndexedImage, size: str) -> str:
    """An HTTP entity tag, which differs for other content or another size."""
    return f'"{image.sha256.hex()[:32]}-{size}"'
