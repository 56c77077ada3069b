"""Picture files to uint8 tensors (3, H, W), RGB, 0..255: decoded and resized once, cached in one file per split.

simplejpeg decodes JPEGs and Pillow all other formats. EXIF orientation is ignored and alpha dropped. Resizing is
bicubic and antialiased, on uint8. The cache is a memory-mapped file of all pictures of a split in the order of their
paths, with a list of unreadable ones beside it. Both are keyed by the paths, sizes and times of the picture files.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import simplejpeg
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from utils.errors import UserError
from utils.file_kinds import Start, what_came_instead
from utils.log import progress
from utils.signals import heed_parent

logger = logging.getLogger(__name__)

OnBadImage = Literal["error", "skip"]

PIPELINE_VERSION = 1  # raise it when the pixels of read_image change
MAX_PIXELS = 178_956_970  # Pillow's limit; a small file that claims more would fill the memory
PICTURES_AT_A_TIME = 16  # they pass between processes through shared memory, which is scarce in containers


class BadImage(UserError):
    """A picture that cannot be read. The message is one line that starts with the path."""

    def __init__(self, message: str) -> None:
        # A loader process passes its whole traceback as the message of a new exception; its last line is ours.
        super().__init__(message.strip().rsplit("BadImage: ", 1)[-1])


class Images(Protocol):
    """Pictures by number, each (3, H, W) uint8."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Tensor: ...


class OpenedImages(NamedTuple):
    """Pictures of a list of paths, and the numbers of those that can be read."""

    images: Images
    readable: list[int]


def read_image(path: Path, size: tuple[int, int]) -> Tensor:
    """Decode and resize one picture to (3, height, width) uint8. Raises: BadImage that names the file."""
    data = b""
    try:
        data = path.read_bytes()
        pixels = _decode(data, path)
    except FileNotFoundError:
        raise BadImage(f"{path}: no such file") from None
    except Exception as error:  # a broken file can make decoders raise anything
        instead = None if isinstance(error, OSError) and error.errno else what_came_instead(Start(data, len(data)))
        raise BadImage(f"{path}: cannot be read as a picture ({instead or error})") from error
    picture = torch.from_numpy(pixels).permute(2, 0, 1)  # (H0, W0, 3) -> (3, H0, W0)
    resized = resize(picture, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return torch.from_numpy(np.ascontiguousarray(resized.numpy()))  # numpy reorders three channels twice as fast


def _decode(data: bytes, path: Path) -> np.ndarray:
    """Decode a picture file to pixels (H, W, 3) uint8."""
    if simplejpeg.is_jpeg(data):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            if height * width <= MAX_PIXELS:
                return simplejpeg.decode_jpeg(data, colorspace="RGB")
        except ValueError:  # CMYK or damaged: Pillow reads the former and rejects the latter, and what is too large
            pass
    with Image.open(path) as picture:
        if picture.mode.startswith("I;16"):  # convert() would clip 16 bits instead of scaling them
            return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
        return np.array(picture.convert("RGB"))


class DecodedImages:
    """Pictures that are decoded on access."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int]) -> None:
        self.paths = list(paths)
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return read_image(self.paths[index], self.size)


class CachedImages:
    """Pictures of a cache file."""

    def __init__(self, path: Path, count: int, size: tuple[int, int]) -> None:
        self.path = path
        self.shape = (count, 3, *size)

    @cached_property
    def pixels(self) -> np.memmap:
        return np.memmap(self.path, np.uint8, "r", shape=self.shape)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the memory map: pickled for another process, it would become a copy of the whole file."""
        return {"path": self.path, "shape": self.shape}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self.pixels[index]))

    def batch(self, indices: Sequence[int], flipped: Sequence[bool]) -> Tensor:
        """Return pictures (B, 3, H, W), mirrored if flipped; each is copied once, from the map into the batch."""
        pictures = torch.empty((len(indices), *self.shape[1:]), dtype=torch.uint8)
        for picture, index, is_flipped in zip(pictures, indices, flipped, strict=True):
            picture.numpy()[:] = self.pixels[index]
            if is_flipped:
                picture.copy_(picture.flip(-1))
        return pictures


def open_images(
    paths: Sequence[Path],
    size: tuple[int, int],
    *,
    cache_dir: Path | None,
    split: str,
    on_bad_image: OnBadImage,
    workers: int,
) -> OpenedImages:
    """Open the pictures of the paths: from the cache in cache_dir, which is made if needed, or from the files if None.

    With the cache, an unreadable picture raises BadImage (on_bad_image "error"), or gives a warning and is missing from
    `readable` ("skip"). Without it, no file is opened before it is accessed.
    """
    if cache_dir is None:
        return OpenedImages(DecodedImages(paths, size), list(range(len(paths))))
    path = _cache_file(paths, size, cache_dir, split)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_dir / f"{_stem(split, size)}.lock"):  # other processes wait while one makes the file
            if not path.exists():
                _make_cache(path, paths, size, _stem(split, size), on_bad_image, workers)
    except OSError as error:
        raise UserError(f"cannot keep decoded images in {cache_dir} ({error}): set dataset.cache=false") from error
    bad = {int(index): reason for index, reason in json.loads(path.with_suffix(".json").read_text()).items()}
    return OpenedImages(CachedImages(path, len(paths), size), _without(bad, len(paths), on_bad_image))


def find_readable(paths: Sequence[Path], size: tuple[int, int], *, on_bad_image: OnBadImage, workers: int) -> list[int]:
    """Decode every picture once and list the readable ones, for a gallery that is not cached."""
    bad: dict[int, str] = {}
    for _, reasons in _decode_all(paths, size, "looking for unreadable images", on_bad_image, workers):
        bad.update(reasons)
    return _without(bad, len(paths), on_bad_image)


def start_worker(worker: int) -> None:
    """Set up a loader process: one thread, since there may be as many processes as cores."""
    torch.set_num_threads(1)
    heed_parent()


def _without(bad: dict[int, str], count: int, on_bad_image: OnBadImage) -> list[int]:
    if bad and on_bad_image == "error":
        raise BadImage(next(iter(bad.values())))
    for reason in bad.values():
        logger.warning("left out: %s", reason)
    return [index for index in range(count) if index not in bad]


def _stem(split: str, size: tuple[int, int]) -> str:
    return f"{split}_{size[0]}x{size[1]}"


def _cache_file(paths: Sequence[Path], size: tuple[int, int], folder: Path, split: str) -> Path:
    key = hashlib.sha256(f"{PIPELINE_VERSION}\n{size}\n".encode())
    for path in paths:
        try:
            status = os.stat(path)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:  # reading the file will report the reason
            state = "missing"
        key.update(f"{os.path.relpath(path, folder)}\n{state}\n".encode())  # relative: a data set can be moved
    return folder / f"{_stem(split, size)}_{key.hexdigest()[:16]}.u8"


def _make_cache(
    path: Path, paths: Sequence[Path], size: tuple[int, int], stem: str, on_bad_image: OnBadImage, workers: int
) -> None:
    """Write the cache in order, with plain writes (a full disk then raises an error) and a rename at the end."""
    for old in path.parent.glob(f"{stem}_*"):
        old.unlink()
    need, free = len(paths) * 3 * size[0] * size[1], shutil.disk_usage(path.parent).free
    logger.info("image cache %s: %.2f GB for %d images, %.1f GB free", path, need / 1e9, len(paths), free / 1e9)
    if need > free:
        raise UserError(
            f"the image cache needs {need / 1e9:.1f} GB in {path.parent} but {free / 1e9:.1f} GB are free: "
            "make room or set dataset.cache=false"
        )
    bad: dict[int, str] = {}
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            for pixels, reasons in _decode_all(paths, size, "caching images", on_bad_image, workers):
                file.write(pixels.numpy().data)
                bad.update(reasons)
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".json").write_text(json.dumps(bad))  # before the rename, which marks both files as complete
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


class _Attempts(Dataset):
    """Pictures; for an unreadable one, zeros and the reason."""

    def __init__(self, images: DecodedImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        try:
            return self.images[index], ""
        except BadImage as error:
            return torch.zeros(3, *self.images.size, dtype=torch.uint8), str(error)


def _decode_all(
    paths: Sequence[Path], size: tuple[int, int], description: str, on_bad_image: OnBadImage, workers: int
) -> Iterator[tuple[Tensor, dict[int, str]]]:
    """Decode all pictures in order: (n, 3, H, W) uint8 at a time, and the reason for each unreadable picture."""
    loader = DataLoader(
        _Attempts(DecodedImages(paths, size)),
        batch_size=PICTURES_AT_A_TIME,
        num_workers=workers,
        worker_init_fn=start_worker,
    )
    batches = iter(loader)  # starts the processes now, so that they do not inherit the thread of a progress bar
    first = 0
    with progress[None](len(paths), description, "images") as bar:
        for pixels, reasons in batches:
            bad = {first + place: reason for place, reason in enumerate(reasons) if reason}
            if bad and on_bad_image == "error":
                raise BadImage(next(iter(bad.values())))
            yield pixels, bad
            first += len(pixels)
            bar.advance(len(pixels))
