"""Turn a checkpoint into a folder to share: python -m models.export CKPT OUT/ [--onnx] (docs/checkpoints.md).

`from_pretrained` of models/pretrained_model.py reads OUT/config.json and OUT/model.safetensors. OUT also gets the files
of the tokenizer. Momentum copies, queues and the optimiser's state are left out. --init and eval.py --checkpoint accept
the folder too.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dataset.tokenizer import load_tokenizer
from models.build import model_sizes
from models.checkpoint_kinds import HEAD_OF_TASK, recognise
from models.onnx_export import export_onnx
from models.pretrained_model import PretrainedPersonSearch
from models.weights import check_complete, initialise, report_table
from utils.config import Config, load_config, stored_config
from utils.errors import UserError
from utils.log import one_line_errors, set_up_logging
from utils.pretrained import StoredWeights, find_weights, read_weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the configuration, build and fill the model, write the files and, with --onnx, the graphs."""
    args = parse_arguments(arguments)
    set_up_logging()
    path = find_weights(args.checkpoint)
    stored = read_weights(path, trust=args.trust_checkpoint)
    config = load_config(args.config) if args.config else config_of(stored, path)
    tasks = tasks_in(stored, path, config)
    del stored
    model = PretrainedPersonSearch(**model_sizes(config), tasks=tasks, max_words=config.dataset.max_words).eval()
    report = initialise(model, path, trust=args.trust_checkpoint)
    Console(stderr=True).print(report_table(report, model))
    check_complete(model, report)
    tokenizer = load_tokenizer(config.model.text_encoder.name)
    if len(tokenizer) > model.text_encoder.sizes.vocab_size:
        raise UserError(
            f"{path} has {model.text_encoder.sizes.vocab_size} word pieces, the vocabulary of "
            f"{config.model.text_encoder.name} has {len(tokenizer)}: name the right one as model.text_encoder.name"
        )
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    console = Console()
    console.print(f"written: {args.output}", highlight=False)
    if args.onnx:
        for name, deviation in export_onnx(model, args.output / "onnx").items():
            console.print(f"written: {args.output}/onnx/{name}.onnx, off PyTorch by {deviation:.1e}", highlight=False)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.export", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", metavar="CKPT", help="best.pth or last.pth of a run, or a RaSa or MARS .pth, say")
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument("--config", type=Path, help="of the model; not needed for a checkpoint of ours, which holds it")
    parser.add_argument("--onnx", action="store_true", help="write and check OUT/onnx/*.onnx as well")
    parser.add_argument("--trust-checkpoint", action="store_true", help="unpickle the file even if that runs code")
    return parser.parse_args(arguments)


def config_of(stored: StoredWeights, path: Path) -> Config:
    """Return the configuration in a checkpoint. Raises: UserError if it holds none of ours."""
    if stored.config is None or "dataset" not in stored.config:
        raise UserError(f"{path} does not say which configuration it belongs to; name it by --config")
    return stored_config(stored.config, str(path))


def tasks_in(stored: StoredWeights, path: Path, config: Config) -> list[str]:
    """Return the losses that the configuration trains, except those whose head the checkpoint lacks."""
    kind = recognise(stored.tensors, path)
    modules = {own.partition(".")[0] for name in stored.tensors if (own := kind.rename(name))}
    absent = {task for task, head in HEAD_OF_TASK.items() if head not in modules}
    return sorted(key for key, weight in config.losses.weights.items() if weight > 0 and key not in absent)


if __name__ == "__main__":
    sys.exit(one_line_errors(main)())
