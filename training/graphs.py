"""The device's part of a step as CUDA graphs: one launch for thousands of kernels.

A graph replays the same kernels on the same memory. So there is one graph for each set of shapes (a batch's `Bucket`),
its batch lies in tensors of its own, and everything that changes between steps lies on the device: alpha, the learning
rates, the optimiser's step count, the temperature, the queue's pointer, the state of the random generator. The first
steps of a set of shapes run eagerly; they also allocate the optimiser's state and compile kernels. All graphs share one
pool of memory, since only one runs at a time.

Source: PyTorch, "CUDA Graphs", whole-network capture.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dataset.batches import TrainBatch
from training.optimizer import keep_rates_on
from training.state import TrainState
from training.step import DeviceStep, device_step
from utils.config import Config
from utils.distributed import Process
from utils.precision import best_precision

logger = logging.getLogger(__name__)

WARM_UP_STEPS = 3  # eager steps of a set of shapes before its graph is captured
MOST_GRAPHS = 32  # further sets of shapes run eagerly: each graph takes some ten MB, and its capture a step's time

Losses = dict[str, Tensor]
Recorder = Callable[[Callable[[], Losses]], tuple[Callable[[], None], Losses]]


class Recording(NamedTuple):
    """A captured step."""

    batch: TrainBatch  # what it reads
    alpha: Tensor  # ()
    replay: Callable[[], None]
    losses: Losses  # what it writes


def obstacle(config: Config, process: Process) -> str | None:
    """Why the steps of a run cannot be captured; None if they can."""
    precision = config.train.precision
    if process.device.type != "cuda":
        return "it needs a CUDA GPU"
    if process.world_size > 1:
        return "several processes exchange embeddings and gradients in the middle of a step"
    if (best_precision("cuda") if precision == "auto" else precision) == "fp16":
        return "the host decides after each step in fp16 whether it counts"
    if config.debug.detect_anomaly or config.debug.deterministic:
        return "a debug switch is on"
    return None


def device_step_of(config: Config, process: Process, optimizer: torch.optim.Optimizer) -> DeviceStep:
    """How the steps of a run are to run, as train.cuda_graph asks. Says once why they are not captured."""
    if config.train.cuda_graph is False:
        return device_step
    reason = obstacle(config, process)
    if reason is None:
        keep_rates_on(process.device, optimizer)
        return GraphedStep()
    if config.train.cuda_graph is True or process.device.type == "cuda":
        logger.info("steps are not captured as CUDA graphs: %s", reason)
    return device_step


class GraphedStep:
    """Does what `training.step.device_step` does, by replaying a graph where there is one for the batch's shapes.

    A capture that fails is reported in one line, and all further steps run eagerly.

    Args: record: captures a function and returns how to replay it, and what it returned.
    """

    def __init__(self, record: Recorder | None = None) -> None:
        self._record = record or _PoolRecorder()
        self._recordings: dict[Any, Recording] = {}
        self._eager_steps: Counter[Any] = Counter()
        self._failed = False

    def __call__(self, state: TrainState, online: nn.Module, batch: TrainBatch, alpha: float, config: Config) -> Losses:
        """Arguments and result as of `device_step`. The next call overwrites the losses."""
        key = shapes_of(batch)
        if key not in self._recordings:
            if self._runs_eagerly(key):
                self._eager_steps[key] += 1
                return device_step(state, online, batch, alpha, config)
            if not self._capture(key, state, online, batch, config):
                return device_step(state, online, batch, alpha, config)
        recording = self._recordings[key]
        for own, new in zip(tensors_of(recording.batch), tensors_of(batch), strict=True):
            own.copy_(new, non_blocking=True)
        recording.alpha.fill_(alpha)
        recording.replay()
        return recording.losses

    def _runs_eagerly(self, key: Any) -> bool:
        return self._failed or self._eager_steps[key] < WARM_UP_STEPS or len(self._recordings) >= MOST_GRAPHS

    def _capture(self, key: Any, state: TrainState, online: nn.Module, batch: TrainBatch, config: Config) -> bool:
        own = copied(batch)
        # in float64, as a number of Python is: the losses of a graph are then those of an eager step to the last bit
        alpha = torch.zeros((), dtype=torch.float64, device=batch.person_id.device)
        try:
            replay, losses = self._record(lambda: device_step(state, online, own, alpha, config))
        except Exception as error:  # whatever a kernel or a library cannot do while it is captured
            self._failed = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            logger.warning("a step cannot be captured as a CUDA graph (%s): steps run eagerly", reason)
            return False
        self._recordings[key] = Recording(own, alpha, replay, losses)
        return True


class _PoolRecorder:
    """Captures on the GPU; all graphs take their memory from one pool."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Losses]) -> tuple[Callable[[], None], Losses]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            losses = function()
        return graph.replay, losses


def shapes_of(batch: Any) -> Any:
    """What decides which kernels a step runs: shapes of the tensors of a named tuple, and its numbers."""
    if isinstance(batch, Tensor):
        return tuple(batch.shape)
    return tuple(map(shapes_of, batch)) if isinstance(batch, tuple) else batch


def tensors_of(batch: Any) -> list[Tensor]:
    """The tensors of a named tuple, however nested."""
    if isinstance(batch, Tensor):
        return [batch]
    return [tensor for field in batch for tensor in tensors_of(field)] if isinstance(batch, tuple) else []


def copied(batch: Any) -> Any:
    """The same named tuple with tensors of its own."""
    if isinstance(batch, Tensor):
        return batch.clone()
    return type(batch)(*map(copied, batch)) if isinstance(batch, tuple) else batch
