"""python -m models.selective_scan: which backends work here, how fast they are and how far from the reference."""

import time

import torch
from torch import Tensor

from models.selective_scan.build import cache_folder, load_kernels
from models.selective_scan.interface import BACKENDS, choose_backend, selective_scan

SHAPE = (2, 384, 197, 16)  # batch, dim, length, state


def main() -> None:
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = _inputs(torch.device(device_type))
    exact = _run({name: x.double() for name, x in inputs.items()}, "reference")
    print(
        f"selective scan on {device_type}, {torch.get_num_threads()} CPU threads, (batch, dim, length, state) = {SHAPE}"
    )
    print(f"{'backend':12} {'forward + backward':>18} {'largest deviation':>18}")
    for name, backend in BACKENDS.items():
        reason = backend.obstacle(device_type, torch.float32, SHAPE[-1])
        if reason is not None:
            print(f"{name:12} not available: {reason}")
            continue
        milliseconds, results = _timed(inputs, name)
        deviation = max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(results, exact, strict=True))
        print(f"{name:12} {milliseconds:15.1f} ms {deviation:18.1e}")
    print(f"auto takes: {choose_backend('auto', device_type, torch.float32, SHAPE[-1])}")
    print("Deviation: of the output and all gradients from the reference in float64, relative to the maximum of each.")
    if BACKENDS["cpu"].obstacle("cpu", torch.float32, SHAPE[-1]) is None:
        kernels = ", ".join(f"{kernel.name} ({kernel.lanes} floats)" for kernel in load_kernels())
        print(f"CPU kernels for this processor, the first of which is used: {kernels}; kept in {cache_folder()}")


def _inputs(device: torch.device) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch, dim, length, state = SHAPE

    def channel_last(channels: int) -> Tensor:
        return torch.randn(batch, length, channels, generator=generator).to(device).transpose(1, 2)

    return {
        "u": channel_last(dim),
        "delta": channel_last(dim),
        "A": -torch.arange(1.0, state + 1, device=device).repeat(dim, 1),
        "B": channel_last(state),
        "C": channel_last(state),
        "D": torch.ones(dim, device=device),
        "z": channel_last(dim),
        "delta_bias": torch.full((dim,), -4.0, device=device),
    }


def _run(inputs: dict[str, Tensor], backend: str) -> list[Tensor]:
    """The output and the gradients of its sum of squares."""
    inputs = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    out = selective_scan(**inputs, delta_softplus=True, backend=backend)  # type: ignore[arg-type]
    return [out.detach(), *torch.autograd.grad(out.square().sum(), list(inputs.values()))]


def _timed(inputs: dict[str, Tensor], backend: str) -> tuple[float, list[Tensor]]:
    """The shortest of some runs in ms, and the results."""
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        results = _run(inputs, backend)
        if inputs["u"].is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds) * 1e3, results


if __name__ == "__main__":
    main()
