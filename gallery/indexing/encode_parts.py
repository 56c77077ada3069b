"""Encode images into an index, part by part. An interrupted run keeps the parts that were committed.

Under torchrun, each process encodes its share of a part into its own segment, and the main process commits them all.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset.images import start_worker
from gallery.encoding.checkpoints import checked_checkpoint
from gallery.encoding.encoder import EncodedImages, Encoder, pixels_of
from gallery.encoding.pictures import UnreadablePicture, decode
from gallery.footage.origin import Origin
from gallery.indexing.scan import Changes, Unreadable, not_looked_at
from gallery.store.manifest import Manifest, SegmentEntry
from gallery.store.origins import NO_ORIGINS
from gallery.store.segments import ImageFile, SegmentWriter
from gallery.store.writer import ROWS_AT_A_TIME, StoreWriter
from utils.config import stored_config
from utils.distributed import Process, gather_objects
from utils.log import progress

logger = logging.getLogger(__name__)

FIRST_PART, LARGEST_PART = 256, 2**14  # images per process between two commits
SECONDS_PER_PART = 60.0  # roughly what an interrupted run loses
NOT_FINITE = "the model makes numbers of it that are not finite; another train.precision may help"


class Work(NamedTuple):
    """What every process needs to know."""

    manifest: Manifest
    paths: list[str]  # to encode, relative to the manifest's root
    origins: Mapping[str, Origin] = NO_ORIGINS  # where they come from, by path


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
    """Encode and commit all images. Returns those that cannot be read, on every process.

    writer: None except on the main process.
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
            own = _encode(
                encoder, root, share, work.origins, segment, lambda count: bar.advance(count * process.world_size)
            )
            parts = gather_objects(own)
            bad = [image for part in parts for image in part.unreadable]
            if writer is not None:
                writer.commit([part.entry for part in parts], removed=_no_longer_readable(writer, bad))
            gather_objects(None)  # wait for the commit before the next segments are created
            unreadable += bad
            bar.advance(len(paths) - len(share) * process.world_size)  # the shares differ by up to one image
            start, serial = start + len(paths), serial + process.world_size
            size = _next_size(size, max(part.seconds for part in parts))
    return unreadable


def commit_unencoded(writer: StoreWriter, changes: Changes, origins: Mapping[str, Origin]) -> None:
    """Commit the changes that need no encoding: images that are gone or were only touched. origins: by path."""
    added = []
    if changes.touched:
        segment = writer.write_segment(writer.store.manifest.next_serial)
        touched = iter(changes.touched.items())
        while some := dict(islice(touched, ROWS_AT_A_TIME)):
            writer.copy_rows(segment, some, origins)
        added.append(segment.close())
    if added or changes.gone:
        writer.commit(added, removed=changes.gone)


def _encode(
    encoder: Encoder,
    root: Path,
    paths: Sequence[str],
    origins: Mapping[str, Origin],
    segment: SegmentWriter,
    advance: Callable[[int], None],
) -> _Part:
    """Encode the images of one process into its segment. advance: called with the size of each batch."""
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
            unreadable += _append(batch, encoder.images(batch.pixels), origins, segment)
        advance(len(batch.images) + len(batch.unreadable))
    return _Part(segment.close(), unreadable, time.perf_counter() - begin)


def _append(
    batch: _Batch, encoded: EncodedImages, origins: Mapping[str, Origin], segment: SegmentWriter
) -> list[Unreadable]:
    """Add the images of which the model makes finite numbers; returns the others."""
    tokens = encoded.tokens.half().cpu().numpy() if segment.token_shape else None
    finite = np.isfinite(encoded.vectors).all(axis=1)
    if tokens is not None:
        finite &= np.isfinite(tokens).all(axis=(1, 2))
        tokens = tokens[finite]
    good = [image for image, is_good in zip(batch.images, finite, strict=True) if is_good]
    segment.append(good, encoded.vectors[finite], tokens, [origins.get(image.path) for image in good])
    bad = [image.path for image, is_good in zip(batch.images, finite, strict=True) if not is_good]
    for path in bad:
        logger.warning("left out: %s: %s", path, NOT_FINITE)
    return [Unreadable(path, NOT_FINITE) for path in bad]


class _Files(Dataset[tuple[Tensor, ImageFile] | Unreadable]):
    """Pictures as pixels, with the record of their files for the index."""

    def __init__(self, root: Path, paths: Sequence[str], size: tuple[int, int]) -> None:
        self.root, self.paths, self.size = root, paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, ImageFile] | Unreadable:
        path = self.paths[number]
        try:
            status = (self.root / path).stat()  # taken before reading, so that a later change is noticed
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


def _no_longer_readable(writer: StoreWriter, unreadable: Sequence[Unreadable]) -> list[int]:
    """Keys of indexed images that could be read before and cannot be read any more."""
    bad = {image.path for image in unreadable if not image.keep}
    return [key for key, image in writer.store.images() if image.path in bad] if bad else []


def _next_size(size: int, seconds: float) -> int:
    """Parts grow until one takes about SECONDS_PER_PART."""
    fitting = int(size * np.clip(SECONDS_PER_PART / max(seconds, 1e-6), 0.25, 2))
    return int(np.clip(fitting, FIRST_PART // 4, LARGEST_PART))
