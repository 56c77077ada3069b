"""What figures of models are made from: the captions of a split with their images, checkpoints, and arguments."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertTokenizer

from dataset.captions import clean_caption
from dataset.images import read_image
from dataset.records import Record
from dataset.run_loaders import split_records
from dataset.tokenizer import Encoded, encode, load_tokenizer
from models.build import build_model, no_heads
from models.person_search import PersonSearchModel
from models.weights import check_complete, initialise
from utils.config import load_config
from utils.config_schema import Config
from utils.distributed import start
from utils.errors import UserError
from utils.pretrained import find_weights

logger = logging.getLogger(__name__)

KINDS = {"vim": "Vim", "mamba_reg": "Mamba-Reg", "vit": "ViT"}


class Pair(NamedTuple):
    """A caption as it was annotated, with its own image."""

    caption: str
    image: Path
    person_id: int


class LoadedModel(NamedTuple):
    name: str  # in figures
    config: Config
    model: PersonSearchModel  # in evaluation mode, on `device`
    tokenizer: BertTokenizer
    device: torch.device


def positive(text: str) -> int:
    """Type of an argument that is a count: an integer above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--config, --set, --checkpoint, --trust-checkpoint and --names, for a figure that runs models."""
    add_config_arguments(parser)
    what = "best.pth of a run, say; once per model, the first one on top"
    parser.add_argument("--checkpoint", action="append", required=True, metavar="PATH", help=what)
    add_naming_arguments(parser)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """--config and --set."""
    what = "the configuration of the training; one for all models, or once per model, in their order"
    parser.add_argument("--config", type=Path, action="append", required=True, help=what)
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys of every --config"
    )


def add_naming_arguments(parser: argparse.ArgumentParser) -> None:
    """--names and --trust-checkpoint, for a figure that may be given checkpoints."""
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the models in the figure (default: Vim, ViT)")
    parser.add_argument("--trust-checkpoint", action="store_true", help="unpickle the file even if that runs code")


def add_pair_arguments(parser: argparse.ArgumentParser, number: int) -> None:
    """--split, --queries, --number and --seed, which choose captions of a split."""
    parser.add_argument("--split", choices=("test", "val", "train"), default="test", help="default: test")
    parser.add_argument("--queries", type=int, nargs="+", metavar="ROW", help="these captions of the split, from 0")
    parser.add_argument(
        "--number", type=positive, default=number, metavar="N", help=f"captions without --queries (default: {number})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")


def load_models(args: argparse.Namespace, *, with_decoder: bool = False) -> list[LoadedModel]:
    """Build the models of `add_model_arguments`, with the MAE decoder where it is needed.

    Raises: UserError if the numbers of arguments differ, or if a checkpoint does not fill its whole model.
    """
    configs = load_configs(args, len(args.checkpoint))
    names = model_names(args.names, configs, args.checkpoint)
    device = start().device
    loaded = []
    for name, config, path in zip(names, configs, args.checkpoint, strict=True):
        model = build_model(config, _decoder if with_decoder else no_heads)
        check_complete(model, initialise(model, find_weights(path), trust=args.trust_checkpoint))
        tokenizer = load_tokenizer(config.model.text_encoder.name)
        loaded.append(LoadedModel(name, config, model.to(device).eval(), tokenizer, device))
    return loaded


def _decoder(text_width: int, decoder: nn.Module) -> dict[str, nn.Module]:
    return {"decoder": decoder}


def load_configs(args: argparse.Namespace, number: int) -> list[Config]:
    """One configuration per model. A single one that is given counts for all."""
    paths = args.config * number if len(args.config) == 1 else args.config
    if len(paths) != number:
        raise UserError(f"{len(paths)} --config for {number} models: give one for all, or one for each, in their order")
    return [load_config(path, args.set) for path in paths]


def model_names(given: list[str] | None, configs: Sequence[Config], places: Sequence[str | Path]) -> list[str]:
    """The given names, else Vim, Mamba-Reg or ViT if that tells the models apart, else the names of their folders."""
    if given:
        if len(given) != len(configs):
            raise UserError(f"{len(given)} --names for {len(configs)} models")
        return given
    kinds = [KINDS[config.model.image_encoder.kind] for config in configs]
    if len(set(kinds)) == len(kinds):
        return kinds
    paths = [Path(place) for place in places]
    return [path.parent.name if path.suffix else path.name for path in paths]


def read_input(loaded: LoadedModel, picture: Path) -> Tensor:
    """Read a picture in the model's size, not yet normalised: (1, 3, H, W) uint8."""
    return read_image(picture, loaded.config.dataset.image_size)[None].to(loaded.device)


def encode_caption(loaded: LoadedModel, caption: str) -> tuple[str, Encoded]:
    """The cleaned caption, and its word pieces with their places in it."""
    max_words = loaded.config.dataset.max_words
    cleaned = clean_caption(caption, max_words)
    return cleaned, encode(loaded.tokenizer, cleaned, max_words)


def pairs_of(config: Config, split: str) -> list[Pair]:
    """Every caption of a split with its image, in the order of the annotations (the rows of eval.py's results)."""
    images = config.dataset.folder / "imgs"
    return [
        Pair(caption, images / record.file_path, record.person_id)
        for record in split_records(config, split)
        for caption in record.captions
    ]


def chosen_pairs(args: argparse.Namespace, config: Config) -> list[Pair]:
    """The captions that the arguments of `add_pair_arguments` ask for. Drawn ones are of different people.

    Raises: UserError if there is no such caption.
    """
    pairs = pairs_of(config, args.split)
    if args.queries:
        check_rows(args.queries, len(pairs))
        return [pairs[row] for row in args.queries]
    rows = draw_rows(args.number, np.array([pair.person_id for pair in pairs]), args.seed)
    logger.info("captions %s of %s", " ".join(map(str, rows)), args.split)
    return [pairs[row] for row in rows]


def draw_rows(number: int, person_id: np.ndarray, seed: int) -> list[int]:
    """Draw at most `number` rows of different people from person_id (T,), in ascending order."""
    order = np.random.default_rng(seed).permutation(len(person_id))
    _, first = np.unique(person_id[order], return_index=True)  # the first drawn row of each person
    return sorted(order[np.sort(first)[:number]].tolist())


def check_rows(rows: Sequence[int], number: int) -> None:
    """Raises: UserError unless every row is one of `number` captions."""
    for row in rows:
        if not 0 <= row < number:
            raise UserError(f"there is no caption {row}: they are numbered 0 to {number - 1}")


def captions_of(records: Sequence[Record], scores: dict[str, np.ndarray], place: str) -> list[str]:
    """Captions as annotated, in the order of the scores. Records whose image was skipped are left out.

    Raises: UserError if the records are not those that were scored.
    """
    scored = set(scores["image_paths"].tolist())
    pairs = [(r.person_id, caption) for r in records if r.file_path in scored for caption in r.captions]
    if not np.array_equal([person_id for person_id, _ in pairs], scores["text_person_ids"]):
        raise UserError(f"{place}: not the captions that were scored; give the configuration that eval.py was given")
    return [caption for _, caption in pairs]


def name_of_data(config: Config, split: str) -> str:
    """Benchmark and split for titles, and whether the pedestrians are drawn."""
    drawn = (config.dataset.folder / "synthetic.json").is_file()
    return f"{'drawn pedestrians, ' if drawn else ''}{config.dataset.name} {split}"
