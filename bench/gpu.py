"""Everything that only a GPU can show, one step after another: its tests, then the benches.

    python -m bench.gpu                       all steps, some minutes each
    python -m bench.gpu mixer train_step      some steps

Each step is a command. Its output is shown, and kept in FOLDER/DATE-gpu-STEP.md with the command, the card and the
versions. If a step fails or takes too long, its page says so and the next step runs; the exit status is then 1. Without
the arguments that are given here, the benches measure more sizes.
"""

import argparse
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch

LIMIT = 300  # seconds
COLUMNS = "140"  # of the tables, whatever the terminal
STEPS = {
    "tests": "-m pytest -m gpu tests/unit",
    "mixer": "-m bench.scan --mixer --batches 8 64 --widths 384 768 --lengths 197 577",
    "scan": "-m bench.scan --batches 8 64 --widths 384 768 --lengths 129 197 577 --repeats 3",
    "encoder": "-m bench.encoder --repeats 3",
    "train_step": "-m bench.train_step --device cuda",
    "evaluate": "-m bench.evaluate --device cuda",
    "loader": "-m bench.loader --sizes 224 --workers 0 8",
}
PACKAGES = ("torch", "triton", "transformers", "timm", "mamba-ssm", "causal-conv1d")


class Outcome(NamedTuple):
    text: str  # what the command printed
    seconds: float
    fault: str | None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)} (default: all)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("bench/results"))
    parser.add_argument("--limit", type=int, metavar="SECONDS", default=LIMIT, help=f"for a step (default: {LIMIT})")
    args = parser.parse_args(arguments)
    unknown = [step for step in args.steps if step not in STEPS]
    if unknown:
        parser.error(f"no step {unknown[0]!r}: choose from {', '.join(STEPS)}")
    if not torch.cuda.is_available():
        parser.error("no CUDA device is visible; the benches by themselves also measure on a CPU")
    args.out.mkdir(parents=True, exist_ok=True)
    failed = False
    for step in args.steps or STEPS:
        print(f"\n== {step}: python {STEPS[step]}", flush=True)
        outcome = run([sys.executable, *shlex.split(STEPS[step])], args.limit)
        path = args.out / f"{date.today().isoformat()}-gpu-{step}.md"
        path.write_text(report(step, outcome), encoding="utf-8")
        failed = failed or outcome.fault is not None
        print(f"== {step}: {outcome.fault or 'done'}, {outcome.seconds:.0f} s, {path}", flush=True)
    return int(failed)


def run(command: Sequence[str], limit: float) -> Outcome:
    """Run a command, show and collect what it prints, and kill it after `limit` seconds."""
    begin, lines = time.monotonic(), []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "COLUMNS": COLUMNS}
    )
    assert process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit, stop)
    timer.start()
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    finally:
        timer.cancel()
    status = process.wait()
    fault = f"stopped after {limit:.0f} s" if late.is_set() else f"exit status {status}" if status else None
    return Outcome("".join(lines), time.monotonic() - begin, fault)


def report(step: str, outcome: Outcome) -> str:
    told = f"`python {STEPS[step]}`, {date.today().isoformat()}, {outcome.seconds:.0f} s"
    if outcome.fault:
        told += f", **{outcome.fault}**"
    title = f"{step} on {torch.cuda.get_device_name()}"
    return f"# {title}\n\n{told}\n\n{versions()}\n\n```\n{outcome.text.rstrip()}\n```\n"


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
