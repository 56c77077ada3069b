"""How much memory is available, in bytes, and cutting work to fit into it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_CGROUP = Path("/sys/fs/cgroup")  # version 2: what a container or a batch job may use
_MEMINFO = Path("/proc/meminfo")
_ORDINARY_POOL = (0, 0)  # torch's id of the pool that all work outside CUDA graphs shares


def available_bytes(device: torch.device) -> int:
    """Free memory of a GPU, including unused blocks of torch's cache; for a CPU, this process's share of the machine's.

    Unused blocks in the pools of CUDA graphs do not count, as nothing but a graph can use them.

    On a CPU, file caches count as free and the limit of a container applies. The processes that torchrun started on the
    machine get equal shares.
    """
    if device.type == "cuda":
        unused = sum(segment["total_size"] - segment["active_size"] for segment in _segments(device, _ORDINARY_POOL))
        return torch.cuda.mem_get_info(device)[0] + unused
    return min(_free_in_machine(), _free_in_container()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def pool_bytes(device: torch.device, pool: tuple[int, int]) -> int:
    """Memory of a GPU that a pool holds (`torch.cuda.graph_pool_handle`), used or not."""
    return sum(segment["total_size"] for segment in _segments(device, pool))


def _segments(device: torch.device, pool: tuple[int, int]) -> list[dict[str, Any]]:
    """What torch has reserved on a GPU for a pool, as `torch.cuda.memory_snapshot` describes it; sizes in bytes."""
    number = torch.cuda.current_device() if device.index is None else device.index
    of_all = torch.cuda.memory_snapshot()
    return [each for each in of_all if each["device"] == number and tuple(each["segment_pool_id"]) == pool]


def cut(costs: Tensor, budget: int) -> Iterator[slice]:
    """Yield consecutive slices of items (n,) whose costs sum to at most budget. A costlier item gets its own slice."""
    total, begin = costs.cumsum(0), 0
    while begin < len(costs):
        limit = total[begin] - costs[begin] + budget
        end = max(begin + 1, int(torch.searchsorted(total, limit, right=True)))
        yield slice(begin, end)
        begin = end


def _free_in_machine() -> int:
    try:
        lines = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: half of the installed memory
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_in_container() -> int:
    """Free memory below the limit of the container, if it has one."""
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        if limit == "max":
            return sys.maxsize
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - int(used) + int(statistics["inactive_file"]))
    except (OSError, KeyError):
        return sys.maxsize
