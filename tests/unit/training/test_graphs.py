"""Steps as CUDA graphs, with a recorder in the place of a GPU that runs the recorded step anew at each replay.

It cannot show the capture itself: test_a_graph_gives_the_losses_of_eager_steps does, on a GPU. It shows that a replay
reads nothing but its own tensors: the batch, alpha, the learning rates and the state.
"""

import logging

import pytest
import torch
import torch.distributed as dist

from dataset.batches import collate_for_gpu, to_device
from losses.objective import Curriculum
from tests.helpers.graphs import Recorder
from tests.helpers.steps import build_learner
from training import graphs
from training.graphs import GraphedStep, obstacle
from training.loop import curriculum_at
from training.optimizer import keep_rates_on
from training.state import MODULES, build_state
from training.step import train_step
from utils import cuda_graphs, distributed
from utils.cuda_graphs import shapes_of, tensors_of
from utils.distributed import Process

WARM_UP_CALLS = 1  # of each of two sets of shapes; then two replays
STEPS = 2 * (WARM_UP_CALLS + 2)


@pytest.fixture(autouse=True)
def few_warm_up_calls(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "WARM_UP_CALLS", WARM_UP_CALLS)


def recorder_of(state) -> Recorder:
    return Recorder([getattr(state, name) for name in MODULES])


def learner_and_state(config):
    torch.manual_seed(0)
    learner = build_learner(config)
    state = build_state(learner.model, learner.momentum_encoder, learner.queue, config, total_steps=STEPS, filled=[])
    keep_rates_on(torch.device("cpu"), state.optimizer)
    return learner, state


def batches_of(batch, config):
    """Two sets of shapes in turn, with other images and people each time."""
    for number in range(STEPS):
        shorter = batch._replace(
            text_1=batch.text_1._replace(attention_mask=batch.text_1.attention_mask.cumsum(1).le(9).long()),
            text_2=batch.text_2._replace(attention_mask=batch.text_2.attention_mask.cumsum(1).le(9).long()),
        )
        one = batch if number % 2 else shorter
        one = one._replace(image_1=one.image_1.roll(number, 0), person_id=one.person_id.roll(number))
        yield collate_for_gpu(one, parts=config.train.accumulate, shares=config.losses.shares)


@pytest.fixture(params=["alone", "in a group"])
def processes(request, tmp_path):
    """In a group of one process, a step has exchanges: it is four graphs."""
    if request.param == "in a group":
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.shutdown()


@pytest.mark.parametrize(
    ("processes", "settings"),
    [("alone", ()), ("in a group", ("train.accumulate=2", "losses.cross_modal_share=0.5"))],
    indirect=["processes"],
)
@pytest.mark.usefixtures("processes")
def test_replays_are_the_steps_that_would_have_run(debug_config, batch, settings):
    config = debug_config("optimizer.lr=1e-3", "optimizer.lr_new=1e-3", "schedule.warmup_steps=4", *settings)
    results = []
    for graphed in (False, True):
        learner, state = learner_and_state(config)
        torch.manual_seed(1)
        recorder = recorder_of(state)
        run = GraphedStep(recorder) if graphed else None
        losses = []
        for one in batches_of(batch, config):
            now = curriculum_at(state.step, 7, config.losses)
            found = train_step(state, learner.objectives, one, now, config, run)
            losses.append({key: loss.item() for key, loss in found.items()})
        content = [getattr(state, name).state_dict() for name in ("model", "momentum_encoder", "queue", "schedule")]
        results.append((losses, content, torch.get_rng_state()))
    assert recorder.replays == STEPS - 2 * WARM_UP_CALLS
    (eager_losses, eager, _), (losses, replayed, _) = results
    assert losses == eager_losses
    for one, other in zip(eager[:3], replayed[:3], strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)
    assert torch.equal(results[0][2], results[1][2])
    assert eager[3]["last_epoch"] == replayed[3]["last_epoch"] == STEPS


def test_a_capture_that_fails_is_one_line_and_steps_go_on(debug_config, batch, caplog):
    config = debug_config()
    learner, state = learner_and_state(config)

    def refuse(function):
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    run = GraphedStep(refuse)
    batch = collate_for_gpu(batch, parts=1, shares=(1.0,))
    with caplog.at_level(logging.WARNING):
        for _ in range(WARM_UP_CALLS + 2):
            train_step(state, learner.objectives, batch, Curriculum(0.4), config, run)
    (record,) = [record for record in caplog.records if record.name == cuda_graphs.logger.name]
    assert record.getMessage() == (
        "a step cannot be captured as a CUDA graph and runs eagerly: operation not permitted when stream is capturing"
    )
    assert state.step == WARM_UP_CALLS + 2


def test_each_epoch_tells_the_share_of_its_steps_that_were_replayed(debug_config, batch, caplog):
    config = debug_config()
    learner, state = learner_and_state(config)
    run = GraphedStep(recorder_of(state))
    batch = collate_for_gpu(batch, parts=1, shares=(1.0,))
    with caplog.at_level(logging.INFO):
        for epoch in (0, 0, 0, 0, 1, 1, 2):
            state.epoch = epoch
            train_step(state, learner.objectives, batch, Curriculum(0.4), config, run)
    assert [record.getMessage() for record in caplog.records if record.name == graphs.logger.name] == [
        "CUDA graphs replayed 75 % of the last epoch's steps",
        "CUDA graphs replayed 100 % of the last epoch's steps",
    ]


@pytest.mark.parametrize(
    ("settings", "device", "processes", "reason"),
    [
        ((), "cpu", 1, "needs a CUDA GPU"),
        (("train.precision=bf16",), "cuda", 2, None),
        (("train.precision=bf16", "train.sharding=fsdp"), "cuda", 2, "sharded parameters"),
        (("train.precision=fp16",), "cuda", 1, "fp16"),
        (("debug.detect_anomaly=true", "train.precision=bf16"), "cuda", 1, "debug switch"),
        (("train.precision=bf16",), "cuda", 1, None),
    ],
)
def test_what_cannot_be_captured(debug_config, settings, device, processes, reason):
    found = obstacle(debug_config(*settings), Process(0, processes, 0, torch.device(device)))
    assert (found is None) if reason is None else (reason in found)


def test_shapes_tell_buckets_apart(batch):
    one = collate_for_gpu(batch, parts=1, shares=(1.0,))
    other = collate_for_gpu(batch._replace(image_1=batch.image_1.flip(0)), parts=1, shares=(1.0,))
    assert shapes_of(one) == shapes_of(other)
    bucket = one.text_1.bucket
    assert shapes_of(one) != shapes_of(one._replace(text_1=one.text_1._replace(bucket=bucket._replace(tokens=1))))
    assert len(tensors_of(one)) == 2 + 3 + 3 + 2


@pytest.mark.gpu
@pytest.mark.usefixtures("processes")
def test_a_graph_gives_the_losses_of_eager_steps(debug_config, batch):
    config, device = debug_config("optimizer.lr=1e-3", "optimizer.lr_new=1e-3"), torch.device("cuda")
    results = []
    for graphed in (False, True):
        torch.manual_seed(0)
        model, objectives, momentum_encoder, queue = (part.to(device) for part in build_learner(config))
        state = build_state(model, momentum_encoder, queue, config, total_steps=STEPS, filled=[])
        keep_rates_on(device, state.optimizer)
        run = GraphedStep() if graphed else None
        torch.manual_seed(1)
        losses = []
        for one in batches_of(batch, config):
            found = train_step(state, objectives, to_device(one, device), Curriculum(0.4), config, run)
            losses.append({key: loss.item() for key, loss in found.items()})
        results.append(losses)
        if graphed:
            assert len(run.graphs) == 2
    assert results[1] == results[0]
