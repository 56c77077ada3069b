"""What surrounds the steps of a run: its files, when it stops, the losses on their way to the host, what it says.

The recipe itself is train.py.
"""

import logging
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, schedule

from dataset.loaders import EvalLoaders, TrainLoader
from evaluation.metrics import Metrics
from training.checkpoint import CheckpointWriter
from training.optimizer import learning_rates
from training.run_folder import MetricsLog
from training.state import TrainState
from utils.config import Config
from utils.config_schema import LossWeights
from utils.distributed import Process, mean
from utils.log import progress
from utils.signals import A_SIGNAL, StopAsked, StopSignals

logger = logging.getLogger(__name__)

T = TypeVar("T")

PROFILED_STEPS = 3
LOSSES = tuple(LossWeights.__dataclass_fields__)


@dataclass
class Run:
    """What a run works with; what lies in its folder, and signals, while it is open: `with run.open(folder, state):`"""

    config: Config
    process: Process
    settings: Any  # models.targets.StepSettings
    online: nn.Module  # the model as training calls it
    loader: TrainLoader
    eval_loaders: EvalLoaders
    folder: Path = field(init=False)
    log: MetricsLog = field(init=False)
    checkpoints: CheckpointWriter = field(init=False)
    signals: StopSignals = field(init=False)
    profiler: profile | None = field(init=False)

    @contextmanager
    def open(self, folder: Path, state: TrainState, *, wandb: bool, profiled: bool) -> Iterator[None]:
        """Write into folder, from where the state stands, and be ready for signals."""
        is_main, keep = self.process.is_main, self.config.train.keep_checkpoints
        shown = self.config.as_dict() if wandb else None
        with ExitStack() as opened:
            self.folder = folder
            self.signals = opened.enter_context(StopSignals())  # first, as the last checkpoint is written at the end
            log = MetricsLog(folder, first_epoch=state.epoch, first_step=state.step, enabled=is_main, wandb=shown)
            self.log = opened.enter_context(log)
            self.checkpoints = opened.enter_context(CheckpointWriter(folder, keep=keep, enabled=is_main))
            self.profiler = opened.enter_context(_profiler(folder)) if profiled and is_main else None
            yield

    def must_stop(self, state: TrainState) -> bool:
        """Whether the run must not go on behind the present step. To be called by every process."""
        limit = self.config.train.stop_after_steps
        return self.signals.agreed() or (limit is not None and state.step >= limit)

    def stop_if_asked(self, state: TrainState) -> None:
        """Raises: StopAsked, saying who asks. To be called by every process."""
        if self.must_stop(state):
            raise StopAsked(A_SIGNAL if self.signals.agreed() else "train.stop_after_steps asks")

    def until_stopped(self) -> AbstractContextManager:
        """What need not be finished: a signal ends it with StopAsked, unless other processes would wait in vain."""
        return self.signals.at_once() if self.process.world_size == 1 else nullcontext()

    def profile_step(self) -> None:
        if self.profiler is not None:
            self.profiler.step()


def _profiler(folder: Path) -> profile:
    """Traces a few steps, the first ones left out, into folder/profile.json, which a browser's tracing page reads."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]

    def write(profiler: profile) -> None:
        profiler.export_chrome_trace(str(folder / "profile.json"))
        logger.info("profile of %d steps: %s", PROFILED_STEPS, folder / "profile.json")

    when = schedule(wait=1, warmup=1, active=PROFILED_STEPS, repeat=1)
    return profile(activities=activities, schedule=when, on_trace_ready=write)


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


def split(batch: T, parts: int) -> list[T]:
    """Cut a named tuple of tensors (B, ...), however nested, into `parts` of B / parts rows; None stays None."""
    if batch is None:
        return [None] * parts  # type: ignore[list-item]
    if isinstance(batch, Tensor):
        return list(batch.chunk(parts))  # type: ignore[arg-type, return-value]
    fields = zip(*(split(field, parts) for field in batch), strict=True)  # type: ignore[attr-defined]
    return [type(batch)(*field) for field in fields]


def shares_of(targets: Sequence[Any]) -> list[dict[str, Any]]:
    """By what each part's losses are multiplied. Their sum over the parts, averaged over the processes, is then

    - for mlm and mrtd, means over words, of which each part has its own number: the mean over the words of the whole
      batch of all processes;
    - for itc, prd and mae, means over pairs, of which each part has as many: the mean over its pairs;
    - for itm and attribute the mean of the parts' means. itm is a mean over the positives and the negatives that could
      be drawn, attribute over those of them that have chunks; not every part has as many. Since a part draws its
      negatives from its own pairs, no weighting would make these two the losses of the whole batch.

    Args: `models.targets.Targets` of each part.
    """
    shares: list[dict[str, Any]] = [dict.fromkeys(LOSSES, 1 / len(targets)) for _ in targets]
    for key in ("mlm", "mrtd"):
        labels = [getattr(part, f"{key}_labels") for part in targets]
        if labels[0] is not None:  # the loss is on
            words = torch.stack([(part >= 0).sum() for part in labels]).float()  # (parts,)
            of_a_process = mean(words.sum()).clamp(min=torch.finfo(torch.float32).tiny)
            for share, part in zip(shares, words / of_a_process, strict=True):
                share[key] = part
    return shares


def is_stale(state: TrainState, config: Config) -> bool:
    limit = config.train.early_stopping
    return limit is not None and state.stale >= limit


def alpha_at(step: int, steps_per_epoch: int, alpha: float, warm_up: bool) -> float:
    """Weight of the momentum copies' soft targets in a step (from 0): with warm_up it rises over the first epoch."""
    return alpha * min(1.0, step / steps_per_epoch) if warm_up else alpha


def log_step(state: TrainState, losses: Mapping[str, float], images_per_second: float, log: MetricsLog) -> None:
    values = {f"train/{key}": loss for key, loss in losses.items()}
    scalars = {**values, **learning_rates(state.optimizer), "images_per_second": images_per_second}
    log.write_scalars(scalars, state.step)
    text = "  ".join(f"{key.removeprefix('train/')} {value:.3f}" for key, value in values.items())
    logger.info("step %d  %s  %.0f images/s", state.step, text, images_per_second)


def finish_epoch(state: TrainState, metrics: Metrics | None, config: Config, log: MetricsLog) -> None:
    """Write the epoch's line and scalars, and move on to the next epoch."""
    seconds, images = state.sums.pop("seconds"), state.sums.pop("images")
    values = {f"train/{key}": total / state.batch for key, total in state.sums.items()}
    rates = learning_rates(state.optimizer)
    line = {"step": state.step, **values, **rates, "images_per_second": images / seconds}
    if metrics is not None:
        line |= {f"{config.eval.select_on}/{key}": value for key, value in metrics._asdict().items()}
        log.write_scalars({key: line[key] for key in line if key.startswith(config.eval.select_on)}, state.step)
        logger.info(
            "epoch %d  %s R@1 %.2f  R@5 %.2f  R@10 %.2f  mAP %.2f  mINP %.2f",
            state.epoch + 1,
            config.eval.select_on,
            *metrics[:5],
        )
    log.write_epoch(state.epoch, line)
    state.epoch, state.batch, state.sums = state.epoch + 1, 0, {}
    left = config.train.epochs - state.epoch
    if left:
        logger.info(
            "%d of %d epochs done, %s of training left", state.epoch, config.train.epochs, hours(left * seconds)
        )


def say_done(state: TrainState, run: Run) -> None:
    config, best = run.config, run.folder / "best.pth"
    if state.epoch < config.train.epochs:
        limit = config.train.early_stopping
        logger.info("no better R@1 in %d evaluations: ended early, as train.early_stopping asks", limit)
    logger.info("done: best R@1 on %s %.2f %%, %s", config.eval.select_on, state.best, best)


def hours(seconds: float) -> str:
    """12:34 h, or seconds where it is less than a minute."""
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if seconds >= 60 else f"{seconds:.1f} s"
