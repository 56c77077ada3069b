"""One plain process without a launcher, and two gloo processes that gather."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from utils import distributed
from utils.errors import UserError

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def no_launcher(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_launcher")
def test_one_process_needs_no_launcher():
    process = distributed.start()
    assert (process.rank, process.world_size, process.local_rank, process.is_main) == (0, 1, 0, True)
    assert process.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    tensor = torch.ones(2, requires_grad=True)
    assert distributed.finish(distributed.gathered(tensor)) == (tensor,)
    distributed.barrier()
    distributed.shutdown()


@pytest.mark.usefixtures("no_launcher")
def test_half_a_launcher_is_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set; start with torchrun"):
        distributed.start()


@pytest.mark.usefixtures("no_launcher")
def test_more_processes_than_gpus_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in zip(VARIABLES, ("2", "1", "1", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="start with --nproc_per_node=1"):
        distributed.start()


def gather_in_one_of_two(rank: int, port: int, folder: Path) -> None:
    values = ("2", str(rank), str(rank), "localhost", str(port))
    os.environ.update(zip(VARIABLES, values, strict=True), CUDA_VISIBLE_DEVICES="")
    process = distributed.start()
    rows = torch.full((3, 2), float(rank), requires_grad=True)
    ids = torch.arange(6).reshape(3, 2).T[:, :2] + 10 * rank  # not contiguous, int64
    embeddings, ids = distributed.finish(distributed.gathered(rows * 2, ids))
    distributed.barrier()
    distributed.shutdown()
    torch.save((process.rank, process.is_main, embeddings, ids), folder / f"{rank}.pt")


def test_two_processes_gather_in_the_order_of_ranks(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(gather_in_one_of_two, args=(port, tmp_path), nprocs=2)
    for rank in (0, 1):
        saved_rank, is_main, embeddings, ids = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert (saved_rank, is_main) == (rank, rank == 0)
        assert embeddings.tolist() == [[0.0, 0.0]] * 3 + [[2.0, 2.0]] * 3
        assert not embeddings.requires_grad
        assert ids.tolist() == [[0, 2], [1, 3], [10, 12], [11, 13]]
