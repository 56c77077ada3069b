"""Runs of train.py whose random draws depend on the samples alone, with the gradients of their first step.

Used by the tests inside their process, and as a program under torchrun:
python -m torch.distributed.run ... -m tests.helpers.gradients FOLDER '{"name": ["--config", ...], ...}'
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import losses.mae
import losses.masking
import losses.mrtd
import losses.negatives
import train
import training.graphs
import utils.cuda_graphs
from losses.mae import KeptPatches, kept_patches
from losses.masking import MaskDraws
from tests.helpers.graphs import Recorder
from training.graphs import GraphedStep
from training.objectives import Objectives
from training.optimizer import keep_rates_on
from training.state import MODULES
from training.step import device_step
from utils.distributed import shutdown, start

STOPPED = "stopped"  # in the run of this name, the second process alone gets SIGTERM
EAGER = "eager"  # in the run of this name, learning rates are tensors, as they are for graphs: they round otherwise
GRAPHED = "graphed"  # in the run of this name, steps are graphs, in the second process from one step later on


@contextmanager
def draws_by_content() -> Iterator[None]:
    """The same pair gets the same masks and words whatever batch it is in; of a batch, the hardest negative."""

    def draw_mask(input_ids, *, probability, vocab_size, generator=None) -> MaskDraws:
        column = torch.arange(input_ids.shape[1])
        noise = torch.frac((input_ids * 12.9898 + column * 78.233).sin() * 43758.5453).abs()
        words = (input_ids * 7 + column) % vocab_size
        return MaskDraws(noise < 0.4, noise < 0.3, noise > 0.35, words)

    def draw_kept_patches(batch, num_patches, mask_ratio, *, device=None, generator=None) -> KeptPatches:
        return kept_patches((torch.arange(num_patches) * 7 % 5).float().expand(batch, -1), mask_ratio)

    with pytest.MonkeyPatch.context() as patch:
        for module in (losses.negatives, losses.mrtd):
            patch.setattr(module, "draw_index", lambda weights, generator: weights.argmax(dim=-1))
        patch.setattr(losses.masking, "draw_mask", draw_mask)
        patch.setattr(losses.mae, "draw_kept_patches", draw_kept_patches)
        yield


def losses_and_gradients(arguments: list[str]) -> dict[str, Any]:
    """Train; "losses" of every step of this process, "gradients" of the first step by parameter."""
    steps: list[dict[str, float]] = []
    gradients: dict[str, torch.Tensor] = {}
    own_step = train.train_step

    def recorded(state, *args):
        values = own_step(state, *args)
        if not steps:
            gradients.update({name: whole(parameter.grad) for name, parameter in state.model.named_parameters()})
        steps.append({key: loss.item() for key, loss in values.items()})
        return values

    with pytest.MonkeyPatch.context() as patch, draws_by_content():
        patch.setattr(train, "train_step", recorded)
        train.main(arguments)
    return {"losses": steps, "gradients": gradients}


@contextmanager
def stopped_by_a_signal() -> Iterator[None]:
    """This process gets SIGTERM in the middle of the first step inside."""
    own = Objectives.forward

    def signalled(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return own(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objectives, "forward", signalled)
        yield


@contextmanager
def by_graphs(warm_up_calls: int) -> Iterator[Recorder]:
    """Steps are recorded and replayed, by the recorder in the place of a GPU's."""
    recorder = Recorder()

    class Graphed(GraphedStep):
        def __call__(self, state, *args):
            recorder.modules = [getattr(state, name) for name in MODULES]
            return super().__call__(state, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.graphs, "obstacle", lambda *_: None)
        patch.setattr(training.graphs, "GraphedStep", lambda: Graphed(recorder))
        patch.setattr(utils.cuda_graphs, "WARM_UP_CALLS", warm_up_calls)
        yield recorder


@contextmanager
def rates_as_tensors() -> Iterator[None]:
    def eagerly(config, process, optimizer):
        keep_rates_on(process.device, optimizer)
        return device_step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "device_step_of", eagerly)
        yield


def whole(gradient: torch.Tensor | None) -> torch.Tensor | None:
    if gradient is None:
        return None
    return (gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient).clone()


def main() -> None:
    folder, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
    process = start()
    train.start, train.shutdown = lambda: process, lambda: None  # one process group for all runs
    for name, arguments in runs.items():
        with ExitStack() as inside:
            if (name, process.rank) == (STOPPED, 1):
                inside.enter_context(stopped_by_a_signal())
            if name == EAGER:
                inside.enter_context(rates_as_tensors())
            recorder = inside.enter_context(by_graphs(1 + process.rank)) if name == GRAPHED else Recorder()
            recorded = losses_and_gradients(arguments) | {"replays": recorder.replays}
        torch.save(recorded, folder / f"{name}-{process.rank}.pth")
    shutdown()


if __name__ == "__main__":
    main()
