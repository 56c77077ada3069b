"""Between the steps of a run: when it ends, what it logs, how it evaluates. The loop itself is in train.py."""

import logging
from collections.abc import Mapping

from dataset.loaders import EvalLoaders
from evaluation.metrics import Metrics
from evaluation.retrieval import Scores, score_gallery
from losses.objective import Curriculum
from training.optimizer import learning_rates
from training.run import Run
from training.run_folder import MetricsLog
from training.state import TrainState
from utils.config import Config
from utils.config_schema import LossesConfig

logger = logging.getLogger(__name__)


def is_stale(state: TrainState, config: Config) -> bool:
    limit = config.train.early_stopping
    return limit is not None and state.stale >= limit


def curriculum_at(step: int, steps_per_epoch: int, losses: LossesConfig) -> Curriculum:
    """What a step (from 0) does by schedule: negatives are drawn at random before losses.hard_negatives_after_steps."""
    alpha = alpha_at(step, steps_per_epoch, losses.alpha, losses.warm_up)
    return Curriculum(alpha, hardness=float(step >= losses.hard_negatives_after_steps))


def alpha_at(step: int, steps_per_epoch: int, alpha: float, warm_up: bool) -> float:
    """Weight of the momentum copies' soft targets in a step (from 0): with warm_up it rises over the first epoch."""
    return alpha * min(1.0, step / steps_per_epoch) if warm_up else alpha


def log_step(state: TrainState, losses: Mapping[str, float], images_per_second: float, log: MetricsLog) -> None:
    values = {f"train/{key}": loss for key, loss in losses.items()}
    scalars = {**values, **learning_rates(state.optimizer), "images_per_second": images_per_second}
    log.write_scalars(scalars, state.step)
    text = "  ".join(f"{key.removeprefix('train/')} {value:.3f}" for key, value in values.items())
    logger.info("step %d  %s  %.0f images/s", state.step, text, images_per_second)


def finish_epoch(state: TrainState, metrics: Metrics | None, config: Config, log: MetricsLog) -> None:
    """Write the epoch's line and scalars, and move on to the next epoch."""
    seconds, images = state.sums.pop("seconds"), state.sums.pop("images")
    values = {f"train/{key}": total / state.batch for key, total in state.sums.items()}
    rates = learning_rates(state.optimizer)
    line = {"step": state.step, **values, **rates, "images_per_second": images / seconds}
    if metrics is not None:
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
    left = config.train.epochs - state.epoch
    if left:
        logger.info(
            "%d of %d epochs done, %s of training left", state.epoch, config.train.epochs, hours(left * seconds)
        )


def say_done(state: TrainState, run: Run) -> None:
    config, best = run.config, run.folder / "best.pth"
    if state.epoch < config.train.epochs:
        limit = config.train.early_stopping
        logger.info("no better R@1 in %d evaluations: ended early, as train.early_stopping asks", limit)
    logger.info("done: best R@1 on %s %.2f %%, %s", config.eval.select_on, state.best, best)


def hours(seconds: float) -> str:
    """12:34 h, or seconds where it is less than a minute."""
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if seconds >= 60 else f"{seconds:.1f} s"


def evaluate(state: TrainState, loaders: EvalLoaders, run: Run) -> Scores:
    """Scores of the model as it stands."""
    config = run.config
    return score_gallery(
        state.model,
        *loaders,
        process=run.process,
        precision=config.train.precision,
        rerank_top_k=config.eval.rerank_top_k,
        rerank_similarity=config.eval.rerank_similarity,
    )
