"""The decoder of the gallery: upright, eight bits, the same pixels as dataset.images; files that were swapped."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dataset.images import read_image
from gallery.encoding.encoder import pixels_of
from gallery.encoding.pictures import IndexedImage, PictureChanged, UnreadablePicture, decode
from tests.helpers.fake_gallery import indexed

HEIGHT, WIDTH = 40, 20


def picture(height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """No two of its corners are alike."""
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([rows * 6, columns * 12, (rows + columns) * 4], axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", orientation: int | None = None, **options) -> bytes:
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(one: np.ndarray | Image.Image, other: np.ndarray | Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_orientation_is_turned_upright(kind, orientation):
    data = encoded(picture(), kind, orientation)
    with Image.open(io.BytesIO(data)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    found = decode(data)
    assert found.size == expected.size == ((WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH))
    assert difference(found, expected) == 0
    size = (found.height, found.width)
    assert difference(pixels_of(found, size).permute(1, 2, 0).numpy(), expected) == 0  # not turned a second time
    with Image.open(io.BytesIO(data)) as image:  # as a caller of Gallery.query_image opens it
        assert torch.equal(pixels_of(image, size), pixels_of(found, size))


def test_sixteen_bits_are_scaled_and_turned():
    values = np.arange(24, dtype=np.uint16).reshape(4, 6) * 2560
    found = decode(encoded(Image.fromarray(values), orientation=3))
    assert difference(found, np.repeat((values >> 8)[::-1, ::-1, None], 3, axis=2)) == 0


@pytest.mark.parametrize(
    ("kind", "mode", "most"),
    [("JPEG", "RGB", 4), ("JPEG", "L", 4), ("JPEG", "CMYK", 4)]
    + [("PNG", mode, 0) for mode in ("RGB", "L", "LA", "P", "RGBA", "1", "I;16")],
)
def test_the_pixels_are_those_of_training_and_evaluation(tmp_path, kind, mode, most):
    """most: the largest difference; two JPEG libraries may round the chroma differently."""
    source = Image.fromarray(np.full((HEIGHT, WIDTH), 0x8123, np.uint16)) if mode == "I;16" else picture().convert(mode)
    (tmp_path / "picture").write_bytes(encoded(source, kind))
    for size in ((HEIGHT, WIDTH), (32, 24)):
        trained = read_image(tmp_path / "picture", size)
        found = pixels_of(decode((tmp_path / "picture").read_bytes()), size)
        assert (found.dtype, found.shape) == (trained.dtype, trained.shape)
        assert difference(found.numpy(), trained.numpy()) <= most


@pytest.mark.parametrize("exif", [b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"Exif\x00\x00", b"nonsense"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_says_nothing(exif):
    assert decode(encoded(picture(), "JPEG", exif=exif)).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_first_picture_of_an_animation_counts(kind):
    data = encoded(picture(), kind, save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))] * 2)
    assert difference(decode(data), picture()) <= (0 if kind == "PNG" else 24)


def test_what_came_in_the_place_of_a_picture_is_named():
    with pytest.raises(UnreadablePicture, match=r"no readable picture \(.*\): it is a Git LFS pointer .*git lfs pull"):
        decode(b"version https://git-lfs.github.com/spec/v1\nsize 7\n")


def test_a_smaller_one_is_decoded_where_that_is_enough():
    data = encoded(picture().resize((800, 1600)), "JPEG", orientation=6)
    found = decode(data, longest_px=320)
    assert found.size in ((400, 200), (800, 400))
    assert decode(data).size == (1600, 800)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no readable picture"),
        (b"<html>", "no readable picture"),
        (encoded(picture(), "JPEG")[:300], "no readable picture"),
        (encoded(picture(), "GIF"), "no readable picture"),  # a format that the page does not show
        (encoded(picture(30, 40)), "has 40 x 30 pixels; at most 1,000"),
    ],
)
def test_what_is_no_picture(data, message):
    with pytest.raises(UnreadablePicture, match=message):
        decode(data, max_pixels=1000)


# ---- files that were indexed ----


@pytest.fixture
def image(tmp_path: Path) -> IndexedImage:
    path = tmp_path / "a.png"
    path.write_bytes(b"0123456789")
    return indexed(path)


def test_an_indexed_file_is_read_also_if_it_was_only_touched(image):
    os.utime(image.path, ns=(5, 5))
    assert image.read() == b"0123456789"


def swap(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"9876543210")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time stay the same


def link(path: Path) -> None:
    (path.parent / "secret").write_bytes(b"not for all")
    path.unlink()
    path.symlink_to(path.parent / "secret")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)  # opening it would wait for a writer


@pytest.mark.parametrize("change", [swap, link, pipe, Path.unlink])
def test_anything_else_at_its_path_is_not_read(image, change):
    change(image.path)
    with pytest.raises(PictureChanged, match=r"^the file of this image is gone or is not what was indexed") as caught:
        image.read()
    assert str(image.path.parent) not in str(caught.value)
