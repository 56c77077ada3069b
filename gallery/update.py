"""Encode images into an index, part by part: what was committed stays when the run is interrupted.

Under torchrun every process encodes its share of each part into a segment of its own; the main process commits them.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset.images import start_worker
from gallery.encode import Encoder, checked_checkpoint, pixels_of
from gallery.manifest import Manifest, SegmentEntry
from gallery.pictures import UnreadablePicture, decode
from gallery.scan import Changes, Unreadable, not_looked_at
from gallery.segments import ImageFile, SegmentWriter
from gallery.store import ROWS_AT_A_TIME, StoreWriter
from utils.config import stored_config
from utils.distributed import Process, gather_objects
from utils.log import progress

logger = logging.getLogger(__name__)

FIRST_PART, LARGEST_PART = 256, 2**14  # images per process between two commits
SECONDS_PER_PART = 60.0  # that an interrupted run may lose, roughly


class Work(NamedTuple):
    """What all processes have to know."""

    manifest: Manifest
    paths: list[str]  # to encode, relative to the manifest's root


class _Part(NamedTuple):
    """What one process made of its share of a part."""

    entry: SegmentEntry
    unreadable: list[Unreadable]
    seconds: float


class _Batch(NamedTuple):
    pixels: Tensor  # (b, 3, H, W) uint8, of those that can be read
    images: list[ImageFile]  # b
    unreadable: list[Unreadable]


def encode_parts(index: Path, work: Work, process: Process, writer: StoreWriter | None) -> list[Unreadable]:
    """Encode and commit all of the work; returns the images that cannot be read, in every process.

    writer: of the main process, None in the others.
    """
    unreadable: list[Unreadable] = []
    if not work.paths:
        return unreadable
    checkpoint = checked_checkpoint(work.manifest)
    config = stored_config(work.manifest.config, str(index))
    encoder = Encoder(checkpoint, config, process.device)
    serial, start, size = work.manifest.next_serial, 0, FIRST_PART
    with progress[None](len(work.paths), "encode images", "images") as bar:
        while start < len(work.paths):
            paths = work.paths[start : start + size * process.world_size]
            segment = SegmentWriter(index, serial + process.rank, token_shape=work.manifest.token_shape)
            share = paths[process.rank :: process.world_size]
            root = Path(work.manifest.root)
            own = _encode(encoder, root, share, segment, lambda count: bar.advance(count * process.world_size))
            parts = gather_objects(own)
            bad = [image for part in parts for image in part.unreadable]
            if writer is not None:
                writer.commit([part.entry for part in parts], removed=_known(writer, bad))
            gather_objects(None)  # the next segments are begun when this part is committed
            unreadable += bad
            bar.advance(len(paths) - len(share) * process.world_size)  # shares differ by one image
            start, serial = start + len(paths), serial + process.world_size
            size = _next_size(size, max(part.seconds for part in parts))
    return unreadable


def keep_touched(writer: StoreWriter, changes: Changes) -> None:
    """Commit what needs no encoding: images that are gone, and those whose files have another time only."""
    added = []
    if changes.touched:
        segment = writer.write_segment(writer.store.manifest.next_serial)
        touched = iter(changes.touched.items())
        while some := dict(islice(touched, ROWS_AT_A_TIME)):
            writer.copy_rows(segment, some)
        added.append(segment.close())
    if added or changes.gone:
        writer.commit(added, removed=changes.gone)


def _encode(
    encoder: Encoder, root: Path, paths: Sequence[str], segment: SegmentWriter, advance: Callable[[int], None]
) -> _Part:
    """advance: is told of every batch how many images it had."""
    begin = time.perf_counter()
    unreadable: list[Unreadable] = []
    loader = DataLoader(
        _Files(root, paths, encoder.image_size),
        batch_size=encoder.config.eval.batch_size,
        num_workers=encoder.config.dataset.workers,
        collate_fn=_collate,
        worker_init_fn=start_worker,
    )
    for batch in loader if len(paths) else ():
        unreadable += batch.unreadable
        for bad in batch.unreadable:
            logger.warning("left out: %s: %s", bad.path, bad.reason)
        if batch.images:
            encoded = encoder.images(batch.pixels)
            tokens = encoded.tokens.half().cpu().numpy() if segment.token_shape else None
            segment.append(batch.images, encoded.vectors, tokens)
        advance(len(batch.images) + len(batch.unreadable))
    return _Part(segment.close(), unreadable, time.perf_counter() - begin)


class _Files(Dataset):
    """Pictures with what the index says of their files."""

    def __init__(self, root: Path, paths: Sequence[str], size: tuple[int, int]) -> None:
        self.root, self.paths, self.size = root, paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, ImageFile] | Unreadable:
        path = self.paths[index]
        try:
            status = (self.root / path).stat()  # before reading: a change from now on is noticed the next time
            data = (self.root / path).read_bytes()
            pixels = pixels_of(decode(data), self.size)
        except OSError as error:
            return not_looked_at(path, error)
        except UnreadablePicture as error:
            return Unreadable(path, str(error))
        return pixels, ImageFile(path, status.st_size, status.st_mtime_ns, hashlib.sha256(data).digest())


def _collate(samples: Sequence[tuple[Tensor, ImageFile] | Unreadable]) -> _Batch:
    bad = [sample for sample in samples if isinstance(sample, Unreadable)]
    good = [sample for sample in samples if not isinstance(sample, Unreadable)]
    pixels = torch.stack([sample[0] for sample in good]) if good else torch.empty(0, dtype=torch.uint8)
    return _Batch(pixels, [sample[1] for sample in good], bad)


def _known(writer: StoreWriter, unreadable: Sequence[Unreadable]) -> list[int]:
    """Keys of images that were readable when they were indexed, and have another content now."""
    bad = {image.path for image in unreadable if not image.keep}
    return [key for key, image in writer.store.images() if image.path in bad] if bad else []


def _next_size(size: int, seconds: float) -> int:
    """Parts grow until one takes about SECONDS_PER_PART."""
    fitting = int(size * np.clip(SECONDS_PER_PART / max(seconds, 1e-6), 0.25, 2))
    return int(np.clip(fitting, FIRST_PART // 4, LARGEST_PART))
