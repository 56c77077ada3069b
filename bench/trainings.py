"""Tables of training runs that differ in their settings: the runs of `bench.ablations` and `bench.twins`.

Each run has a folder. A finished run has left its row there and is not run again. A run that was stopped goes on from
its last checkpoint. Runs are made seed by seed: a table that is stopped early compares all variants on fewer seeds.
"""

import argparse
import hashlib
import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.outcomes import Outcome, print_differences, print_means
from bench.rows import Rows
from dataset.run_loaders import split_records
from training.checkpoint import LAST, load_checkpoint
from training.loop import hours
from utils.config import load_config
from utils.errors import UserError
from utils.files import save_json
from utils.log import set_up_logging
from utils.pretrained import find_weights

REPOSITORY = Path(__file__).parents[1]
ROW, PEOPLE = "row.json", "people.npz"
CHECKPOINT_EVERY_STEPS = 200  # of a run, to go on from


class Variant(NamedTuple):
    """Runs that differ in their seeds only."""

    name: str  # also of its folder
    config: Path
    settings: tuple[str, ...] = ()  # as of --set


class Plan(NamedTuple):
    variants: list[Variant]  # the first is what the others are compared with
    seeds: int
    steps: int
    folder: Path
    columns: tuple[str, ...]  # of the table, a part of the outcomes' values
    measure: Callable[[Path], Outcome]  # given the run's folder, which holds config.yaml and last.pth
    people: str  # a digest of those on whom runs are measured


def add_arguments(parser: argparse.ArgumentParser, folder: str, steps: int) -> None:
    text = "of each run, rounded to whole epochs if it is more than one (default: %(default)s)"
    parser.add_argument("--steps", type=int, default=steps, metavar="N", help=text)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each variant (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants only")
    parser.add_argument("--output", type=Path, default=Path(folder), help="folder of the runs (default: %(default)s)")


def chosen(variants: Sequence[Variant], names: Sequence[str] | None) -> list[Variant]:
    """Raises: UserError for a name that no variant has."""
    known = {variant.name: variant for variant in variants}
    for name in names or ():
        if name not in known:
            raise UserError(f"no variant {name}: there are {', '.join(known)}")
    return [variant for variant in variants if not names or variant.name in names]


def run_all(plan: Plan) -> None:
    """Make the runs that are missing, print each row as soon as it is there, and the summary at the end."""
    set_up_logging()  # of long evaluations
    plan = plan._replace(steps=whole_epochs(plan))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    runs = [(variant, seed) for seed in range(plan.seeds) for variant in plan.variants]
    missing = [run for run in runs if not is_finished(plan, *run)]
    width = max(len(variant.name) for variant in plan.variants)
    print(f"{len(runs)} runs of {plan.steps} steps, {len(runs) - len(missing)} of them are there already")
    if missing:
        print(f"the others take about {forecast(plan, missing)}, and their evaluation", flush=True)
    rows = Rows({"variant": width, "seed": 4}, plan.columns)
    outcomes: dict[str, list[Outcome]] = {variant.name: [] for variant in plan.variants}
    for variant, seed in runs:
        outcome = finished_run(plan, variant, seed)
        outcomes[variant.name].append(outcome)
        rows.add(variant.name, str(seed), *(f"{outcome.values[column]:.2f}" for column in plan.columns))
    print_means(plan.columns, outcomes)
    if len(outcomes) > 1:
        print_differences(plan.columns, outcomes)


def finished_run(plan: Plan, variant: Variant, seed: int) -> Outcome:
    """The outcome of a run, which is trained and measured if it is not there yet."""
    folder = folder_of(plan, variant, seed)
    if not is_finished(plan, variant, seed):
        since = time.perf_counter()
        train(plan, variant, seed)
        outcome = plan.measure(folder)
        outcome.save_people(folder / PEOPLE)
        seconds = round(time.perf_counter() - since, 1)
        save_json(folder / ROW, {**made_by(plan, variant, seed), "seconds": seconds, "values": outcome.values})
        for path in folder.glob("*.pth"):  # hundreds of megabytes
            path.unlink()
    values = json.loads((folder / ROW).read_text(encoding="utf-8"))["values"]
    with np.load(folder / PEOPLE) as people:
        return Outcome(values, dict(people))


def folder_of(plan: Plan, variant: Variant, seed: int) -> Path:
    return plan.folder / variant.name.replace(" ", "-") / f"seed-{seed}"


def made_by(plan: Plan, variant: Variant, seed: int) -> dict[str, Any]:
    """What a row depends on, as far as this command sets it."""
    own = {"variant": variant.name, "seed": seed, "steps": plan.steps, "config": variant.config.name}
    config = load_config(variant.config, variant.settings)
    merged = hashlib.sha256(repr(config.as_dict()).encode()).hexdigest()[:16]
    start = [_hash_of(find_weights(name)) for name in config.init.paths]
    return {**own, "settings": list(variant.settings), "merged config": merged, "start": start, "people": plan.people}


@cache
def _hash_of(weights: Path) -> str:
    """Of a checkpoint, or of the weights in a folder."""
    found = hashlib.sha256()
    for path in sorted(weights.glob("*.safetensors")) if weights.is_dir() else [weights]:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def is_finished(plan: Plan, variant: Variant, seed: int) -> bool:
    """Raises: UserError if the folder holds a run with other settings."""
    path = folder_of(plan, variant, seed) / ROW
    if not path.is_file():
        return False
    found, wanted = json.loads(path.read_text(encoding="utf-8")), made_by(plan, variant, seed)
    for key, value in wanted.items():
        if found.get(key) != value:
            raise UserError(f"{path} is of {key} {found.get(key)}, not {value}: delete it, or name another --output")
    return True


def whole_epochs(plan: Plan) -> int:
    """The plan's steps, rounded to whole epochs if they are more than one: then the learning rate falls to its end."""
    per_epoch = steps_of_an_epoch(plan.variants[0])
    return max(1, round(plan.steps / per_epoch)) * per_epoch if plan.steps > per_epoch else plan.steps


def steps_of_an_epoch(variant: Variant) -> int:
    config = load_config(variant.config, variant.settings)
    captions = sum(len(record.captions) for record in split_records(config, "train"))
    return max(1, captions // config.train.batch_size)


def command(plan: Plan, variant: Variant, seed: int) -> list[str]:
    """train.py and its arguments for a run."""
    epochs = math.ceil(plan.steps / steps_of_an_epoch(variant))
    settings = [
        *variant.settings,
        f"train.seed={seed}",
        f"train.epochs={epochs}",
        f"train.stop_after_steps={plan.steps}",
        f"train.checkpoint_every_steps={CHECKPOINT_EVERY_STEPS}",
        "train.keep_checkpoints=1",
        f"eval.every={epochs}",
        "eval.rerank_top_k=0",  # during training
    ]
    return [sys.executable, str(REPOSITORY / "train.py"), "--config", str(variant.config), "--set", *settings]


def train(plan: Plan, variant: Variant, seed: int) -> None:
    """Train a run to its last step, from its last checkpoint if it has one. What it says goes to output.txt alone.

    Raises: UserError if training fails or was stopped.
    """
    folder = folder_of(plan, variant, seed)
    folder.mkdir(parents=True, exist_ok=True)
    status = _run([*command(plan, variant, seed), "--output", str(folder), "--resume", "auto"], folder / "output.txt")
    run = f"training of {variant.name}, seed {seed}"
    if status or not (folder / LAST).is_file():
        raise UserError(f"{run} failed: {_last_line((folder / 'output.txt').read_text())}")
    step = load_checkpoint(folder / LAST)["step"]
    if step < plan.steps:
        raise UserError(f"{run} was stopped at step {step}: give the same command to go on")


def _run(arguments: list[str], output: Path) -> int:
    """Run a command to its end. A signal that ends this process reaches it as well, and it may save its work."""
    with output.open("a") as file:
        child = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT)
        try:
            return child.wait()
        except BaseException as reason:
            if not isinstance(reason, KeyboardInterrupt):  # which a terminal has sent to both
                child.terminate()
            child.wait()
            raise


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def forecast(plan: Plan, runs: list[tuple[Variant, int]]) -> str:
    """Hours of these runs, from two steps of one of them, or from rows that are there."""
    measured = [json.loads(path.read_text())["seconds"] for path in plan.folder.glob(f"*/*/{ROW}")]
    if measured:
        return hours(sum(measured) / len(measured) * len(runs))
    told = subprocess.run([*command(plan, *runs[0]), "--check"], capture_output=True, text=True)
    found = re.search(r"^step +([\d.]+) s", told.stdout, re.MULTILINE)
    if not found:
        raise UserError(f"{runs[0][0].name} cannot be trained: {_last_line(told.stderr)}")
    return hours(float(found.group(1)) * plan.steps * len(runs))
