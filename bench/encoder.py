"""Images per second of whole image encoders of the same width: Vim, Mamba-Reg and timm's ViT (DeiT's shapes).

    python -m bench.encoder [--device cuda] [--precision bf16] [--sizes 224 384 512 768 1024] [--widths tiny small base]

Both encode the same random images in the same precision (bf16: autocast), without checkpointing or compilation. Ours
joins and casts its weights once, as in a training step, which is part of the time. The backward pass starts from the
sum of the class feature. `--batch` counts images of 224 px; at other sizes a batch has as many pixels. The encoders
take turns, and the best of several repeats counts.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import timm
import torch
from torch import Tensor, nn

from bench.rows import Rows
from bench.timing import take_turns
from models.build import NAMED_ENCODERS
from models.joined_weights import joined_once
from models.mamba_reg import MambaReg
from models.selective_scan.interface import choose_backend
from models.vision_mamba import VisionMamba
from training.allocator import keep_freed_memory

WIDTHS = {"tiny": 192, "small": 384, "base": 768}
BASE_SIZE = 224


def main() -> None:
    arguments = parse_arguments()
    keep_freed_memory()  # as in training
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    where = f"{torch.get_num_threads()} CPU threads" if arguments.device == "cpu" else torch.cuda.get_device_name()
    backend = choose_backend("auto", arguments.device, dtype, 16)
    print(f"{where}, {arguments.precision}, scan by {backend}")
    names = {"model": 5, "pixels": 4, "batch": 3, "pass": 18}
    rows = Rows(names, ("Vim", "Mamba-Reg", "ViT", "Vim / ViT"), title="images per second")
    for width in arguments.widths:
        for size in arguments.sizes:
            batch = max(round(arguments.batch * (BASE_SIZE / size) ** 2), 1)
            image = torch.randn(batch, 3, size, size, device=arguments.device)
            for what, times in time_encoders(width, image, dtype, arguments.repeats).items():
                speeds = [batch / seconds for seconds in times.values()]
                rates = [f"{speed:.1f}" for speed in speeds]
                rows.add(width, str(size), str(batch), what, *rates, f"{speeds[0] / speeds[-1]:.2f}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Images per second of Vim, Mamba-Reg and timm's ViT.")
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if gpu else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: bf16 on a GPU, fp32 on a CPU")
    parser.add_argument("--widths", choices=list(WIDTHS), nargs="+", default=list(WIDTHS))
    parser.add_argument("--sizes", type=int, nargs="+", help="side of the images in px, multiples of 16")
    parser.add_argument("--batch", type=int, help="images of 224 px at a time")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    arguments.precision = arguments.precision or ("bf16" if on_gpu else "fp32")
    arguments.sizes = arguments.sizes or ([224, 384, 512, 768, 1024] if on_gpu else [224, 384])
    arguments.batch = arguments.batch or (64 if on_gpu else 8)
    return arguments


def time_encoders(width: str, image: Tensor, dtype: torch.dtype, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds per batch, by pass and encoder."""
    torch.manual_seed(0)
    size = image.shape[-1]
    vim = VisionMamba(image_size=(size, size), width=WIDTHS[width]).to(image.device)
    named = NAMED_ENCODERS[f"mamba_reg_{width}"]
    mamba_reg = MambaReg(
        image_size=(size, size),
        width=WIDTHS[width],
        registers=named["registers"],
        register_reduction=named.get("register_reduction", 1),
    ).to(image.device)
    vit = timm.create_model(f"deit_{width}_patch16_224", pretrained=False, img_size=size, num_classes=0).to(
        image.device
    )
    class_features: dict[str, Callable[[], Tensor]] = {
        "Vim": lambda: vim(image).pooled,
        "Mamba-Reg": lambda: mamba_reg(image).pooled,
        "ViT": lambda: vit(image),
    }
    modules: dict[str, nn.Module] = {"Vim": vim, "Mamba-Reg": mamba_reg, "ViT": vit}

    def encode(name: str) -> Tensor:
        kind = image.device.type
        once = nullcontext() if name == "ViT" else joined_once(modules[name], kind)
        with torch.autocast(kind, dtype, enabled=dtype != torch.float32), once:
            return class_features[name]()

    def forward(name: str) -> None:
        with torch.no_grad():
            encode(name)

    def both(name: str) -> None:
        modules[name].zero_grad(set_to_none=True)
        encode(name).float().sum().backward()

    return {
        what: take_turns({name: partial(run, name) for name in modules}, repeats, image.device.type)
        for what, run in {"forward": forward, "forward + backward": both}.items()
    }


if __name__ == "__main__":
    main()
