"""Train a text-based person search model: python train.py --config configs/cuhk_pedes.yaml (docs/training.md)."""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dataset.batches import TrainBatch, to_device
from dataset.build import eval_loaders_of, train_loader_of
from dataset.loaders import EvalLoaders, TrainLoader
from dataset.tokenizer import load_tokenizer
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
from utils.config import Config, load_config
from utils.distributed import Process, gather, shutdown, start
from utils.errors import UserError
from utils.log import one_line_errors, progress, set_up_logging
from utils.metrics import Metrics
from utils.precision import autocast
from utils.pretrained import find_weights
from utils.retrieval import measure, score_gallery
from utils.run_folder import MetricsLog, create_run_folder
from utils.seed import make_deterministic, seed_everything
from utils.train_state import TrainState, build_state, read_state, restore_state, save_model, save_state

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Config, run folder and log, loaders, seeds, model, optimiser and schedule, initialise or resume, loop."""
    args = parse_arguments(arguments)
    config = load_config(args.config, args.set)
    process = start()
    folder = args.output or Path("output") / args.config.stem
    resumed = read_state(Path(args.resume or folder / "last.pth"), config) if args.resume is not None else None
    open_run_folder(folder, config, process, resumed=resumed is not None)
    if config.debug.deterministic:
        make_deterministic()
    torch.autograd.set_detect_anomaly(config.debug.detect_anomaly)

    tokenizer = load_tokenizer(config.model.text_encoder.name)
    loader = train_loader_of(config, tokenizer, process)
    eval_loaders = eval_loaders_of(config, tokenizer, process, config.eval.select_on)

    seed_everything(config.train.seed)  # here, as making the caches above may draw numbers, in one process only
    model = build_model(config)
    filled = (
        [] if resumed else start_from(model, args.init or config.init.paths, config, process, args.trust_checkpoint)
    )
    model.to(process.device)
    state = build_state(
        model,
        build_momentum_encoder(model, config),
        build_queue(config).to(process.device),
        config,
        total_steps=config.train.epochs * len(loader.sampler),
        filled=resumed["filled"] if resumed else filled,
    )
    seed_everything(config.train.seed + process.rank)  # every process draws its own negatives and masks
    if resumed:
        restore_state(state, resumed, process)
    train(state, loader, eval_loaders, config, step_settings(config, tokenizer), folder, process)
    shutdown()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="YAML file; configs/base.yaml explains every key")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys")
    parser.add_argument("--output", type=Path, help="folder of the run (default: output/NAME_OF_THE_CONFIG)")
    parser.add_argument("--init", action="append", metavar="PATH", help="start from this checkpoint, not init.paths")
    parser.add_argument("--trust-checkpoint", action="store_true", help="unpickle --init files even if that runs code")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="continue from PATH (default: last.pth of the run's folder)",
    )
    return parser.parse_args(arguments)


def open_run_folder(folder: Path, config: Config, process: Process, *, resumed: bool) -> None:
    """Make the folder, start the log. Raises UserError rather than mix a new run with an old one."""
    if not resumed and (folder / "last.pth").exists():
        raise UserError(f"{folder} already holds a run: continue it with --resume, or name another folder by --output")
    if process.is_main:
        create_run_folder(folder, config)
    set_up_logging(folder, is_main=process.is_main)


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


def train(
    state: TrainState,
    loader: TrainLoader,
    eval_loaders: EvalLoaders,
    config: Config,
    settings: StepSettings,
    folder: Path,
    process: Process,
) -> None:
    """All epochs from where the state stands; last.pth after each, best.pth when R@1 on select_on rises."""
    log = MetricsLog(folder, first_epoch=state.epoch, first_step=state.step, enabled=process.is_main)
    online = wrap(state.model, process, settings.tasks)
    while state.epoch < config.train.epochs:
        train_epoch(state, online, loader, config, settings, log, process)
        check_weights(state)
        if should_stop(state, config):
            logger.info("stopped after step %d, as train.stop_after_steps asks", state.step)
            save_state(state, folder / "last.pth", config, process)
            break
        metrics = None
        if (state.epoch + 1) % config.eval.every == 0 or state.epoch + 1 == config.train.epochs:
            metrics = evaluate(state, eval_loaders, config, process)
        finish_epoch(state, metrics, config, log)
        if metrics and state.best < metrics.R1:
            state.best = metrics.R1
            if process.is_main:
                save_model(state, folder / "best.pth", config)
        save_state(state, folder / "last.pth", config, process)
    else:
        logger.info("done: best R@1 on %s %.2f %%, %s", config.eval.select_on, state.best, folder / "best.pth")
    log.close()


def should_stop(state: TrainState, config: Config) -> bool:
    return config.train.stop_after_steps is not None and state.step >= config.train.stop_after_steps


def check_weights(state: TrainState) -> None:
    """Raises: FloatingPointError if a step whose losses were finite has spoilt the weights; nothing is saved then."""
    for name, parameter in state.model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise FloatingPointError(
                f"step {state.step}: {name} is not finite after it; the checkpoints written before are good, "
                "lower optimizer.lr"
            )


def wrap(model: torch.nn.Module, process: Process, tasks: frozenset[str]) -> torch.nn.Module:
    if process.world_size == 1:
        return model
    devices = [process.local_rank] if process.device.type == "cuda" else None
    every_task = len(tasks) == 7  # with all of them on, every parameter gets a gradient
    return DistributedDataParallel(
        model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=not every_task
    )


def train_epoch(
    state: TrainState,
    online: torch.nn.Module,
    loader: TrainLoader,
    config: Config,
    settings: StepSettings,
    log: MetricsLog,
    process: Process,
) -> None:
    """The batches of the present epoch that are not done yet, or fewer where stop_after_steps ends the run."""
    online.train()
    loader.sampler.set_position(state.epoch, state.batch)
    title = f"epoch {state.epoch + 1}/{config.train.epochs}"
    images_per_step = config.train.batch_size * process.world_size
    with progress((len(loader.sampler) - state.batch) * images_per_step, title, unit="images") as bar:
        since = time.perf_counter()
        for batch in loader.batches:
            if should_stop(state, config):
                return
            progress_of_epoch = state.step / len(loader.sampler)
            alpha = config.losses.alpha * (min(1.0, progress_of_epoch) if config.losses.warm_up else 1.0)
            losses = train_step(state, online, to_device(batch, process.device, True), alpha, config, settings)
            seconds, since = time.perf_counter() - since, time.perf_counter()
            for key, value in {**losses, "seconds": seconds, "images": images_per_step}.items():
                state.sums[key] = state.sums.get(key, 0.0) + float(value)
            bar.advance(images_per_step)
            if state.step % config.train.log_every_steps == 0:
                log_step(state, losses, images_per_step / seconds, log)


def train_step(
    state: TrainState,
    online: torch.nn.Module,
    batch: TrainBatch,
    alpha: float,
    config: Config,
    settings: StepSettings,
) -> dict[str, Tensor]:
    """One optimiser step. Returns detached scalar losses by key, with their weighted sum as "total".

    Raises: FloatingPointError naming the losses that are not finite; the weights are then those before the step.
    """
    with autocast(batch.person_id.device, config.train.precision):
        image_1, image_2 = state.model.normalize(batch.image_1), state.model.normalize(batch.image_2)
        inputs, targets = prepare_step(image_1, image_2, batch, state.momentum_encoder, settings)
        output = online(inputs)
    losses = compute_losses(output, inputs, targets, batch, state.queue, state.model.temperature, alpha, settings)
    weights = vars(config.losses.weights)
    losses["total"] = torch.stack([weights[key] * loss for key, loss in losses.items()]).sum()
    if not torch.isfinite(losses["total"]):
        values = ", ".join(f"{key} {loss.item():.4g}" for key, loss in losses.items() if not torch.isfinite(loss))
        raise FloatingPointError(
            f"step {state.step + 1}: {values}; the checkpoints written before are good, lower optimizer.lr"
        )
    state.optimizer.zero_grad(set_to_none=True)
    losses["total"].backward()
    if config.optimizer.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.clip_norm)
    state.optimizer.step()
    state.schedule.step()
    state.model.clamp_temperature()
    state.momentum_encoder.update(state.model)
    state.queue.push(gather(targets.momentum_image), gather(targets.momentum_text), gather(batch.person_id))
    state.step += 1
    state.batch += 1
    return {key: loss.detach() for key, loss in losses.items()}


def compute_losses(
    output: TrainOutput,
    inputs: TrainInputs,
    targets: Targets,
    batch: TrainBatch,
    queue: FeatureQueue,
    temperature: Tensor,
    alpha: float,
    settings: StepSettings,
) -> dict[str, Tensor]:
    """One pure function per loss of weight > 0; a pair is a positive, a text with a wrong image, or the reverse."""
    num_pairs = len(inputs.own_attention_mask)  # all losses but itc see so many of the batch
    is_match = torch.arange(3 * num_pairs, device=batch.person_id.device) < num_pairs
    drawn = torch.cat([is_match[:num_pairs], output.negatives.image_valid, output.negatives.text_valid])
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
            candidate_image=gather(targets.momentum_image),
            candidate_text=gather(targets.momentum_text),
            candidate_person_id=gather(batch.person_id),
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


def evaluate(state: TrainState, loaders: EvalLoaders, config: Config, process: Process) -> Metrics:
    """Measures of the model as it stands on the split that select_on names."""
    scores = score_gallery(
        state.model,
        loaders.gallery,
        loaders.captions,
        process=process,
        precision=config.train.precision,
        rerank_top_k=config.eval.rerank_top_k,
    )
    return measure(scores, config.eval.tail)


def log_step(state: TrainState, losses: dict[str, Tensor], images_per_second: float, log: MetricsLog) -> None:
    values = {f"train/{key}": float(loss) for key, loss in losses.items()}
    rates = {f"lr/{n}": rate for n, rate in enumerate(sorted(set(state.schedule.get_last_lr())))}
    log.write_scalars({**values, **rates, "images_per_second": images_per_second}, state.step)
    text = "  ".join(f"{key.removeprefix('train/')} {value:.3f}" for key, value in values.items())
    logger.info("step %d  %s  %.0f images/s", state.step, text, images_per_second)


def finish_epoch(state: TrainState, metrics: Metrics | None, config: Config, log: MetricsLog) -> None:
    """Write the epoch's line and scalars, and move on to the next epoch."""
    seconds, images = state.sums.pop("seconds"), state.sums.pop("images")
    values = {f"train/{key}": total / state.batch for key, total in state.sums.items()}
    rates = sorted(set(state.schedule.get_last_lr()))
    line = {"step": state.step, **values, "lr": rates[0], "lr_new": rates[-1], "images_per_second": images / seconds}
    if metrics:
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


if __name__ == "__main__":
    sys.exit(one_line_errors(main)())
