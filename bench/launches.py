"""What a training step launches: each kind of kernel with its number and its time, from PyTorch's profiler.

    python -m bench.launches                       Vim-B at 224 px, all losses, batches of 8 and 64, on a GPU
    python -m bench.launches --device cpu          the demo's model; operators in the place of kernels

The step runs eagerly, as a graph launches the same kernels at once. "Host" is the time until the last of them is
launched, "busy" the sum of their times: where the host takes as long as the step, launches limit its speed.
"""

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.rows import Rows
from bench.step_cases import Variant, build, config_of, step
from utils.log import set_up_logging
from utils.precision import best_precision

WARM_UP_STEPS = 3  # kernels are compiled and the optimiser's state is allocated
SHOWN = 40  # kinds of kernels, the ones that take longest
LONGEST_NAME = 70
DOES = re.compile(r"\w*(Functor|_kernel_cuda)\w*")  # within the types of a kernel
OPERATORS = ("aten::", "mamba_tbps::")


class Kind(NamedTuple):
    name: str
    launches: int
    milliseconds: float


class Profile(NamedTuple):
    """Of one step."""

    kinds: list[Kind]  # the ones that take longest first
    host: float  # milliseconds
    step: float

    @property
    def launches(self) -> int:
        return sum(kind.launches for kind in self.kinds)

    @property
    def busy(self) -> float:
        return sum(kind.milliseconds for kind in self.kinds)


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    set_up_logging()
    name, variant = "vim_base" if device.type == "cuda" else "demo", Variant(False, best_precision(device.type))
    for batch_size in args.batches:
        case = build(config_of(name, batch_size, args.set), variant, device)
        run = partial(step, case, variant)
        for _ in range(WARM_UP_STEPS):
            run()
        show(profiled(run, device), f"{name}, batch {batch_size}, {variant.precision}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="where to measure")
    parser.add_argument("--batches", type=int, nargs="+", metavar="N", default=[8, 64], help="samples in a batch")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the configuration")
    return parser.parse_args()


def profiled(run: Callable[[], object], device: torch.device) -> Profile:
    """Run a step twice: with a clock alone, then with the profiler, which slows the host down."""
    host, whole = clocked(run, device)
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as profiler:
        run()
        wait(device)
    launches: Counter[str] = Counter()
    microseconds: Counter[str] = Counter()
    for event in profiler.events():
        if device.type == "cuda" and event.device_type == DeviceType.CUDA:
            microseconds[short(event.name)] += event.self_device_time_total
        elif device.type == "cpu" and event.name.startswith(OPERATORS):
            microseconds[short(event.name)] += event.self_cpu_time_total
        else:
            continue
        launches[short(event.name)] += 1
    return Profile([Kind(name, launches[name], time / 1e3) for name, time in microseconds.most_common()], host, whole)


def clocked(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Milliseconds until the host is done, and until the device is."""
    wait(device)
    begin = time.perf_counter()
    run()
    host = time.perf_counter() - begin
    wait(device)
    return 1e3 * host, 1e3 * (time.perf_counter() - begin)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def short(name: str) -> str:
    """A kernel's name without namespaces, arguments and types but the one that says what an elementwise kernel does."""
    plain = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    base = re.split(r"[<(]", plain)[0].strip().rpartition("::")[2]
    does = DOES.search(plain[len(base) :])
    return (f"{base} {does.group()}" if does else base or name)[:LONGEST_NAME]


def show(found: Profile, title: str) -> None:
    told = f"step {found.step:.1f} ms, host {found.host:.1f} ms, busy {found.busy:.1f} ms, {found.launches:,} launches"
    rows = Rows({"kernel": 30}, ("launches", "ms", "of busy"), title=f"{title}: {told}")
    rest = found.kinds[SHOWN:]
    others = [Kind("the others", sum(kind.launches for kind in rest), sum(kind.milliseconds for kind in rest))]
    for kind in [*found.kinds[:SHOWN], *(others if rest else [])]:
        share = kind.milliseconds / found.busy
        rows.add(kind.name, f"{kind.launches:,}", f"{kind.milliseconds:.2f}", f"{share:.1%}")


if __name__ == "__main__":
    main()
