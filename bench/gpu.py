"""Everything that only a GPU can show, one step after another: its tests, then the benches.

    python -m bench.gpu --seconds 600         what fits in ten minutes, the most valuable steps first
    python -m bench.gpu                       all steps
    python -m bench.gpu mixer train_step      some steps
    python -m bench.gpu --dry-run             all steps with small sizes on a CPU, to see that they work

Each step is a command with a limit of its own, cut to what is left of --seconds; a step for which too little is left is
skipped. Its output is shown, and written line by line to FOLDER/DATE-gpu-STEP.md with the command, the card and the
versions. So a step that fails or is stopped has left what it printed; its page says how it ended, and the next step
runs. The exit status is 1 if a step failed, was stopped or was skipped. Without the arguments that are given here, the
benches measure more sizes.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, TextIO

import torch


class Step(NamedTuple):
    command: str  # arguments of python
    limit: float  # seconds
    small: str  # the same for a dry run


STEPS = {  # in the order of their value
    "tests": Step(
        "-m pytest -m gpu tests/unit -vv --tb=short", 120, "-m pytest -m gpu tests/unit/evaluation --collect-only -q"
    ),
    "train_step": Step(
        "-m bench.train_step --device cuda --batches 64 8 --plain --no-fp32",
        80,
        "-m bench.train_step --device cpu --cases demo --batches 2 --plain --no-fp32 --repeats 1",
    ),
    "launches": Step(
        "-m bench.launches --batches 8 64",
        40,
        "-m bench.launches --device cpu --batches 2",
    ),
    "plain_step": Step(
        "-m bench.train_step --device cuda --batches 8",
        70,
        "-m bench.train_step --device cpu --cases demo --batches 2 --repeats 1",
    ),
    "mixer": Step(
        "-m bench.scan --mixer --batches 8 64 --widths 384 768 --lengths 197 577 --repeats 5",
        60,
        "-m bench.scan --device cpu --mixer --batches 1 2 --widths 32 --lengths 17 --repeats 1",
    ),
    "encoder": Step(
        "-m bench.encoder --widths base small --sizes 224 768 --repeats 3",
        60,
        "-m bench.encoder --device cpu --widths tiny --sizes 32 --batch 1 --repeats 1",
    ),
    "evaluate": Step(
        "-m bench.evaluate --device cuda",
        110,
        "-m bench.evaluate --gallery 4 --top-k 2 --plain-queries 1 --images 1 --small-gallery 8",
    ),
    "loader": Step(
        "-m bench.loader --sizes 224 --workers 0 8",
        60,
        "-m bench.loader --sizes 32 --workers 0 1 --pictures 16 --batch-size 4 --repeats 1",
    ),
    "scan": Step(
        "-m bench.scan --batches 8 64 --widths 384 768 --lengths 129 197 577 --repeats 3",
        120,
        "-m bench.scan --device cpu --batches 1 --widths 32 --lengths 17 33 --repeats 1",
    ),
    "compile": Step(
        "-m bench.train_step --device cuda --batches 8 --plain --compile",
        180,
        "-m bench.train_step --device cpu --cases demo --batches 2 --plain --repeats 1",
    ),
}
LEAST = 15.0  # seconds that a step needs to print anything
PACKAGES = ("torch", "triton", "transformers", "timm", "mamba-ssm", "causal-conv1d")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)} (default: all)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("bench/results"))
    parser.add_argument("--seconds", type=float, metavar="N", default=float("inf"), help="for all steps (default: any)")
    parser.add_argument("--dry-run", action="store_true", help="small sizes on a CPU; what they print means nothing")
    args = parser.parse_args(arguments)
    unknown = [step for step in args.steps if step not in STEPS]
    if unknown:
        parser.error(f"no step {unknown[0]!r}: choose from {', '.join(STEPS)}")
    if not (args.dry_run or torch.cuda.is_available()):
        parser.error(
            "no CUDA device is visible; the benches by themselves also measure on a CPU, and so does --dry-run"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    end, failed = time.monotonic() + args.seconds, False
    for name in args.steps or STEPS:
        command, limit = STEPS[name].small if args.dry_run else STEPS[name].command, STEPS[name].limit
        left = end - time.monotonic()
        if left < LEAST:
            print(f"== {name}: skipped, {max(left, 0):.0f} s are left", flush=True)
            failed = True
            continue
        print(f"\n== {name}: python {command}", flush=True)
        kind, where = ("dry-run", "a CPU, dry run") if args.dry_run else ("gpu", torch.cuda.get_device_name())
        path = args.out / f"{date.today().isoformat()}-{kind}-{name}.md"
        with path.open("w", encoding="utf-8") as page:
            ending, fault = write_page(page, f"{name} on {where}", command, min(limit, left))
        failed = failed or fault
        print(f"== {name}: {ending}, {path}", flush=True)
    return int(failed)


def write_page(page: TextIO, title: str, command: str, limit: float) -> tuple[str, bool]:
    """Run a step and write its page as it goes. Returns: how it ended, and whether that is a fault."""
    print(f"# {title}\n", file=page)
    print(f"`python {command}`, {date.today().isoformat()}\n\n{versions()}\n\n```", file=page, flush=True)
    begin = time.monotonic()
    fault = run([sys.executable, *shlex.split(command)], limit, page)
    ending = f"{fault or 'done'}, {time.monotonic() - begin:.0f} s"
    print(f"```\n\n{f'**{ending}**' if fault else ending}", file=page)
    return ending, fault is not None


def run(command: Sequence[str], limit: float, page: TextIO) -> str | None:
    """Run a command, show and write what it prints, and kill it with its own processes after `limit` seconds.

    Returns: what went wrong.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    assert process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def stop_late() -> None:
        late.set()
        stop()

    timer = threading.Timer(limit, stop_late)
    timer.start()
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            print(line, end="", file=page, flush=True)
        status = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:  # this process is interrupted
            stop()
    return f"stopped after {limit:.0f} s" if late.is_set() else f"exit status {status}" if status else None


def versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
