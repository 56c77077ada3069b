"""The processes of a run. Under torchrun: one per GPU (nccl) or several on the CPU (gloo); else one plain process."""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import UserError

T = TypeVar("T")

# A computation in parts, with what the processes exchange between them: in place, in tensors that the parts around it
# hold. So each part by itself can be a CUDA graph, and a graph that is replayed finds what was exchanged.
Exchanging: TypeAlias = Generator[Callable[[], object], None, T]

# One process may read annotations or build a cache while the others wait for it.
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Process:
    rank: int  # among all processes, 0 .. world_size - 1
    world_size: int
    local_rank: int  # among the processes of this machine; also the number of its GPU
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and logs."""
        return self.rank == 0


def start() -> Process:
    """Join the process group that torchrun's variables describe (WORLD_SIZE, RANK, ...), if it has several processes.

    Raises: UserError if a variable is missing, or if there are more processes than visible GPUs.
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
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",  # tensors on the CPU are exchanged without stopping a GPU
            timeout=_TIMEOUT,
            store=_store_of_attempt(world_size),
            rank=rank,
            world_size=world_size,
            device_id=device if on_gpu else None,
        )
    return Process(rank, world_size, local_rank, device)


def _store_of_attempt(world_size: int) -> dist.Store | None:
    """Return the store through which the processes find each other; None = the one that the variables name.

    On one machine, torchrun keeps one store over its restarts (pytorch/pytorch#135712). Without a prefix of its own, an
    attempt would find the addresses of processes that died in the previous one. On several machines the attempts are
    counted differently; there, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment gives each its own store.
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


def finish(parts: Exchanging[T]) -> T:
    """Run all parts of a computation and what the processes exchange between them."""
    while True:
        try:
            exchange = next(parts)
        except StopIteration as end:
            return end.value
        exchange()


def gathered(*tensors: Tensor) -> Exchanging[tuple[Tensor, ...]]:
    """Concatenate each tensor of all processes in the order of their ranks: (B, ...) -> (world_size * B, ...).

    Every process must call it with the same shapes, on its own device. No gradient flows back. A single process gets
    its input back.
    """
    if not dist.is_initialized():
        return tensors
    number = dist.get_world_size()
    own = [tensor.detach().contiguous() for tensor in tensors]
    of_all = tuple(tensor.new_empty((number * tensor.shape[0], *tensor.shape[1:])) for tensor in own)

    def exchange() -> None:
        for tensor, whole in zip(own, of_all, strict=True):
            dist.all_gather(list(whole.chunk(number)), tensor)

    yield exchange
    return of_all


def averaged(tensor: Tensor) -> Exchanging[Tensor]:
    """Elementwise mean over all processes, in place, of a tensor without gradient."""
    if dist.is_initialized():
        tensor.div_(dist.get_world_size())
        yield lambda: dist.all_reduce(tensor)
    return tensor


def maximum(tensor: Tensor) -> Tensor:
    """Elementwise maximum over all processes, same shape and device. A single process gets its input back."""
    if not dist.is_initialized():
        return tensor
    shared = tensor.clone()
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return shared


def mean(tensor: Tensor) -> Tensor:
    """Elementwise mean over all processes, same shape, without gradient. A single process gets its input back."""
    return finish(averaged(tensor.detach().clone()))


def any_process(flag: bool) -> bool:
    """Whether the flag is set in at least one process."""
    return bool(maximum(torch.tensor(int(flag))))


def gather_objects(value: Any) -> list[Any]:
    """Gather the values of all processes in the order of their ranks. The values must be picklable."""
    if not dist.is_initialized():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


@contextmanager
def main_first(process: Process) -> Iterator[None]:
    """Run a block in the main process first and then in the others, so that they find the files it made."""
    if not process.is_main:
        barrier()
    yield
    if process.is_main:
        barrier()


def barrier() -> None:
    """Wait until every process has arrived here."""
    if dist.is_initialized():
        dist.barrier()


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
