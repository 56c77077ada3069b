"""Decoding, resizing and the image cache."""

import errno
import io
import logging
import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._utils import ExceptionWrapper

from dataset import images as module
from dataset.images import BadImage, CachedImages, DecodedImages, find_readable, open_images, read_image

SIZE = (24, 12)  # height, width


def picture(height=40, width=20, seed=0):
    """A smooth picture, so that JPEG changes little: (H, W, 3) uint8."""
    corners = np.random.default_rng(seed).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    return np.array(Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def folder(tmp_path):
    """Five JPEGs and PNGs."""
    for number in range(5):
        image = Image.fromarray(picture(height=40 + number, seed=number))
        image.save(tmp_path / f"{number}.{'jpg' if number % 2 else 'png'}", quality=95)
    return tmp_path


def paths_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def opened(folder, *, on_bad_image="error", size=SIZE, split="train", workers=0, paths=None):
    return open_images(
        paths or paths_in(folder),
        size,
        cache_dir=folder / "cache",
        split=split,
        on_bad_image=on_bad_image,
        workers=workers,
    )


def test_size_type_and_content(folder):
    image = read_image(folder / "0.png", SIZE)
    assert image.shape == (3, *SIZE)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    expected = Image.fromarray(picture()).resize((12, 24), Image.Resampling.BICUBIC)
    difference = image.permute(1, 2, 0).int() - torch.from_numpy(np.array(expected)).int()
    assert difference.abs().max() <= 1


def test_jpeg_like_pillow_within_4_of_255(folder):
    with Image.open(folder / "1.jpg") as image:
        expected = torch.from_numpy(np.array(image.convert("RGB")))
    difference = read_image(folder / "1.jpg", expected.shape[:2]).permute(1, 2, 0).int() - expected.int()
    assert difference.abs().max() <= 4


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    original = Image.fromarray(picture()).convert(mode)
    original.save(path)
    expected = torch.from_numpy(np.array(original.convert("RGB")))
    difference = read_image(path, (40, 20)).permute(1, 2, 0).int() - expected.int()
    assert difference.abs().max() <= (16 if mode == "CMYK" else 0)  # chroma of a JPEG


def test_grey_jpeg(tmp_path):
    Image.fromarray(picture()).convert("L").save(tmp_path / "grey.jpg")
    image = read_image(tmp_path / "grey.jpg", SIZE)
    assert torch.equal(image[0], image[1])
    assert image.float().std() > 1


def test_sixteen_bits_are_scaled(tmp_path):
    Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png", (8, 8)).unique().tolist() == [128]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_picture_of_an_animation_counts(tmp_path, kind):
    first, second = (Image.new("RGB", (20, 40), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    first.save(tmp_path / "moving", kind, save_all=True, append_images=[second, first])
    with Image.open(tmp_path / "moving") as image:
        assert image.n_frames == 3
    red, _, blue = read_image(tmp_path / "moving", (40, 20)).float().mean(dim=(1, 2))
    assert red > 150
    assert blue < 50


def claiming(kind: str, height: int, width: int) -> bytes:
    """A small file whose header claims so many pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    if kind == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "JPEG":
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    else:
        data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_a_small_file_that_claims_many_pixels_takes_no_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(module.simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    (tmp_path / "bomb").write_bytes(claiming(kind, 60_000, 60_000))
    with pytest.raises(BadImage, match=r"bomb: cannot be read as a picture \(Image size \(3600000000 pixels\) exceeds"):
        read_image(tmp_path / "bomb", SIZE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "it is a web page ('Sign in'), sent in the place of the file"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 7\n", "it is a Git LFS pointer"),
        (b"", "it is empty"),
    ],
)
def test_what_came_in_the_place_of_a_picture_is_named(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImage) as caught:
        read_image(tmp_path / "a.jpg", SIZE)
    assert f"a.jpg: cannot be read as a picture ({reason}" in str(caught.value)


def test_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image = Image.fromarray(picture())
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.save(tmp_path / "plain.jpg")
    assert torch.equal(read_image(tmp_path / "turned.jpg", SIZE), read_image(tmp_path / "plain.jpg", SIZE))


@pytest.mark.parametrize("damage", ["cut off", "no picture", "empty", "missing", "folder"])
@pytest.mark.parametrize("name", ["0.png", "1.jpg"])
def test_bad_image_is_one_line_with_the_path(folder, damage, name):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"cut off": content[: len(content) // 2], "no picture": b"<html>", "empty": b""}[damage])
    with pytest.raises(BadImage) as caught:
        read_image(path, SIZE)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_bad_image_stays_one_line_across_processes(folder):
    (folder / "2.png").write_bytes(b"<html>")
    try:
        read_image(folder / "2.png", SIZE)
    except BadImage:
        passed_on = ExceptionWrapper(where="in DataLoader worker process 0")  # what a loader process sends
    with pytest.raises(BadImage) as caught:
        passed_on.reraise()
    assert str(caught.value).startswith(f"{folder}/2.png: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_cached_pixels_equal_decoded_ones(folder, monkeypatch, workers):
    monkeypatch.setattr(module, "PICTURES_AT_A_TIME", 2)
    cached = opened(folder, workers=workers)
    assert isinstance(cached.images, CachedImages)
    assert cached.readable == list(range(5))
    decoded = DecodedImages(paths_in(folder), SIZE)
    assert len(cached.images) == len(decoded) == 5
    for index in range(5):
        assert torch.equal(cached.images[index], decoded[index])


def test_without_a_cache_nothing_is_written_or_read(folder):
    (folder / "2.png").write_bytes(b"")
    images, readable = open_images(
        paths_in(folder), SIZE, cache_dir=None, split="train", on_bad_image="error", workers=0
    )
    assert isinstance(images, DecodedImages)
    assert readable == list(range(5))
    assert not (folder / "cache").exists()


def cache_files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").glob("*.u8"))


def test_cache_is_used_again_until_a_file_changes(folder, monkeypatch):
    opened(folder)
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_image", None)  # decoding would fail
        opened(folder)
    before = cache_files(folder)
    Image.fromarray(picture(seed=9)).save(folder / "0.png")
    os.utime(folder / "0.png", (1, 1))
    changed = opened(folder).images
    assert torch.equal(changed[0], read_image(folder / "0.png", SIZE))
    assert len(cache_files(folder)) == 1  # the old one is gone
    assert cache_files(folder) != before


def test_sizes_and_splits_have_their_own_files(folder):
    opened(folder)
    opened(folder, size=(12, 12))
    opened(folder, split="val")
    assert len(cache_files(folder)) == 3


def test_moved_data_set_keeps_its_cache(folder, tmp_path_factory, monkeypatch):
    opened(folder)
    other = tmp_path_factory.mktemp("other") / "moved"
    shutil.copytree(folder, other)  # copies times as well
    monkeypatch.setattr(module, "read_image", None)
    opened(other)


def test_pickled_images_hold_no_pixels(folder):
    images = opened(folder).images
    first = images[0]
    pickled = pickle.dumps(images)
    assert len(pickled) < 1000
    assert torch.equal(pickle.loads(pickled)[0], first)


def test_bad_image_stops_the_cache(folder):
    (folder / "2.png").write_bytes(b"")
    with pytest.raises(BadImage, match=r"2\.png"):
        opened(folder)
    assert list((folder / "cache").glob("*.[ut]*")) == []  # neither the file nor a part of it


def test_bad_images_are_left_out_with_a_warning(folder, caplog):
    (folder / "2.png").write_bytes(b"")
    (folder / "3.jpg").unlink()
    paths = [folder / name for name in ("0.png", "1.jpg", "2.png", "3.jpg", "4.png")]
    with caplog.at_level(logging.WARNING):
        images, readable = opened(folder, on_bad_image="skip", paths=paths)
    assert readable == [0, 1, 4]
    assert "2.png" in caplog.text
    assert "3.jpg" in caplog.text
    assert torch.equal(images[4], read_image(folder / "4.png", SIZE))
    with pytest.raises(BadImage, match=r"2\.png"):  # the same cache file
        opened(folder, paths=paths)
    assert find_readable(paths, SIZE, on_bad_image="skip", workers=0) == [0, 1, 4]


def test_need_is_said_and_checked_before_decoding(folder, monkeypatch, caplog):
    monkeypatch.setattr(module, "read_image", None)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match=r"set dataset\.cache=false"):
        opened(folder)
    assert "0.00 GB for 5 images" in caplog.text


def test_disk_full_while_writing(folder, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(ValueError, match=r"No space left on device.*set dataset\.cache=false"):
        opened(folder)
    assert list((folder / "cache").glob("*.[ut]*")) == []
