"""What a run works with, and its folder, log, checkpoints and signals while it is open."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, schedule

from dataset.loaders import EvalLoaders, TrainLoader
from training.checkpoint import CheckpointWriter
from training.run_folder import MetricsLog
from training.state import TrainState
from training.step import DeviceStep
from utils.config import Config
from utils.distributed import Process
from utils.signals import A_SIGNAL, StopAsked, StopSignals

logger = logging.getLogger(__name__)

PROFILED_STEPS = 3


@dataclass
class Run:
    """What a run works with; what lies in its folder, and signals, while it is open: `with run.open(folder, state):`"""

    config: Config
    process: Process
    online: nn.Module  # `training.objectives.Objectives`, in DDP where several processes run steps eagerly
    device_step: DeviceStep  # `training.step.device_step`, or the same as CUDA graphs
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
