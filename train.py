"""Train a text-based person search model: python train.py --config configs/cuhk_pedes.yaml (docs/training.md)."""

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from rich.console import Console
from torch import Tensor

from dataset.batches import TrainBatch, to_device
from dataset.loaders import EvalLoaders
from dataset.run_loaders import eval_loaders_of, train_loader_of
from dataset.tokenizer import load_tokenizer
from evaluation.retrieval import Scores, measure, score_gallery
from figures.tensorboard import show_examples
from losses.attribute import attribute_loss
from losses.itc import contrastive_loss
from losses.itm import itm_loss, prd_loss
from losses.mae import mae_loss
from losses.mlm import mlm_loss, mrtd_loss
from models.build import build_model, build_momentum_encoder, build_queue, step_settings
from models.person_search import PersonSearchModel, TrainInputs, TrainOutput
from models.queue import FeatureQueue
from models.targets import StepSettings, Targets, prepare_step
from models.weights import filled_names, initialise_from, report_table
from training.allocator import keep_freed_memory
from training.dry_run import check
from training.loop import (
    LossReader,
    Run,
    TrainingBar,
    alpha_at,
    finish_epoch,
    is_stale,
    log_step,
    say_done,
    shares_of,
    split,
)
from training.parallel import averaging, mixed_parameters, spread, whole_layers
from training.run_folder import checkpoint_to_resume, open_run_folder
from training.state import TrainState, build_state, check_weights, read_state, restore_state, save_model, save_state
from utils.config import Config, load_config
from utils.distributed import Process, gather, gather_objects, shutdown, start
from utils.log import one_line_errors
from utils.precision import autocast
from utils.pretrained import find_weights
from utils.seed import make_deterministic, seed_everything
from utils.signals import StopAsked, hidden_from_children

logger = logging.getLogger(__name__)
NO_OTHERS: Mapping[str, Tensor] = MappingProxyType({})


def main(arguments: Sequence[str] | None = None) -> None:
    """Config, run folder and log, loaders, seeds, model, optimiser and schedule, initialise or resume, loop."""
    args = parse_arguments(arguments)
    config = load_config(args.config, args.set)
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
    model = build_model(config)
    if resumed:
        filled = resumed["filled"]
    else:
        filled = start_from(model, args.init or config.init.paths, config, process, args.trust_checkpoint)
    model.to(process.device)
    momentum_encoder = build_momentum_encoder(model, config)
    online = spread(model, momentum_encoder, config, process)
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
    run = Run(config, process, step_settings(config, tokenizer), online, loader, eval_loaders)
    if args.check:
        forecast = check(state, run, train_step, evaluate)
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
    parser.add_argument("--check", action="store_true", help="try two steps, tell memory and hours, write nothing")
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
    try:
        while state.epoch < config.train.epochs and not is_stale(state, config):
            train_epoch(state, run)
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


def train_epoch(state: TrainState, run: Run) -> None:
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
            alpha = alpha_at(state.step, len(sampler), run.config.losses.alpha, run.config.losses.warm_up)
            batch = to_device(batch, run.process.device, True)
            losses = train_step(state, run.online, batch, alpha, run.config, run.settings)
            reader.read(state.step, losses)
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


def train_step(
    state: TrainState,
    online: torch.nn.Module,
    batch: TrainBatch,
    alpha: float,
    config: Config,
    settings: StepSettings,
) -> dict[str, Tensor]:
    """One optimiser step, over train.accumulate parts of the batch one after the other.

    Returns: detached scalar losses by key, with their weighted sum as "total"; averaged over the processes they are
    those of the whole batch (`training.loop.shares_of`).
    """
    device, weights = batch.person_id.device, vars(config.losses.weights)
    parts = split(batch, config.train.accumulate)
    prepared = []
    with autocast(device, config.train.precision):
        for part in parts:
            image_1, image_2 = state.model.normalize(part.image_1), state.model.normalize(part.image_2)
            prepared.append(prepare_step(image_1, image_2, part, state.momentum_encoder, settings))
    targets_of_parts = [targets for _, targets in prepared]
    candidates = {  # for itc: the whole batch, of all processes
        "candidate_image": gather(torch.cat([targets.momentum_image for targets in targets_of_parts])),
        "candidate_text": gather(torch.cat([targets.momentum_text for targets in targets_of_parts])),
        "candidate_person_id": gather(batch.person_id),
    }
    state.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for part, (inputs, targets), share in zip(parts, prepared, shares_of(targets_of_parts), strict=True):
        with averaging(online, now=part is parts[-1]):
            with autocast(device, config.train.precision):
                output = online(inputs)
            temperature, queue = state.model.temperature, state.queue
            losses = compute_losses(output, inputs, targets, part, queue, temperature, alpha, settings, candidates)
            losses = {key: share[key] * loss for key, loss in losses.items()}
            losses["total"] = torch.stack([weights[key] * loss for key, loss in losses.items()]).sum()
            state.scaler.scale(losses["total"]).backward()
        sums = {key: sums.get(key, 0) + loss.detach() for key, loss in losses.items()}
    with mixed_parameters(state.model):
        if config.optimizer.clip_norm is not None:
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.schedule.step()
        state.model.clamp_temperature()
        state.momentum_encoder.update(state.model)
    state.queue.push(*candidates.values())
    state.step += 1
    state.batch += 1
    return sums


def compute_losses(
    output: TrainOutput,
    inputs: TrainInputs,
    targets: Targets,
    batch: TrainBatch,
    queue: FeatureQueue,
    temperature: Tensor,
    alpha: float,
    settings: StepSettings,
    candidates: Mapping[str, Tensor] = NO_OTHERS,
) -> dict[str, Tensor]:
    """One pure function per loss of weight > 0; a pair is a positive, an image with a wrong text, or the reverse.

    candidates: what itc compares with where that is more than the batch, as `contrastive_loss` names it.
    """
    num_pairs = len(inputs.own_attention_mask)  # all losses but itc see so many of the batch
    is_match = torch.arange(3 * num_pairs, device=batch.person_id.device) < num_pairs
    drawn = torch.cat([is_match[:num_pairs], output.negatives.text_valid, output.negatives.image_valid])
    compute = {
        "itc": lambda: contrastive_loss(
            output.image_embedding,
            output.text_embedding,
            targets.momentum_image,
            targets.momentum_text,
            queue_image=queue.image,
            queue_text=queue.text,
            person_id=batch.person_id,
            queue_person_id=queue.person_id,
            temperature=temperature,
            alpha=alpha,
            **candidates,
        ),
        "itm": lambda: itm_loss(output.match_logits, is_match.long(), drawn),
        "prd": lambda: prd_loss(output.replaced_logits, batch.replaced[:num_pairs]),
        "mlm": lambda: mlm_loss(output.mlm_logits, targets.mlm_labels, targets.mlm_logits, alpha=alpha),
        "mrtd": lambda: mrtd_loss(output.mrtd_logits, targets.mrtd_labels),
        "attribute": lambda: attribute_loss(
            output.chunk_logits, output.chunk_present & drawn[:, None], is_match.long()
        ),
        "mae": lambda: mae_loss(
            output.reconstruction, inputs.image[:num_pairs], targets.masked_patches, settings.patch_size
        ),
    }
    return {key: loss() for key, loss in compute.items() if key in settings.tasks}


def evaluate(state: TrainState, loaders: EvalLoaders, run: Run) -> Scores:
    """Scores of the model as it stands."""
    precision, top_k = run.config.train.precision, run.config.eval.rerank_top_k
    return score_gallery(state.model, *loaders, process=run.process, precision=precision, rerank_top_k=top_k)


if __name__ == "__main__":
    sys.exit(one_line_errors(main)())
