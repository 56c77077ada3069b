"""A gallery scored by two processes (gloo), each with its share of images and captions, against one process."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch.utils.data import DataLoader, Dataset

from dataset.batches import CaptionBatch, ImageBatch, collate
from dataset.texts import Texts
from evaluation import retrieval
from evaluation.retrieval import Scores, score_gallery
from tests.helpers.tiny_models import tiny_model
from utils import distributed
from utils.distributed import Process

SIZES = {"as many as not": (9, 14), "fewer than processes": (1, 1)}  # images, captions
TOP_K = 4


class Images(Dataset[ImageBatch]):
    """Of noise; counts how many were read in this process."""

    def __init__(self, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        self.images = torch.randint(0, 256, (number, 3, 32, 32), generator=generator, dtype=torch.uint8)
        self.num_read = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> ImageBatch:
        self.num_read += 1
        return ImageBatch(self.images[row], torch.tensor(row % 5))


class Captions(Dataset[CaptionBatch]):
    """Of random words and of different lengths."""

    def __init__(self, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        self.texts = [torch.randint(5, 30, (1 + 5 * row % 17,), generator=generator) for row in range(number)]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> CaptionBatch:
        ids = self.texts[row]
        return CaptionBatch(Texts(ids, torch.ones_like(ids), torch.zeros_like(ids)), torch.tensor(row % 5))


def score(process: Process, num_images: int, num_captions: int) -> tuple[Scores, int]:
    """The scores, and how many images this process has read."""
    images = Images(num_images)
    loaders = (DataLoader(rows, batch_size=2, collate_fn=collate) for rows in (images, Captions(num_captions)))
    scores = score_gallery(tiny_model("vim"), *loaders, process=process, precision="fp32", rerank_top_k=TOP_K)
    return scores._replace(seconds={}), images.num_read


def score_in_one_of_two(rank: int, port: int, folder: Path) -> None:
    variables = {"WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()}, CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    process = distributed.start()
    own_pairs: list[int] = []

    def recorded(scores: torch.Tensor) -> torch.Tensor:
        own_pairs.append(int((scores > -torch.inf).sum()))
        return distributed.maximum(scores)

    retrieval.maximum = recorded
    results = {name: [*score(process, *size), own_pairs.pop()] for name, size in SIZES.items()}
    distributed.shutdown()
    torch.save({name: (tuple(scores[:4]), *counts) for name, (scores, *counts) in results.items()}, folder / f"{rank}")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("scores")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(score_in_one_of_two, args=(port, folder), nprocs=2)
    return [torch.load(folder / f"{rank}", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", SIZES)
def test_both_processes_have_the_scores_of_one(of_two, name):
    whole, num_read = score(Process(0, 1, 0, torch.device("cpu")), *SIZES[name])
    assert num_read == SIZES[name][0]
    for scores, _, _ in (result[name] for result in of_two):
        for ours, expected in zip(scores, whole[:4], strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_no_image_is_encoded_and_no_pair_scored_twice(of_two, name):
    num_images, num_captions = SIZES[name]
    read, pairs = (torch.tensor([result[name][field] for result in of_two]) for field in (1, 2))
    assert read.sum() == num_images
    assert read.max() <= (num_images + 1) // 2
    assert pairs.sum() == num_captions * min(TOP_K, num_images)
