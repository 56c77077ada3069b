"""The device's part of a step as CUDA graphs, one for each set of shapes: a batch's `dataset.texts.Bucket`.

With several processes a step is four graphs: the processes gather the momentum embeddings, count words and average the
gradients between them (`training.step.device_parts`).

What changes between steps lies on the device: alpha and the hardness of negatives, the learning rates, the optimiser's
step count, the temperature, the queue's pointer, the state of the random generator.
"""

import logging

import torch
from torch import Tensor, nn

from dataset.batches import TrainBatch
from losses.objective import Curriculum
from training.optimizer import keep_rates_on
from training.state import TrainState
from training.step import DeviceStep, device_parts, device_step
from utils.config import Config
from utils.cuda_graphs import Graphs, Recorder
from utils.distributed import Exchanging, Process
from utils.precision import best_precision

logger = logging.getLogger(__name__)


def obstacle(config: Config, process: Process) -> str | None:
    """Why the steps of a run cannot be captured; None if they can."""
    precision = config.train.precision
    if process.device.type != "cuda":
        return "it needs a CUDA GPU"
    if config.train.sharding == "fsdp":
        return "sharded parameters are gathered and freed in the middle of a step"
    if (best_precision("cuda") if precision == "auto" else precision) == "fp16":
        return "the host decides after each step in fp16 whether it counts"
    if config.debug.detect_anomaly or config.debug.deterministic:
        return "a debug switch is on"
    return None


def takes_graphs(config: Config, process: Process) -> bool:
    return config.train.cuda_graph is not False and obstacle(config, process) is None


def device_step_of(config: Config, process: Process, optimizer: torch.optim.Optimizer) -> DeviceStep:
    """How the steps of a run are to run, as train.cuda_graph asks. Says once why they are not captured."""
    if takes_graphs(config, process):
        keep_rates_on(process.device, optimizer)
        return GraphedStep()
    if config.train.cuda_graph is True or (config.train.cuda_graph == "auto" and process.device.type == "cuda"):
        logger.info("steps are not captured as CUDA graphs: %s", obstacle(config, process))
    return device_step


class GraphedStep:
    """Does what `training.step.device_step` does. record: as of `utils.cuda_graphs.Graphs`.

    Logs after each epoch but the last how many of its steps were replayed.
    """

    def __init__(self, record: Recorder | None = None) -> None:
        self.graphs = Graphs("a step", record)
        self._epoch: int | None = None  # the one in which these are counted
        self._steps = self._replays = 0

    def __call__(
        self, state: TrainState, online: nn.Module, batch: TrainBatch, now: Curriculum, config: Config
    ) -> dict[str, Tensor]:
        """Arguments and result as of `device_step`. The next call overwrites the losses."""

        def parts(batch: TrainBatch, now: Curriculum) -> Exchanging[dict[str, Tensor]]:
            return device_parts(state, online, batch, now, config)

        self._count(state.epoch)
        # in float64, as a number of Python is: the losses are then those of an eager step to the last bit
        there = (torch.full((), float(value), dtype=torch.float64, device=batch.person_id.device) for value in now)
        return self.graphs.in_parts(parts, batch, Curriculum(*there))

    def _count(self, epoch: int) -> None:
        if epoch != self._epoch:
            if self._steps:
                share = (self.graphs.replays - self._replays) / self._steps
                logger.info("CUDA graphs replayed %.0f %% of the last epoch's steps", 100 * share)
            self._epoch, self._steps, self._replays = epoch, 0, self.graphs.replays
        self._steps += 1
