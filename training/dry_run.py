"""train.py --check: what a run will take, told from a few steps and one evaluation batch."""

import resource
import time
from collections.abc import Iterator
from itertools import islice, repeat

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from dataset.batches import TrainBatch, to_device
from dataset.loaders import EvalLoaders
from evaluation.retrieval import Scores
from losses.objective import Curriculum
from training.graphs import GraphedStep
from training.loop import evaluate, hours
from training.parallel import whole_layers
from training.progress import LossReader
from training.run import Run
from training.state import MODULES, TrainState
from training.step import train_step
from utils.cuda_graphs import WARM_UP_CALLS

CHECKED_STEPS = 2  # where steps run eagerly


def check(state: TrainState, run: Run) -> str:
    """A few steps and one evaluation batch. Returns lines that say what the whole run needs. Nothing is written."""
    steps, evaluations = _work_left(state, run)
    run.online.train()
    run.loader.sampler.set_position(state.epoch, state.batch)
    reader, since = LossReader({}), time.perf_counter()
    seconds = 0.0  # of the last step, with what it took to get its batch; those before warm up
    for batch in _checked_batches(run):
        batch = to_device(batch, run.process.device)
        losses = train_step(state, run.online, batch, Curriculum(alpha=0.0), run.config, run.device_step)
        reader.read(state.step, losses)
        reader.read_rest()  # waits for the GPU
        seconds, since = time.perf_counter() - since, time.perf_counter()
    with whole_layers(state.model):
        scores = evaluate(state, EvalLoaders(*map(_first_batch, run.eval_loaders)), run)
    evaluation = _evaluation_seconds(scores, run)
    samples = run.config.train.batch_size * run.process.world_size
    whole = hours(steps * seconds + evaluations * evaluation)
    return "\n".join(
        [
            f"memory      {_memory(run.process.device)}; captions longer than these take more",
            f"disk        {_disk(state, run)}",
            f"step        {seconds:.2f} s, {samples / seconds:.1f} images/s",
            f"evaluation  {hours(evaluation)}",
            f"whole run   {whole}: {steps} steps, {evaluations} evaluations",
        ]
    )


def _checked_batches(run: Run) -> Iterator[TrainBatch]:
    """Of graphs, one batch until its step is replayed, as most steps of a run are; else CHECKED_STEPS of them."""
    if isinstance(run.device_step, GraphedStep):
        return repeat(next(iter(run.loader.batches)), WARM_UP_CALLS + 2)
    return islice(run.loader.batches, CHECKED_STEPS)


def _work_left(state: TrainState, run: Run) -> tuple[int, int]:
    """Steps and evaluations from here to the end of the run."""
    epochs, limit = run.config.train.epochs - state.epoch, run.config.train.stop_after_steps
    steps = epochs * len(run.loader.sampler) - state.batch
    return max(0, steps if limit is None else min(steps, limit - state.step)), -(-epochs // run.config.eval.every)


def _first_batch(loader: DataLoader) -> DataLoader:
    """A loader of the first batch alone."""
    rows = range(min(loader.batch_size or 1, _rows(loader)))
    share = Subset(loader.dataset, rows)
    return DataLoader(share, batch_size=len(rows), collate_fn=loader.collate_fn, generator=torch.Generator())


def _rows(loader: DataLoader) -> int:
    return len(loader.dataset)  # type: ignore[arg-type]


def _evaluation_seconds(scores: Scores, run: Run) -> float:
    """Of the whole split, from the seconds that a part of it took."""
    captions, images = scores.similarity.shape
    all_images, all_captions = (_rows(loader) for loader in run.eval_loaders)
    candidates = run.config.eval.rerank_top_k
    times_more = {
        "images": all_images / images,
        "captions": all_captions / captions,
        "rerank": all_captions * min(candidates, all_images) / max(1, captions * min(candidates, images)),
    }
    return sum(seconds * times_more.get(stage, 1.0) for stage, seconds in scores.seconds.items())


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
        return f"{peak / 2**30:.1f} of {total / 2**30:.1f} GiB of each GPU"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{peak / 2**30:.1f} GiB per process"


def _disk(state: TrainState, run: Run) -> str:
    size = sum(_bytes(getattr(state, name).state_dict()) for name in MODULES) / 2**30
    kept = 1 + (run.config.train.keep_checkpoints if run.config.train.checkpoint_every_steps else 0)
    return f"{kept * size:.2f} GiB: up to {kept} checkpoints of {size:.2f} GiB each, and best.pth"


def _bytes(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, value.values())) if isinstance(value, dict) else 0
