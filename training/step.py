"""One optimiser step."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dataset.batches import TrainBatch
from losses.objective import Curriculum, Embeddings, Lesson, Objective
from training.parallel import average_gradients, averaging, mixed_parameters, unwrapped
from training.state import TrainState
from utils.config import Config
from utils.distributed import Exchanging, averaged, finish, gathered
from utils.precision import autocast

T = TypeVar("T")

TINY = torch.finfo(torch.float32).tiny


class DeviceStep(Protocol):
    """`device_step`, or the same as a CUDA graph."""

    def __call__(
        self, state: TrainState, online: nn.Module, batch: TrainBatch, now: Curriculum, config: Config
    ) -> dict[str, Tensor]: ...


def train_step(
    state: TrainState,
    online: nn.Module,
    batch: TrainBatch,
    now: Curriculum,
    config: Config,
    run: DeviceStep | None = None,
) -> dict[str, Tensor]:
    """One optimiser step, over train.accumulate parts of the batch one after the other.

    Args:
        online: `training.objectives.Objectives`, or DDP around it.
        now: where the step stands in the schedules of alpha and of the negatives.
        run: how the device's part is run; None = `device_step`, eagerly.
    Returns: detached scalar losses by key, with their weighted sum as "total". The next step may overwrite them.
    Averaged over the processes they are those of the whole batch (`shares_of`).
    """
    losses = (run or device_step)(state, online, batch, now, config)
    state.schedule.step()
    state.step += 1
    state.batch += 1
    return losses


def device_step(
    state: TrainState, online: nn.Module, batch: TrainBatch, now: Curriculum, config: Config
) -> dict[str, Tensor]:
    """All of a step that runs on the device and never asks it for a number: losses, gradients, updates, queue."""
    return finish(device_parts(state, online, batch, now, config))


def device_parts(
    state: TrainState, online: nn.Module, batch: TrainBatch, now: Curriculum, config: Config
) -> Exchanging[dict[str, Tensor]]:
    """`device_step`, cut where processes exchange embeddings, numbers of words, and gradients that DDP does not."""
    objectives, device, precision = unwrapped(online), batch.person_id.device, config.train.precision
    with autocast(device, precision):
        lessons = [objectives.prepare(part, state.momentum_encoder) for part in split(batch, config.train.accumulate)]
    candidates = yield from gather_embeddings([lesson.momentum for lesson in lessons])
    shares = yield from shares_of(lessons, objectives.objectives)
    state.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for lesson, share in zip(lessons, shares, strict=True):
        with averaging(online, now=lesson is lessons[-1]):
            with autocast(device, precision):
                losses = online(lesson, candidates, state.queue, now)
            losses = {key: share[key] * loss if key in share else loss for key, loss in losses.items()}
            losses["total"] = objectives.total(losses)
            state.scaler.scale(losses["total"]).backward()
        parts = {key: loss.detach() for key, loss in losses.items()}
        sums = {key: sums[key] + part for key, part in parts.items()} if sums else parts
    yield from average_gradients(online)
    update_weights(state, config)
    state.queue.push(candidates.image, candidates.text, candidates.person_id)
    return sums


def update_weights(state: TrainState, config: Config) -> None:
    """Clip the gradients, let the optimiser step, and let the momentum copies follow."""
    with mixed_parameters(state.model):
        if config.optimizer.clip_norm is not None:
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.model.clamp_temperature()
        state.momentum_encoder.update(state.model)


def split(batch: T, parts: int) -> list[T]:
    """Cut a named tuple of tensors (B, ...), however nested, into `parts` of B / parts rows; numbers and None stay."""
    if batch is None or isinstance(batch, int):
        return [batch] * parts
    if isinstance(batch, Tensor):
        return list(batch.chunk(parts))  # type: ignore[arg-type, return-value]
    fields = zip(*(split(field, parts) for field in batch), strict=True)  # type: ignore[attr-defined]
    return [type(batch)(*field) for field in fields]


def gather_embeddings(parts: Sequence[Embeddings]) -> Exchanging[Embeddings]:
    """Momentum embeddings of the whole batch: of all parts, and of all processes."""
    return Embeddings(*(yield from gathered(*(torch.cat(fields) for fields in zip(*parts, strict=True)))))


def shares_of(
    lessons: Sequence[Lesson], objectives: Sequence[Objective]
) -> Exchanging[list[dict[str, float | Tensor]]]:
    """The factors of each part's losses; a loss without one has the factor 1.

    Summed over the parts and averaged over the processes, the losses are then

    - for mlm and mrtd, the mean over the words of the whole batch of all processes. A part has its own number of words.
    - for itc, prd and mae, the mean over the pairs. Each part has as many.
    - for itm and attribute, the mean of the parts' means. itm averages over the positives and the negatives that could
      be drawn, attribute over those of them that have chunks, and their number differs from part to part. Since a part
      draws its negatives from its own pairs, no weights would make these two the losses of the whole batch.
    """
    alone = len(lessons) == 1
    if alone and not dist.is_initialized():
        return [{}]
    shares: list[dict[str, float | Tensor]] = [
        {} if alone else dict.fromkeys((each.key for each in objectives), 1 / len(lessons)) for _ in lessons
    ]
    counted: dict[str, Tensor] = {}
    for each in objectives:
        numbers = [each.num_averaged(lesson.prepared[each.key]) for lesson in lessons]
        of_parts = [number for number in numbers if number is not None]
        if of_parts:
            counted[each.key] = torch.stack(of_parts).float()  # (parts,)
    if counted:
        sums = yield from averaged(torch.stack([words.sum() for words in counted.values()]))
        for (key, words), of_a_process in zip(counted.items(), sums.clamp(min=TINY), strict=True):
            for share, part in zip(shares, words / of_a_process, strict=True):
                share[key] = part
    return shares
