"""Loaders over the sets of person_search: which rows go into which batch, on which process of a distributed run.

The order of an epoch depends on (seed, epoch) alone. B = batch_size rows per process.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from dataset.batches import TrainBatch, collate, collate_for_gpu
from dataset.images import CachedImages, start_worker
from dataset.sets import CaptionSet, EvalSets, GallerySet, TrainSet
from utils.errors import UserError

BATCHES_AHEAD = 2


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """One process's batches of an epoch, as lists of B places (epoch, row).

    Rows are shuffled over all processes, cut into batches of B * world_size, and each of those dealt out; the last,
    incomplete one is dropped. Call set_position before every epoch.
    """

    def __init__(self, num_rows: int, batch_size: int, *, seed: int, rank: int, world_size: int) -> None:
        if num_rows < batch_size * world_size:
            raise UserError(
                f"{num_rows} training pairs do not fill one batch of {batch_size} on {world_size} processes: "
                "lower train.batch_size"
            )
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start_batch = 0

    def set_position(self, epoch: int, start_batch: int = 0) -> None:
        """The next iteration yields this epoch, from its batch start_batch (0 = the first) on."""
        self.epoch = epoch
        self.start_batch = start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever the next iteration starts."""
        return self.num_rows // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = self.epoch, np.random.default_rng([self.seed, self.epoch]).permutation(self.num_rows)
        for batch in range(self.start_batch, len(self)):
            first = (batch * self.world_size + self.rank) * self.batch_size
            yield [(epoch, int(row)) for row in order[first : first + self.batch_size]]


class Ahead:
    """A loader without processes, whose batches a thread makes while the ones before are worked on."""

    def __init__(self, batches: DataLoader) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[TrainBatch]:
        batches = iter(self.batches)
        device = torch.cuda.current_device() if torch.cuda.is_available() else None
        with ThreadPoolExecutor(1, initializer=_start_thread, initargs=(device,)) as thread:
            waiting = deque(thread.submit(next, batches, None) for _ in range(BATCHES_AHEAD))
            while (batch := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, batches, None))
                yield batch


def _start_thread(device: int | None) -> None:
    if device is not None:
        torch.cuda.set_device(device)  # of this process: pages are pinned for the thread's device, else the first one


class TrainLoader(NamedTuple):
    """Batches of one process: `for batch in loader.batches` after `loader.sampler.set_position(epoch)`."""

    batches: DataLoader | Ahead  # yields TrainBatch
    sampler: EpochBatches


class EvalLoaders(NamedTuple):
    """All rows in the sets' order, on every process; each takes its share of them (evaluation/retrieval.py)."""

    gallery: DataLoader  # yields ImageBatch
    captions: DataLoader  # yields CaptionBatch

    @property
    def sets(self) -> EvalSets:
        """The images and captions that the loaders read, with their paths and texts."""
        gallery, captions = self.gallery.dataset, self.captions.dataset
        assert isinstance(gallery, GallerySet)
        assert isinstance(captions, CaptionSet)
        return EvalSets(gallery, captions)


def build_train_loader(
    train_set: TrainSet,
    *,
    batch_size: int,
    workers: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    parts: int = 1,
    shares: Sequence[float] = (1.0,),
) -> TrainLoader:
    """Loader with `workers` processes that stay alive over the epochs; 0 = read in this process.

    With cached images a thread does it instead: to copy them takes less than to hand them over from another process.
    parts, shares: as in `dataset.batches.collate_for_gpu`.
    Raises: UserError if the set is smaller than one batch of all processes.
    """
    sampler = EpochBatches(len(train_set), batch_size, seed=seed, rank=rank, world_size=world_size)
    in_thread = workers > 0 and isinstance(train_set, TrainSet) and isinstance(train_set.images, CachedImages)
    workers = 0 if in_thread else workers
    loader = DataLoader(
        train_set,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=partial(collate_for_gpu, parts=parts, shares=shares) if torch.cuda.is_available() else collate,
        worker_init_fn=start_worker,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # not torch's own, or a resumed run would draw other masks and negatives
    )
    return TrainLoader(Ahead(loader) if in_thread else loader, sampler)


def build_eval_loaders(gallery: GallerySet, captions: CaptionSet, *, batch_size: int, workers: int) -> EvalLoaders:
    """Loaders over both sets, nothing dropped. Captions need no processes."""
    return EvalLoaders(_in_order(gallery, batch_size, workers), _in_order(captions, batch_size, 0))


def _in_order(rows: GallerySet | CaptionSet, batch_size: int, workers: int) -> DataLoader:
    return DataLoader(
        rows,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # not torch's own, or a resumed run would draw other masks and negatives
    )
