"""Memory of a GPU, as torch's allocator describes it."""

import pytest
import torch

from utils.memory import available_bytes, pool_bytes

GPU, OTHER = torch.device("cuda", 0), torch.device("cuda", 1)


def segment(device, pool, total, active):
    return {"device": device, "segment_pool_id": pool, "total_size": total, "active_size": active}


@pytest.fixture(autouse=True)
def allocator(monkeypatch):
    segments = [
        segment(0, (0, 0), 100, 60),
        segment(0, (0, 0), 10, 0),
        segment(0, (0, 7), 1000, 200),  # of graphs
        segment(0, (0, 8), 500, 0),
        segment(1, (0, 0), 3, 2),
    ]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 80_000))


def test_idle_blocks_of_the_ordinary_pool_are_available():
    assert available_bytes(GPU) == 10_000 + 40 + 10
    assert available_bytes(OTHER) == available_bytes(torch.device("cuda")) == 10_000 + 1


def test_a_pool_counts_with_its_idle_blocks():
    assert pool_bytes(GPU, (0, 7)) == 1000
    assert pool_bytes(OTHER, (0, 7)) == 0


@pytest.mark.gpu
def test_the_allocator_of_a_gpu_says_what_is_read_here(monkeypatch):
    monkeypatch.undo()
    device = torch.device("cuda")
    graph, pool, x = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.ones(2**22, device=device)
    with torch.cuda.graph(graph, pool=pool):
        (2 * x).sum()
    assert pool_bytes(device, pool) >= x.numel() * 4
    before = available_bytes(device)
    del x
    assert available_bytes(device) - before == 2**24
