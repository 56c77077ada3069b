"""python -m models.selective_scan: which backends work here, how fast they are and how far from the reference."""

import time

import torch
from torch import Tensor

from models.selective_scan.compiler import cache_folder, load_kernels
from models.selective_scan.interface import BACKENDS, choose_backend, selective_scan

SHAPE = (2, 384, 197, 16)  # batch, dim, length, state
REPEATS = 4


def main() -> None:
    examine("cpu")
    if BACKENDS["cpu"].obstacle("cpu", torch.float32, SHAPE[-1]) is None:
        kernels = ", ".join(f"{kernel.name} ({kernel.lanes} floats)" for kernel in load_kernels())
        print(f"CPU kernels for this processor, the first of which is used: {kernels}; kept in {cache_folder()}")
    print()
    if torch.cuda.is_available():
        examine("cuda")
    else:
        print(f"selective scan on a GPU: torch {torch.__version__} sees none here")
    print(
        "\nDeviation: of the output and all gradients from the reference in float64, relative to the maximum of each."
    )


def examine(device_type: str) -> None:
    """A table of the backends for float32 tensors on this device."""
    inputs = _inputs(torch.device(device_type))
    exact = _run({name: x.double() for name, x in inputs.items()}, "reference")
    where = f"{torch.get_num_threads()} CPU threads" if device_type == "cpu" else torch.cuda.get_device_name()
    print(f"selective scan on {device_type} ({where}), float32, (batch, dim, length, state) = {SHAPE}")
    print(f"{'backend':12} {'forward + backward':>18} {'largest deviation':>18}")
    for name, backend in BACKENDS.items():
        reason = backend.obstacle(device_type, torch.float32, SHAPE[-1])
        if reason is not None:
            print(f"{name:12} not available: {reason}")
            continue
        try:
            milliseconds, results = _timed(inputs, name)
        except Exception as error:  # whatever a broken installation raises: the other backends are still of interest
            print(f"{name:12} fails: {type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}")
            continue
        deviation = max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(results, exact, strict=True))
        print(f"{name:12} {milliseconds:15.1f} ms {deviation:18.1e}")
    print(f"auto takes: {choose_backend('auto', device_type, torch.float32, SHAPE[-1])}")


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
    results: list[Tensor] = []
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        results = _run(inputs, backend)
        if inputs["u"].is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds) * 1e3, results


if __name__ == "__main__":
    main()
