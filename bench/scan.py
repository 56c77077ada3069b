"""Selective scan: every available backend against two loops, and whole mixer layers.

    python -m bench.scan [--device cuda] [--dtype bfloat16] [--batches 1 8 64] [--widths 192 768] [--lengths 129 197]
    python -m bench.scan --mixer ...       a Vim mixer from in_proj to out_proj, also as stock mamba-ssm computes it

Times are the minimum over interleaved repeats (all take turns), in ms. "ratio" is to the reference, "to plain" to the
loop of published code (plain_scan.py; float32 only). "of copy" and "of matmul" say how far the scan is from the
machine's limits: the bytes that must cross memory over the measured bandwidth of a large copy, and the kernel's
floating-point operations over the measured rate of a float32 matrix product.
"""

import argparse
import importlib.util
import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bench.plain_scan import plain_scan
from bench.rows import Rows
from bench.stock_mixer import stock_mixer
from bench.timing import copy_rate, matmul_rate, take_turns
from models.joined_weights import joined_once
from models.mamba_mixer import BidirectionalMambaMixer
from models.selective_scan import selective_scan
from models.selective_scan.interface import available_backends

STATE = 16
STOCK = "stock, flipped"
EXPAND = 2  # channels of the scan per width of the encoder
# Per channel, step and state, a fused multiply-add counting two: an exponential takes 15, the forward recurrence 5; the
# backward pass repeats them with two more for C and has 12 of its own.
FLOPS = {"forward": 20, "forward + backward": 20 + 22 + 12}
# Tensors of u's size that are read or written at least once: u, delta, z, out; then those three again, the gradient of
# the output and three gradients.
TENSORS = {"forward": 4, "forward + backward": 4 + 7}
REFERENCE_STATES = 1 << 28  # batch * dim * length * state: beyond it the reference loop is left out for its memory


def main() -> None:
    arguments = parse_arguments()
    dtype, device = getattr(torch, arguments.dtype), arguments.device
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
    rates = copy_rate(device), matmul_rate(device)
    print(f"{where}, {arguments.dtype}, copy {rates[0] / 1e9:.1f} GB/s, float32 matmul {rates[1] / 1e9:.0f} GFLOP/s")
    names = {"batch": 3, "width": 4, "length": 4, "memory": 12, "pass": 18, "backend": 14}
    limits = () if arguments.mixer else ("to plain", "of copy", "of matmul")
    rows = Rows(names, ("ms", "ratio", *limits), title="mixers" if arguments.mixer else "scans")
    for batch, width, length in itertools.product(arguments.batches, arguments.widths, arguments.lengths):
        if arguments.mixer:
            tokens = torch.randn(batch, length, width, device=device, requires_grad=True)
            bench_mixer(tokens, dtype, arguments.repeats, rows)
            continue
        for channel_last in (False, True) if device == "cpu" else (True,):
            shape = (batch, EXPAND * width, length)
            inputs = make_inputs(*shape, channel_last=channel_last, dtype=dtype, device=device)
            bench_scan(inputs, rates, arguments.repeats, rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the selective scan's backends, or whole mixer layers.")
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if gpu else "cpu")
    parser.add_argument("--repeats", type=int, default=7, help="turns of every backend; the minimum counts")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of u, delta and z (autocast with --mixer)")
    parser.add_argument("--batches", type=int, nargs="+", help="images at a time")
    parser.add_argument("--widths", type=int, nargs="+", help="of the encoder; the scan has twice as many channels")
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens")
    parser.add_argument("--mixer", action="store_true", help="whole mixer layers instead of the scan alone")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    arguments.dtype = arguments.dtype or ("bfloat16" if on_gpu else "float32")
    arguments.batches = arguments.batches or ([1, 8, 64] if on_gpu else [8])
    arguments.widths = arguments.widths or ([192, 384, 768] if on_gpu else [192, 768])
    arguments.lengths = arguments.lengths or ([129, 193, 197, 577] if on_gpu else [197])
    return arguments


def make_inputs(
    batch: int, dim: int, length: int, *, channel_last: bool, dtype: torch.dtype, device: str
) -> dict[str, Tensor]:
    """The tensors of one direction of a Vim mixer, random, with gradients required."""
    generator = torch.Generator().manual_seed(0)

    def sequence(channels: int) -> Tensor:
        shape = (batch, length, channels) if channel_last else (batch, channels, length)
        x = torch.randn(shape, generator=generator).to(device, dtype)
        return x.transpose(1, 2) if channel_last else x

    inputs = {
        "u": sequence(dim),
        "delta": sequence(dim),
        "A": -torch.arange(1.0, STATE + 1, device=device).repeat(dim, 1),
        "B": sequence(STATE),
        "C": sequence(STATE),
        "D": torch.ones(dim, device=device),
        "z": sequence(dim),
        "delta_bias": (torch.rand(dim, generator=generator) - 4).to(device),
    }
    return {name: x.requires_grad_() for name, x in inputs.items()}


def bench_scan(inputs: dict[str, Tensor], rates: tuple[float, float], repeats: int, rows: Rows) -> None:
    u = inputs["u"]
    scans: dict[str, Callable[[], Tensor]] = {
        name: partial(selective_scan, **inputs, delta_softplus=True, backend=name)  # type: ignore[arg-type]
        for name in available_backends(u.device.type, u.dtype)
    }
    if u.numel() * STATE > REFERENCE_STATES:
        del scans["reference"]
    elif u.dtype == torch.float32:
        scans["plain"] = partial(plain_scan, **inputs)
    grad = torch.randn_like(u)

    def forward(run: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            run()

    def both(run: Callable[[], Tensor]) -> None:
        torch.autograd.grad(run(), list(inputs.values()), grad)

    batch, dim, length = u.shape
    memory = "channel-last" if u.stride(1) == 1 else "length-last"
    for what, run in {"forward": forward, "forward + backward": both}.items():
        times = take_turns({name: partial(run, each) for name, each in scans.items()}, repeats, u.device.type)
        moved, flops = TENSORS[what] * u.numel() * u.element_size(), FLOPS[what] * u.numel() * STATE
        for name, seconds in times.items():
            row = row_of((batch, dim // EXPAND, length), memory, what, name, seconds, times.get("reference"))
            limits = f"{moved / rates[0] / seconds:.1%}", f"{flops / rates[1] / seconds:.1%}"
            rows.add(*row, ratio(times.get("plain"), seconds), *limits)


def bench_mixer(tokens: Tensor, dtype: torch.dtype, repeats: int, rows: Rows) -> None:
    """A layer by each backend; the ratio is to stock mamba-ssm where it is installed, else to the reference.

    Ours joins and casts its weights once, as in a training step, which is part of the time.
    """
    batch, length, width = tokens.shape
    torch.manual_seed(0)
    kind = tokens.device.type
    layers: dict[str, BidirectionalMambaMixer] = {}
    for name in available_backends(kind, dtype):
        if name != "reference" or tokens.numel() * EXPAND * STATE <= REFERENCE_STATES:
            layers[name] = BidirectionalMambaMixer(width, scan_backend=name).to(tokens.device)
    if "mamba-ssm" in layers and importlib.util.find_spec("causal_conv1d") is not None:
        layers[STOCK] = BidirectionalMambaMixer(width).to(tokens.device)
    grad = torch.randn_like(tokens)

    def mix(name: str) -> Tensor:
        layer = layers[name]
        with torch.autocast(kind, torch.bfloat16, enabled=dtype == torch.bfloat16):
            if name == STOCK:
                return stock_mixer(layer, tokens)
            with joined_once(layer, kind):
                return layer(tokens)

    def forward(name: str) -> None:
        with torch.no_grad():
            mix(name)

    def both(name: str) -> None:
        layers[name].zero_grad(set_to_none=True)  # as in training: gradients are written, not added
        tokens.grad = None
        out = mix(name)
        out.backward(grad.to(out.dtype))

    for what, run in {"forward": forward, "forward + backward": both}.items():
        times = take_turns({name: partial(run, name) for name in layers}, repeats, kind)
        base = times.get(STOCK, times.get("reference"))
        for name, seconds in times.items():
            rows.add(*row_of((batch, width, length), "mixer", what, name, seconds, base))


def row_of(
    shape: tuple[int, int, int], memory: str, what: str, name: str, seconds: float, base_seconds: float | None
) -> list[str]:
    """The cells that both tables have. shape: batch, width, length."""
    return [*map(str, shape), memory, what, name, f"{seconds * 1e3:.3f}", ratio(base_seconds, seconds)]


def ratio(base_seconds: float | None, seconds: float) -> str:
    return "-" if base_seconds is None else f"{base_seconds / seconds:.2f}x"


if __name__ == "__main__":
    main()
