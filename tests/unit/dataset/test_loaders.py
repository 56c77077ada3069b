"""Which rows come in which batch: seeds, processes, ranks, resuming."""

import threading

import numpy as np
import pytest
import torch

from dataset.batches import CaptionBatch, ImageBatch, TrainBatch
from dataset.images import BadImage, CachedImages
from dataset.loaders import Ahead, EpochBatches, build_eval_loaders, build_train_loader
from dataset.sets import CaptionSet, EncodedCaptions, GallerySet, TrainRows, TrainSet

ROWS = 23


class Numbered:
    """Images whose pixels say which they are; the left half is darker by one. The bad one cannot be read."""

    def __init__(self, bad=None):
        self.bad = bad

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        if index == self.bad:
            raise BadImage(f"imgs/{index}.jpg: cannot be read")
        image = torch.full((3, 2, 2), 2 * index, dtype=torch.uint8)
        image[:, :, 1] += 1
        return image


def captions():
    """Caption c has c % 5 + 1 tokens, of the value c + 1."""
    lengths = np.arange(ROWS) % 5 + 1
    ids = np.repeat(np.arange(ROWS) + 1, lengths).astype(np.int32)
    return EncodedCaptions(ids, np.zeros(len(ids), np.int16), np.concatenate([[0], np.cumsum(lengths)]))


def train_set(bad=None):
    numbers = np.arange(ROWS)
    rows = TrainRows(image=numbers, caption=numbers, person=numbers // 4)
    return TrainSet(Numbered(bad), captions(), rows, weak_positive_probability=0.5, seed=1, on_bad_image="error")


def epoch_of(loader, epoch, start_batch=0):
    loader.sampler.set_position(epoch, start_batch)
    return list(loader.batches)


def rows_of(batches):
    return [row for batch in batches for row in (batch.image_1[:, 0, 0, 0] // 2).tolist()]


def assert_equal(one, two):
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_epochs_are_shuffled_anew_and_drop_the_incomplete_batch():
    loader = build_train_loader(train_set(), batch_size=5, workers=0, seed=0)
    first, second = rows_of(epoch_of(loader, 0)), rows_of(epoch_of(loader, 1))
    assert len(first) == len(set(first)) == 20
    assert len(loader.batches) == 4
    assert first != second
    assert first != sorted(first)
    assert rows_of(epoch_of(loader, 0)) == first
    other = build_train_loader(train_set(), batch_size=5, workers=0, seed=1)
    assert rows_of(epoch_of(other, 0)) != first


def test_batches_do_not_depend_on_the_processes():
    alone = build_train_loader(train_set(), batch_size=4, workers=0, seed=0)
    helped = build_train_loader(train_set(), batch_size=4, workers=2, seed=0)
    for epoch in (0, 1):  # the second one with the processes of the first
        for one, two in zip(epoch_of(alone, epoch), epoch_of(helped, epoch), strict=True):
            assert isinstance(two, TrainBatch)
            assert_equal(one, two)


def test_resuming_yields_the_rest_of_the_epoch():
    loader = build_train_loader(train_set(), batch_size=4, workers=0, seed=0)
    whole = epoch_of(loader, 2)
    rest = epoch_of(build_train_loader(train_set(), batch_size=4, workers=0, seed=0), 2, start_batch=3)
    assert len(rest) == len(whole) - 3
    assert_equal(rest, whole[3:])
    assert epoch_of(loader, 2, start_batch=len(whole)) == []


def test_ranks_share_an_epoch_without_overlap():
    loaders = [
        build_train_loader(train_set(), batch_size=3, workers=0, seed=0, rank=rank, world_size=2) for rank in (0, 1)
    ]
    shares = [rows_of(epoch_of(loader, 0)) for loader in loaders]
    assert [len(share) for share in shares] == [9, 9]
    assert len(set(shares[0] + shares[1])) == 18
    # Together the ranks' batches are those of one process with batches twice as large.
    together = rows_of(epoch_of(build_train_loader(train_set(), batch_size=6, workers=0, seed=0), 0))
    assert sorted(shares[0][:3] + shares[1][:3]) == sorted(together[:6])


def test_every_rank_has_rows_only_if_a_global_batch_is_full():
    assert len(EpochBatches(8, 4, seed=0, rank=0, world_size=2)) == 1
    with pytest.raises(ValueError, match=r"7 training pairs do not fill one batch of 4 on 2 processes"):
        EpochBatches(7, 4, seed=0, rank=0, world_size=2)


def test_bad_image_reaches_the_caller():
    loader = build_train_loader(train_set(bad=9), batch_size=4, workers=0, seed=3)
    with pytest.raises(BadImage) as caught:
        epoch_of(loader, 0)
    assert str(caught.value) == "imgs/9.jpg: cannot be read"


def eval_sets():
    numbers = [row for row in range(ROWS) if row != 4]
    gallery = GallerySet(Numbered(), numbers, [row + 100 for row in numbers], [f"{row}.jpg" for row in numbers])
    return gallery, CaptionSet(captions(), range(ROWS), [str(row) for row in range(ROWS)])


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_complete_and_in_order(workers):
    gallery, texts = eval_sets()
    loaders = build_eval_loaders(gallery, texts, batch_size=4, workers=workers)
    images = list(loaders.gallery)
    assert isinstance(images[0], ImageBatch)
    expected = [row for row in range(ROWS) if row != 4]
    assert torch.cat([batch.image[:, 0, 0, 0] for batch in images]).tolist() == [2 * row for row in expected]
    assert_equal(torch.cat([batch.person_id for batch in images]), gallery.person_id)
    queries = list(loaders.captions)
    assert isinstance(queries[0], CaptionBatch)
    assert torch.cat([batch.text.input_ids[:, 0] for batch in queries]).tolist() == list(range(1, ROWS + 1))
    assert_equal(torch.cat([batch.person_id for batch in queries]), texts.person_id)


def cached_set(folder):
    np.random.default_rng(0).integers(0, 256, (ROWS, 3, 2, 2), dtype=np.uint8).tofile(folder / "train.u8")
    numbers = np.arange(ROWS)
    rows = TrainRows(image=numbers, caption=numbers, person=numbers // 4)
    images = CachedImages(folder / "train.u8", ROWS, (2, 2))
    return TrainSet(images, captions(), rows, weak_positive_probability=0.5, seed=1, on_bad_image="error")


def test_a_thread_makes_the_same_batches_of_cached_images(tmp_path):
    threads = set(threading.enumerate())  # other tests may leave some
    alone = build_train_loader(cached_set(tmp_path), batch_size=4, workers=0, seed=0)
    ahead = build_train_loader(cached_set(tmp_path), batch_size=4, workers=2, seed=0)
    assert isinstance(ahead.batches, Ahead)
    for epoch in (0, 1):
        assert_equal(epoch_of(ahead, epoch, start_batch=1), epoch_of(alone, epoch, start_batch=1))
    ahead.sampler.set_position(2)
    next(iter(ahead.batches))  # an epoch left early ends its thread
    assert_equal(epoch_of(ahead, 2), epoch_of(alone, 2))
    assert set(threading.enumerate()) <= threads


def test_a_failing_batch_reaches_the_caller_of_a_thread(tmp_path):
    data = cached_set(tmp_path)
    loader = build_train_loader(data, batch_size=4, workers=2, seed=0)
    (tmp_path / "train.u8").unlink()
    with pytest.raises(FileNotFoundError):
        epoch_of(loader, 0)
