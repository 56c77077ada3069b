"""Turn a checkpoint into a small folder that other runs start from: python -m models.start CKPT OUT/ (see docs).

OUT/model.safetensors holds the weights in half precision, OUT/config.json the configuration they were trained with. The
folder is for init.paths. Parts left out have to come from another of its entries.
"""

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from models.export import config_of
from models.weights import TIED
from utils.errors import UserError
from utils.log import one_line_errors
from utils.pretrained import WEIGHTS_FILES, check_finite, find_weights, read_weights


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.start", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", metavar="CKPT", help="best.pth or last.pth of a run")
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to write")
    text = "a part that other files hold, e.g. frozen word embeddings: text_encoder.bert.embeddings.word_embeddings"
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="PART", help=text)
    args = parser.parse_args(arguments)
    path = find_weights(args.checkpoint)
    stored = read_weights(path)
    config = config_of(stored, path)
    kept = without_parts(stored.tensors, args.leave_out)
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / WEIGHTS_FILES[0]
    save_file({name: in_half(name, tensor, path) for name, tensor in kept.items()}, file)
    (args.output / "config.json").write_text(json.dumps(config.as_dict(), indent=1) + "\n", encoding="utf-8")
    numbers = sum(tensor.numel() for tensor in kept.values())
    Console().print(
        f"written: {file}, {numbers / 1e6:.1f} million numbers, {file.stat().st_size / 2**20:.1f} MiB", highlight=False
    )


def without_parts(tensors: Mapping[str, Tensor], parts: Collection[str]) -> dict[str, Tensor]:
    """All tensors but those of the parts, by whichever of their names. Raises: UserError if there is no such part."""
    left_out = {name for name in tensors for part in parts if name == part or name.startswith(f"{part}.")}
    for part in parts:
        if not any(name == part or name.startswith(f"{part}.") for name in left_out):
            raise UserError(f"--leave-out {part}: the checkpoint has no such part; name a module, e.g. text_encoder")
    return {name: tensor for name, tensor in tensors.items() if name not in left_out and TIED.get(name) not in left_out}


def in_half(name: str, tensor: Tensor, path: Path) -> Tensor:
    """Raises: UserError if a weight is not finite, or has no place in half precision."""
    half = tensor.half() if tensor.is_floating_point() else tensor
    check_finite(name, half, path)
    return half.clone().contiguous()  # a file holds no two names of one memory


if __name__ == "__main__":
    sys.exit(one_line_errors(main)())
