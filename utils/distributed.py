"""Processes of one run. Under torchrun: one per GPU (nccl), or several on the CPU (gloo); else one plain process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import UserError

# One process may read annotations or decode a cache while the others wait for it
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Process:
    rank: int  # among all processes, 0 .. world_size - 1
    world_size: int
    local_rank: int  # among those of this machine: the number of its GPU
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and logs."""
        return self.rank == 0


def start() -> Process:
    """Join the process group that torchrun's variables describe (WORLD_SIZE, RANK, ...), if there is more than one.

    Raises: UserError where a variable is missing, or where there are more processes than visible GPUs.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if world_size > 1 and missing:
        raise UserError(f"WORLD_SIZE is {world_size} but {', '.join(missing)} is not set; start with torchrun")
    rank, local_rank = (int(os.environ[name]) if world_size > 1 else 0 for name in ("RANK", "LOCAL_RANK"))
    device = _device(local_rank)
    if world_size > 1:
        on_gpu = device.type == "cuda"
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",  # what lies on the CPU is exchanged without stopping a GPU
            timeout=_TIMEOUT,
            store=_store_of_attempt(world_size),
            rank=rank,
            world_size=world_size,
            device_id=device if on_gpu else None,
        )
    return Process(rank, world_size, local_rank, device)


def _store_of_attempt(world_size: int) -> dist.Store | None:
    """Where the processes find each other; None = at the place that the variables name.

    torchrun on one machine keeps one store over its restarts (pytorch/pytorch#135712): without names of its own an
    attempt would find the addresses of processes that died in the one before. On several machines the attempts are not
    counted alike; there TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment gives each a store of its own.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or os.environ.get("LOCAL_WORLD_SIZE") != str(world_size):
        return None
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=_TIMEOUT)
    return dist.PrefixStore(f"attempt-{attempt}", store)


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        visible = torch.cuda.device_count()
        raise UserError(f"process {local_rank} has no GPU, {visible} visible; start with --nproc_per_node={visible}")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def gather(tensor: Tensor) -> Tensor:
    """Concatenate the tensors of all processes in the order of their ranks: (B, ...) -> (world_size * B, ...).

    Every process must call it with the same shape, on its own device. No gradient flows back. One process: the input.
    """
    if not dist.is_initialized():
        return tensor
    tensor = tensor.detach().contiguous()
    gathered = tensor.new_empty((dist.get_world_size() * tensor.shape[0], *tensor.shape[1:]))
    dist.all_gather(list(gathered.chunk(dist.get_world_size())), tensor)
    return gathered


def maximum(tensor: Tensor) -> Tensor:
    """The largest value at each place over all processes; same shape and device. One process: the input."""
    if not dist.is_initialized():
        return tensor
    shared = tensor.clone()
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return shared


def mean(tensor: Tensor) -> Tensor:
    """The mean at each place over all processes; same shape, on its own device, no gradient. One process: the input."""
    if not dist.is_initialized():
        return tensor
    shared = tensor.detach().clone()
    dist.all_reduce(shared)
    return shared / dist.get_world_size()


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(maximum(torch.tensor(int(flag))))


def gather_objects(value: Any) -> list[Any]:
    """The values of all processes in the order of their ranks; anything that pickles."""
    if not dist.is_initialized():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


@contextmanager
def main_first(process: Process) -> Iterator[None]:
    """Run a block in the main process, then in the others, so that they find the files it made."""
    if not process.is_main:
        barrier()
    yield
    if process.is_main:
        barrier()


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
