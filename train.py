"""Train a text-based person search model: python train.py --config configs/cuhk_pedes.yaml (docs/training.md)."""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from dataset.batches import to_device
from dataset.run_loaders import eval_loaders_of, train_loader_of
from dataset.tokenizer import load_tokenizer
from evaluation.retrieval import measure
from figures.tensorboard import show_examples
from losses import OBJECTIVES
from models.build import build_momentum_encoder, build_queue
from models.person_search import PersonSearchModel
from models.weights import filled_names, initialise_from, report_table
from training.allocator import keep_freed_memory
from training.dry_run import check
from training.graphs import device_step_of, takes_graphs
from training.loop import curriculum_at, evaluate, finish_epoch, is_stale, log_step, say_done
from training.matching_watch import MatchingWatch
from training.objectives import build_objectives, build_task, build_trained_model
from training.parallel import spread, whole_layers
from training.progress import LossReader, TrainingBar
from training.run import Run
from training.run_folder import checkpoint_to_resume, open_run_folder
from training.state import TrainState, build_state, check_weights, read_state, restore_state, save_model, save_state
from training.step import train_step
from utils.config import Config, load_config
from utils.distributed import Process, gather_objects, shutdown, start
from utils.log import one_line_errors
from utils.pretrained import find_weights
from utils.seed import make_deterministic, seed_everything
from utils.signals import StopAsked, hidden_from_children

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Config, run folder and log, loaders, seeds, model, optimiser and schedule, initialise or resume, loop."""
    args = parse_arguments(arguments)
    config = load_config(args.config, args.set, losses=OBJECTIVES)
    keep_freed_memory()
    process = start()
    folder = args.output or Path("output") / args.config.stem
    path = gather_objects(checkpoint_to_resume(folder, args.resume))[0]  # one decision, before anything is written
    resumed = read_state(path, config, world_size=process.world_size) if path else None
    open_run_folder(None if args.check else folder, config, is_main=process.is_main, resumed=path)
    if config.debug.deterministic:
        make_deterministic()
    torch.autograd.set_detect_anomaly(config.debug.detect_anomaly)

    tokenizer = load_tokenizer(config.model.text_encoder.name)
    loader = train_loader_of(config, tokenizer, process)
    eval_loaders = eval_loaders_of(config, tokenizer, process, config.eval.select_on)

    seed_everything(config.train.seed)  # here, as making the caches above may draw numbers, in one process only
    objectives = build_objectives(config, tokenizer)
    model = build_trained_model(config, objectives)
    if resumed:
        filled = resumed["filled"]
    else:
        filled = start_from(model, args.init or config.init.paths, config, process, args.trust_checkpoint)
    model.to(process.device)
    momentum_encoder = build_momentum_encoder(model, config)
    task = build_task(config, model, objectives)
    online = spread(task, momentum_encoder, config, process, graphed=takes_graphs(config, process))
    state = build_state(
        model,
        momentum_encoder,
        build_queue(config).to(process.device),
        config,
        total_steps=config.train.epochs * len(loader.sampler),
        filled=filled,
    )
    seed_everything(config.train.seed + process.rank)  # every process draws its own negatives and masks
    if resumed:
        restore_state(state, resumed, config, process)
    run = Run(config, process, online, device_step_of(config, process, state.optimizer), loader, eval_loaders)
    if args.check:
        forecast = check(state, run)
        if process.is_main:
            print(forecast)
    else:
        with run.open(folder, state, wandb=args.wandb, profiled=args.profile):
            train(state, run)
    shutdown()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="YAML file; configs/base.yaml explains every key")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys")
    parser.add_argument("--output", type=Path, help="folder of the run (default: output/NAME_OF_THE_CONFIG)")
    parser.add_argument("--init", action="append", metavar="PATH", help="start from this checkpoint, not init.paths")
    parser.add_argument("--trust-checkpoint", action="store_true", help="unpickle --init files even if that runs code")
    resume = "continue from PATH (default: last.pth of the run's folder; auto: the same, or start anew without one)"
    parser.add_argument("--resume", nargs="?", const="", metavar="PATH", help=resume)
    parser.add_argument("--check", action="store_true", help="try a few steps, tell memory and hours, write nothing")
    parser.add_argument(
        "--profile", action="store_true", help="trace a few steps into profile.json in the run's folder"
    )
    parser.add_argument("--wandb", action="store_true", help="show the run in Weights & Biases as well")
    return parser.parse_args(arguments)


def start_from(
    model: PersonSearchModel, paths: Sequence[str], config: Config, process: Process, trust: bool
) -> list[str]:
    """Fill the model from checkpoints, say what each gave, and return the names of the parameters filled."""
    reports = initialise_from(
        model,
        [find_weights(path) for path in paths],
        allow_missing=config.init.allow_missing,
        trust=trust,
        copy_cross_attention=config.init.copy_cross_attention,
        bert_layers=config.init.bert_layers,
    )
    for report in reports if process.is_main else ():
        Console(stderr=True).print(report_table(report, model))
    return filled_names(reports)


def train(state: TrainState, run: Run) -> None:
    """All epochs from where the state stands; last.pth after each, best.pth when R@1 on select_on rises."""
    config = run.config
    watch = MatchingWatch(config.train.epochs * len(run.loader.sampler))
    try:
        while state.epoch < config.train.epochs and not is_stale(state, config):
            train_epoch(state, run, watch)
            run.stop_if_asked(state)
            check_weights(state)
            metrics = None
            if (state.epoch + 1) % config.eval.every == 0 or state.epoch + 1 == config.train.epochs:
                with run.until_stopped(), whole_layers(state.model):
                    scores = evaluate(state, run.eval_loaders, run)
                    metrics = measure(scores, config.eval.tail)
                    show_examples(state, scores, run)
            finish_epoch(state, metrics, config, run.log)
            if metrics and state.best < metrics.R1:
                state.best, state.stale = metrics.R1, 0
                save_model(state, run.checkpoints, config)
            elif metrics:
                state.stale += 1
            save_state(state, run.checkpoints, config)
        say_done(state, run)
    except StopAsked as reason:
        save_state(state, run.checkpoints, config)
        logger.info("stopped after step %d, as %s", state.step, reason)


def train_epoch(state: TrainState, run: Run, watch: MatchingWatch) -> None:
    """The batches of the present epoch that are not done yet, or fewer where the run has to stop."""
    config, sampler = run.config.train, run.loader.sampler
    run.online.train()
    sampler.set_position(state.epoch, state.batch)
    images = config.batch_size * run.process.world_size  # of a step
    reader = LossReader(state.sums)
    with hidden_from_children():
        batches = iter(run.loader.batches)
    with TrainingBar((len(sampler) - state.batch) * images, f"epoch {state.epoch + 1}/{config.epochs}") as bar:
        since = time.perf_counter()
        for batch in batches:
            if run.must_stop(state):
                break
            now = curriculum_at(state.step, len(sampler), run.config.losses)
            batch = to_device(batch, run.process.device, True)
            losses = train_step(state, run.online, batch, now, run.config, run.device_step)
            reader.read(state.step, losses)
            watch.see(reader.losses)
            seconds, since = time.perf_counter() - since, time.perf_counter()
            reader.add(seconds=seconds, images=images)
            if state.step % config.log_every_steps == 0:
                reader.read_rest()
                log_step(state, reader.losses, images / seconds, run.log)
            if config.checkpoint_every_steps and state.step % config.checkpoint_every_steps == 0:
                reader.read_rest()
                save_state(state, run.checkpoints, run.config, numbered=True)
            bar.show(state.step, reader.losses)
            bar.advance(images)
            run.profile_step()
        reader.read_rest()


if __name__ == "__main__":
    sys.exit(one_line_errors(main)())
