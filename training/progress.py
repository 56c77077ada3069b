"""Losses on their way to the host, and the bar that shows them."""

import math
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from utils.distributed import mean
from utils.log import progress


class LossReader:
    """Brings the losses of each step to the host: at once from the CPU, one step late from a GPU, which need not wait.

    They are averaged over the processes on the way, so that each of them sees, and stops at, the same numbers.

    sums: what they are added to, by key. `losses` holds the newest that have arrived.
    """

    def __init__(self, sums: dict[str, float]) -> None:
        self.sums = sums
        self.losses: dict[str, float] = {}
        self._waiting: deque[tuple[int, list[str], Tensor, torch.cuda.Event | None]] = deque()

    def read(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Take the losses of a step, in every process. Raises: FloatingPointError naming a step that has arrived and is
        not finite."""
        stacked = mean(torch.stack([loss.float() for loss in losses.values()]))
        arrived = None
        if stacked.is_cuda:
            stacked = stacked.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._waiting.append((step, list(losses), stacked, arrived))
        self._take(but=0 if arrived is None else 1)

    def read_rest(self) -> None:
        """Wait for those that are on their way. Raises: as read."""
        self._take(but=0)

    def add(self, **values: float) -> None:
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def _take(self, but: int) -> None:
        while len(self._waiting) > but:
            step, keys, values, arrived = self._waiting.popleft()
            if arrived is not None:
                arrived.synchronize()
            self.losses = dict(zip(keys, values.tolist(), strict=True))
            bad = ", ".join(f"{key} {loss:.4g}" for key, loss in self.losses.items() if not math.isfinite(loss))
            if bad:
                raise FloatingPointError(
                    f"step {step}: {bad}; the checkpoints written before are good, lower optimizer.lr"
                )
            self.add(**self.losses)


class TrainingBar(progress[int]):
    """Progress of an epoch; below the bar the step, the GPU's memory and the losses, as many as fit."""

    step = 0
    losses: Mapping[str, float] = MappingProxyType({})

    def show(self, step: int, losses: Mapping[str, float]) -> None:
        """losses: the newest there are, maybe none yet."""
        self.step, self.losses = step, losses

    def note(self, width: int) -> str:
        parts = [f"step {self.step}"]
        if torch.cuda.is_available():
            parts.append(f"GPU {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        for key, loss in sorted(self.losses.items(), key=lambda item: item[0] != "total"):
            parts.append(f"{key} {loss:.{2 if abs(loss) >= 1 else 3}f}")
        while len(parts) > 1 and len("  ".join(parts)) > width:
            parts.pop()
        return "  ".join(parts)

    def _line(self, now: float) -> str:
        total = f"  total {self.losses['total']:.3f}" if self.losses else ""
        return f"{super()._line(now)}  step {self.step}{total}"  # the log has the others, every so many steps
