"""A training step: that of train.py against the one written plainly (bench/plain_step.py), same weights and batch.

    python -m bench.train_step                                    the demo's model, and one of width 384, on a CPU
    python -m bench.train_step --device cuda                      Vim-B at 224 px and BERT base, batches of 8 and 64
    python -m bench.train_step --device cuda --plain 8            the same, the plain step at a batch of 8 alone
    python -m bench.train_step --device cuda --plain --no-fp32    what training does by itself, the graph first

Pictures are noise, captions as long as those of CUHK-PEDES with two chunks each, no dropout, weights random; the scan
is by the same backend. In their first step, all take the negatives, masks and words that the plain step has drawn, so
that losses and gradients can be compared; how many they would have drawn otherwise is printed. On a GPU ours is also
measured as a CUDA graph (train.cuda_graph); all others run eagerly. Each row is printed once it is measured.

- Times: the best of some steps, which take turns with the plain step.
- Memory: the peak of the first steps above the built model, so with gradients and optimiser. On a GPU it is what torch
  reserves, as the pool of a graph is full even where no tensor lives. On a CPU a process of its own does the steps.
- Operations: of matrix products, convolutions and attention, a multiply-add counting two.
- Operators: those that a step dispatches, views left out. Of a graph, those around its one launch.
- Parts: shares of the time, with their backward passes. The rest is the optimiser, the momentum copies, the queue, and
  copies.
"""

import argparse
import gc
import multiprocessing
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench import parts
from bench.load_checkpoint import resident
from bench.operators import OperatorCounter
from bench.rows import Rows
from bench.same_draws import SameDraws
from bench.step_cases import CASES, PLAIN, Case, Variant, build, config_of, gradients, step
from bench.step_parts import PARTS
from bench.timing import matmul_rate, take_turns
from training.allocator import keep_freed_memory
from utils.config import Config
from utils.cuda_graphs import WARM_UP_CALLS
from utils.log import set_up_logging
from utils.precision import best_precision

VALUES = ("images/s", "times plain", "peak GiB", "GFLOP/image", "of matmul", "operators")


class Started(NamedTuple):
    """A case after its first steps."""

    variant: Variant
    case: Case
    losses: dict[str, Tensor]  # of the first step, and so are the gradients
    gradients: list[Tensor]
    operations: int
    operators: int
    peak: float  # GiB
    seconds: float  # of the first step, in which layers are compiled


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    set_up_logging()  # a graph that cannot be captured says so
    keep_freed_memory()
    precisions = dict.fromkeys([best_precision(device.type), *([] if args.no_fp32 else ["fp32"])])
    rates = {name: matmul_rate(device.type, name) for name in precisions}
    where = f"{torch.get_num_threads()} CPU threads" if device.type == "cpu" else torch.cuda.get_device_name()
    told = ", ".join(f"{name} {rate / 1e12:.2f} TFLOP/s" for name, rate in rates.items())
    print(f"{where}, torch {torch.__version__}; matrix products: {told}", flush=True)
    for name in args.cases:
        for batch_size in args.batches or [CASES[name][2]]:
            variants = [Variant(False, precision) for precision in rates]
            best = best_precision(device.type)
            if device.type == "cuda":
                variants = [Variant(False, best, graph=True), *variants]
            if args.compile:
                variants.append(Variant(False, best, graph=device.type == "cuda", compiled=True))
            if args.plain is None or batch_size in args.plain:
                variants = [PLAIN, *variants]
            config = config_of(name, batch_size, args.set)
            compare(f"{name}, batch {batch_size}", config, variants, rates, device, args.repeats)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if gpu else "cpu", help="where to measure")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), help="default: vim_base on a GPU, else the others")
    parser.add_argument("--batches", type=int, nargs="+", metavar="N", help="samples in a batch (default: by case)")
    parser.add_argument("--plain", type=int, nargs="*", metavar="N", help="batches with the plain step (default: all)")
    parser.add_argument("--no-fp32", action="store_true", help="ours only in the precision that training would choose")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="turns of each step; the best counts")
    parser.add_argument("--compile", action="store_true", help="also with train.compile, which takes long to start")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the configuration")
    args = parser.parse_args()
    on_gpu = args.device == "cuda"
    args.cases = args.cases or (["vim_base"] if on_gpu else [name for name in CASES if name != "vim_base"])
    args.batches = args.batches or ([8, 64] if on_gpu else None)
    if args.no_fp32 and args.plain != []:
        parser.error("--no-fp32 leaves the plain step out as well, so it wants --plain without a number")
    return args


def compare(
    title: str,
    config: Config,
    variants: Sequence[Variant],
    rates: dict[str, float],
    device: torch.device,
    repeats: int,
) -> None:
    """Print a row for each variant, and below it how far it is from the plain step and where its time goes.

    The plain step comes first if it is among the variants, and then takes turns with each of the others.
    """
    rows = Rows({"step": 17}, VALUES, title=title)
    plain: Started | None = None
    draws = SameDraws()
    for variant in variants:
        gc.collect()  # before the next one needs memory
        try:
            draws = SameDraws() if plain is None else draws
            started = start(config, variant, device, draws)
            rows.add(variant.name, *measure(started, plain, rates[variant.precision], repeats))
        except torch.OutOfMemoryError:
            print(f"{variant.name}: does not fit in the device's memory", flush=True)
            continue
        if variant.compiled:
            print(f"  start-up: {started.seconds:.0f} s until the first step was done", flush=True)
        if plain is not None:
            print(f"  {difference(plain, started)}; {draws.others} of {draws.number} draws were others", flush=True)
        if not variant.graph:  # whose parts are one launch
            named = PARTS[variant.plain](started.case.state)
            shares = parts.shares(partial(step, started.case, variant), named, device.type)
            print("  " + ", ".join(f"{part} {share:.1%}" for part, share in shares.items()), flush=True)
        if variant == PLAIN:
            plain = started
        del started


def start(config: Config, variant: Variant, device: torch.device, draws: SameDraws) -> Started:
    """Build a case and do its first steps: one that is compared, those after which a graph is captured, one more."""
    peak = peak_memory_of_process(config, variant) if device.type == "cpu" else 0.0
    case = build(config, variant, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of the variant before
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
    begin = time.perf_counter()
    with draws.of_a_step(), FlopCounterMode(display=False) as operations:
        losses = {key: loss.clone() for key, loss in step(case, variant).items()}
    max(float(loss) for loss in losses.values())  # waits for the device
    seconds = time.perf_counter() - begin
    first = gradients(case)
    for _ in range(WARM_UP_CALLS if variant.graph else 0):
        step(case, variant)
    with OperatorCounter() as operators:
        step(case, variant)
    if device.type == "cuda":
        peak = (torch.cuda.max_memory_reserved() - before) / 2**30
    flops, launches = operations.get_total_flops(), operators.counts.total()
    return Started(variant, case, losses, first, flops, launches, peak, seconds)


def measure(started: Started, plain: Started | None, rate: float, repeats: int) -> list[str]:
    """The cells of VALUES. rate: of matrix products, in operations per second."""
    taking_turns = [started] if plain is None else [plain, started]
    runs = {each.variant: partial(step, each.case, each.variant) for each in taking_turns}
    times = take_turns(runs, repeats, started.case.batch.image_1.device.type)
    seconds, batch_size = times[started.variant], started.case.config.train.batch_size
    to_plain = "-" if plain is None else f"{times[PLAIN] / seconds:.2f}"
    share = started.operations / seconds / rate
    per_image = started.operations / batch_size / 1e9
    rest = (f"{started.peak:.2f}", f"{per_image:.2f}", f"{share:.0%}", f"{started.operators:,}")
    return [f"{batch_size / seconds:.2f}", to_plain, *rest]


def difference(plain: Started, ours: Started) -> str:
    """Largest absolute difference of a loss, and of an element of a gradient beside the largest element there is."""
    loss = max(abs(float(plain.losses[key] - ours.losses[key])) for key in plain.losses)
    pairs = zip(plain.gradients, ours.gradients, strict=True)
    gradient = max(float((one - other).abs().max()) for one, other in pairs)
    largest = max(float(one.abs().max()) for one in plain.gradients)
    return f"a loss differs by {loss:.1e}, a gradient by {gradient:.1e} (largest {largest:.1e})"


def peak_memory_of_process(config: Config, variant: Variant) -> float:
    """GiB above the built model, of two steps on a CPU in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (config, variant))


def _peak_memory(config: Config, variant: Variant) -> float:
    case = build(config, variant, torch.device("cpu"))
    before = resident("VmRSS")
    for _ in range(2):
        step(case, variant)
    return (resident("VmHWM") - before) / 1024


if __name__ == "__main__":
    main()
