"""Build the loaders of a configuration: choose the records to train on and to evaluate on."""

import logging
from collections.abc import Sequence
from pathlib import Path

from transformers import BertTokenizer

from dataset.loaders import EvalLoaders, TrainLoader, build_eval_loaders, build_train_loader
from dataset.records import HOLD_OUT_EVERY, Record, check_benchmark, hold_out_validation, read_records
from dataset.sets import load_eval_sets, load_train_set
from utils.config_schema import Config
from utils.distributed import Process, main_first
from utils.errors import UserError
from utils.pretrained import bert_config

logger = logging.getLogger(__name__)


def split_records(config: Config, split: str) -> list[Record]:
    """Return the records of train, val or test.

    With several roots, train is that of all of them, and val and test are those of the first.
    If a benchmark has no validation people and eval.select_on is val, a share of its train people is held out for val.

    Raises: UserError if there are no validation people and none are held out, or if root holds another benchmark.
    """
    root, name = config.dataset.folder, config.dataset.name
    check_benchmark(root, name)
    if split == "test":
        return read_records(root, "test")
    val = read_records(root, "val")
    if split == "val" and val:
        return val
    if split == "val" and config.eval.select_on != "val":
        raise UserError(
            f"{name} has no validation people, and with eval.select_on: {config.eval.select_on} none are held out of "
            "training: evaluate on test, or a model trained with eval.select_on: val with that setting"
        )
    train = read_records(root, "train")
    if val or config.eval.select_on != "val":
        return with_more(train, config.dataset.more_folders)
    kept, held_out = hold_out_validation(train)
    if split == "train":
        logger.warning(
            "%s has no validation people: %d of %d train images (every %dth person by id) are held out for it; "
            "eval.select_on: test trains on all, as the papers do",
            name,
            len(held_out),
            len(train),
            HOLD_OUT_EVERY,
        )
    return with_more(kept, config.dataset.more_folders) if split == "train" else held_out


def with_more(records: list[Record], folders: Sequence[Path]) -> list[Record]:
    """Add the train records of other folders: with absolute paths, and with ids that follow those before them.

    Raises: UserError or FileNotFoundError if one of them was not prepared.
    """
    records = list(records)
    for folder in folders:
        first_free = 1 + max((record.person_id for record in records), default=-1)
        images = folder.resolve() / "imgs"
        records += [
            record._replace(person_id=first_free + record.person_id, file_path=str(images / record.file_path))
            for record in read_records(folder, "train")
        ]
    return records


def check_vocabulary(config: Config, tokenizer: BertTokenizer) -> None:
    """Raises: UserError if the tokenizer has word pieces for which the text encoder has no embedding."""
    encoder = config.model.text_encoder
    size = encoder.vocab_size or bert_config(encoder.name).get("vocab_size") or len(tokenizer)
    if len(tokenizer) > size:
        raise UserError(
            f"model.text_encoder.vocab_size {size} is less than the {len(tokenizer)} word pieces of {encoder.name}"
        )


def train_loader_of(config: Config, tokenizer: BertTokenizer, process: Process) -> TrainLoader:
    """Build the training batches of this process. The main process makes the caches while the others wait."""
    check_vocabulary(config, tokenizer)
    with main_first(process):
        train_set = load_train_set(
            config.dataset.folder,
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
        parts=config.train.accumulate,
        shares=config.losses.shares,
    )


def eval_loaders_of(config: Config, tokenizer: BertTokenizer, process: Process, split: str) -> EvalLoaders:
    """Build the gallery and the captions of val or test. Every process gets all of them."""
    check_vocabulary(config, tokenizer)
    with main_first(process):
        sets = load_eval_sets(
            config.dataset.folder,
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
