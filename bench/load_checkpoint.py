"""Time and peak memory of loading a checkpoint: python -m bench.load_checkpoint [--folder DIR]

Random checkpoints of BERT base (.bin and .safetensors) and of Vim-B (.pth) are written. Each is then loaded, in a
process of its own, into a model that consists of little else. Peak memory is the process's resident set, including the
pages of the mapped file. It is counted from before the model was built, and from after. Linux only.
"""

import argparse
import gc
import multiprocessing
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.rows import Rows
from models.bert_layers import BertSizes
from models.person_search import PersonSearchModel
from models.text_encoder import TextEncoder
from models.vision_mamba import VisionMamba
from models.weights import initialise

MIB = 2**20
TINY_BERT = BertSizes(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, vocab_size=16)


def build(kind: str) -> PersonSearchModel:
    """BERT base beside a tiny Vim, or Vim-B beside a tiny BERT."""
    width, depth = (768, 24) if kind == "vim" else (16, 1)
    sizes = BertSizes() if kind == "bert" else TINY_BERT
    encoder = VisionMamba(image_size=(224, 224), width=width, depth=depth)
    return PersonSearchModel(
        encoder,
        TextEncoder(sizes, image_width=encoder.width, fusion_layer=sizes.num_hidden_layers, full_cross_attention=False),
        embed_dim=16,
        temperature=0.07,
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.5, 0.5, 0.5),
    )


def write(kind: str, path: Path) -> None:
    model = build(kind)
    if kind == "vim":
        assert isinstance(model.image_encoder, VisionMamba)
        torch.save({"model": model.image_encoder.state_dict()}, path)
        return
    tensors = {f"bert.{name}": tensor for name, tensor in model.text_encoder.bert.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (peak since the last reset) of this process, in MiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def load(kind: str, path: Path) -> tuple[float, float, float]:
    """Seconds of loading, and the peak in MiB above the process without the model and above the process with it."""
    empty = resident("VmRSS")
    model = build(kind)
    gc.collect()
    built = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    begin = time.perf_counter()
    initialise(model, path)
    return time.perf_counter() - begin, resident("VmHWM") - empty, resident("VmHWM") - built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to put the checkpoints (default: a temporary folder)")
    args = parser.parse_args()
    values = ("MiB", "seconds", "peak / file, model included", "peak / file, above the model")
    rows = Rows({"checkpoint": 16}, values)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for kind, name in (("bert", "bert.bin"), ("bert", "bert.safetensors"), ("vim", "vim.pth")):
            path = Path(folder) / name
            # spawned, so that no process inherits memory that another has used
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                pool.apply(write, (kind, path))
                seconds, whole, above = pool.apply(load, (kind, path))
            size = path.stat().st_size / MIB
            rows.add(name, f"{size:.0f}", f"{seconds:.2f}", f"{whole / size:.2f}", f"{above / size:.2f}")


if __name__ == "__main__":
    main()
