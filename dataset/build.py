"""Loaders of a configuration: which records train, which are evaluated."""

import logging
from pathlib import Path

from transformers import BertTokenizer

from dataset.loaders import EvalLoaders, TrainLoader, build_eval_loaders, build_train_loader
from dataset.person_search import load_eval_sets, load_train_set
from dataset.records import Record, hold_out_validation, read_records
from utils.config_schema import Config
from utils.distributed import Process, main_first

logger = logging.getLogger(__name__)


def split_records(config: Config, split: str) -> list[Record]:
    """Records of train, val or test. Where a benchmark has no validation people, a share of its train people stands in.

    These people are held out of train only when select_on asks for them.
    """
    root = Path(config.dataset.root).expanduser()
    if split == "test":
        return read_records(root, "test")
    val = read_records(root, "val")
    if split == "val" and val:
        return val
    train = read_records(root, "train")
    if val or config.eval.select_on != "val":
        return train
    kept, held_out = hold_out_validation(train)
    if split == "train":
        logger.warning(
            "%s has no validation people: %d of %d train images (people chosen by id) are held out for it; "
            "eval.select_on: test trains on all, as the papers do",
            config.dataset.name,
            len(held_out),
            len(train),
        )
    return kept if split == "train" else held_out


def train_loader_of(config: Config, tokenizer: BertTokenizer, process: Process) -> TrainLoader:
    """Training batches of this process; caches are made by the main process while the others wait."""
    with main_first(process):
        train_set = load_train_set(
            Path(config.dataset.root).expanduser(),
            split_records(config, "train"),
            tokenizer=tokenizer,
            image_size=config.dataset.image_size,
            max_words=config.dataset.max_words,
            weak_positive_probability=config.dataset.weak_positive_probability,
            cache=config.dataset.cache,
            on_bad_image=config.dataset.on_bad_image,
            seed=config.train.seed,
            workers=config.dataset.workers,
        )
    return build_train_loader(
        train_set,
        batch_size=config.train.batch_size,
        workers=config.dataset.workers,
        seed=config.train.seed,
        rank=process.rank,
        world_size=process.world_size,
    )


def eval_loaders_of(config: Config, tokenizer: BertTokenizer, process: Process, split: str) -> EvalLoaders:
    """Gallery and captions of val or test; every process gets all of them."""
    with main_first(process):
        sets = load_eval_sets(
            Path(config.dataset.root).expanduser(),
            split_records(config, split),
            split=split,
            tokenizer=tokenizer,
            image_size=config.dataset.image_size,
            max_words=config.dataset.max_words,
            cache=config.dataset.cache,
            on_bad_image=config.dataset.on_bad_image,
            workers=config.dataset.workers,
        )
    return build_eval_loaders(*sets, batch_size=config.eval.batch_size, workers=config.dataset.workers)
