"""Tables of training runs: each run is made once, a stopped one goes on, and rows of other settings are refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import trainings
from bench.outcomes import Outcome
from bench.trainings import Plan, Variant, chosen, run_all
from tests.helpers.runs import train_command
from utils.config import save_config
from utils.errors import UserError


@pytest.fixture
def plan(debug_config, tmp_path) -> Plan:
    config = tmp_path / "tiny.yaml"
    save_config(debug_config(), config)
    variants = [Variant("whole", config), Variant("no mae", config, ("losses.weights.mae=0",))]

    def measure(folder: Path) -> Outcome:
        assert (folder / "last.pth").is_file()
        seed = int(folder.name[-1])
        has_mae = "mae: 0.0" not in (folder / "config.yaml").read_text()
        value = 50.0 + 10 * seed + 4 * has_mae
        return Outcome({"R@1": value}, {"R@1": np.full(6, value)})

    return Plan(variants, 2, 3, tmp_path / "runs", ("R@1",), measure, "these")


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """The commands that were run, here in this process."""
    commands = []

    def run(arguments: list[str], output: Path) -> int:
        assert arguments[0] == sys.executable
        assert Path(arguments[1]).name == "train.py"
        commands.append(arguments[2:])
        output.write_text("it was said\n")
        return train_command(arguments[2:])

    monkeypatch.setattr(trainings, "_run", run)
    monkeypatch.setattr(trainings, "forecast", lambda plan, runs: f"{len(runs)} s")
    return commands


def test_every_run_is_made_once_and_its_row_is_kept(plan, started, capsys):
    run_all(plan)
    printed = capsys.readouterr().out
    for arguments, seed, settings in zip(started, (0, 0, 1, 1), 2 * [[], ["losses.weights.mae=0"]], strict=True):
        assert f"train.seed={seed}" in arguments
        assert "train.stop_after_steps=3" in arguments
        assert arguments[arguments.index("--set") + 1 :][: len(settings)] == settings
    assert "4 runs of 3 steps, 0 of them are there already" in printed
    assert "about 4 s" in printed
    rows = [line.split() for line in printed.splitlines() if line.startswith("| ") and "±" not in line]
    assert [row[1:-1] for row in rows if row[-2] in ("54.00", "50.00", "64.00", "60.00")] == [
        ["whole", "|", "0", "|", "54.00"],
        ["no", "mae", "|", "0", "|", "50.00"],
        ["whole", "|", "1", "|", "64.00"],
        ["no", "mae", "|", "1", "|", "60.00"],
    ]
    assert "59.00 ± 7.07 (59.00-59.00)" in printed
    assert "-4.00 ± 0.00 (-4.00 to -4.00)" in printed
    run_all(plan)
    assert len(started) == 4
    assert "4 of them are there already" in (again := capsys.readouterr().out)
    assert printed.partition("| variant")[2] == again.partition("| variant")[2]
    assert not list(plan.folder.rglob("*.pth"))


@pytest.mark.parametrize(("steps", "rounded"), [(3, 3), (5, 5), (7, 5), (8, 10), (10, 10)])
def test_steps_are_whole_epochs(plan, monkeypatch, steps, rounded):
    monkeypatch.setattr(trainings, "steps_of_an_epoch", lambda variant: 5)
    assert trainings.whole_epochs(plan._replace(steps=steps)) == rounded


def test_a_stopped_run_goes_on(plan, started, monkeypatch):
    whole = plan._replace(variants=plan.variants[:1], seeds=1)
    row = whole.folder / "whole" / "seed-0" / "row.json"
    command = trainings.command

    def interrupted(*args) -> list[str]:
        return [*command(*args), "train.stop_after_steps=1"]

    monkeypatch.setattr(trainings, "command", interrupted)
    with pytest.raises(UserError, match="stopped at step 1: give the same command"):
        run_all(whole)
    assert not row.exists()
    monkeypatch.setattr(trainings, "command", command)
    run_all(whole)
    assert json.loads(row.read_text())["values"] == {"R@1": 54.0}
    assert len((row.parent / "train.log").read_text().split("step 1 ")) == 2  # it was not made again


def test_rows_of_other_settings_are_refused(plan, started):
    one = plan._replace(variants=plan.variants[:1], seeds=1)
    run_all(one)
    with pytest.raises(UserError, match="is of steps 3, not 2"):
        run_all(one._replace(steps=2))
    with pytest.raises(UserError, match="is of people these, not others"):
        run_all(one._replace(people="others"))
    config = one.variants[0].config
    config.write_text(config.read_text().replace("alpha: 0.4", "alpha: 0.3"))
    with pytest.raises(UserError, match="is of merged config "):
        run_all(one)


def test_training_that_fails_is_told_in_one_line(plan, started, monkeypatch):
    def fails(_: list[str], output: Path) -> int:
        output.write_text("warning: ...\nerror: no such data\n")
        return 2

    monkeypatch.setattr(trainings, "_run", fails)
    with pytest.raises(UserError, match="whole, seed 0 failed: error: no such data"):
        run_all(plan)


def test_variants_are_chosen_by_name(plan):
    assert chosen(plan.variants, ["no mae"]) == plan.variants[1:]
    assert chosen(plan.variants, None) == plan.variants
    with pytest.raises(UserError, match="no variant x: there are whole, no mae"):
        chosen(plan.variants, ["x"])


def test_a_signal_reaches_the_training_before_this_process_ends(tmp_path, monkeypatch):
    """The child notes that it was asked to end, as train.py does."""
    code = "import signal, sys, time; signal.signal(15, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
    code += "print('ready', flush=True); time.sleep(60)"
    output, popen = tmp_path / "output.txt", trainings.subprocess.Popen

    class Stopped(popen):
        def wait(self, timeout=None):
            if self.returncode is None and not getattr(self, "asked", False):
                self.asked = True
                while "ready" not in output.read_text():
                    pass
                raise SystemExit(143)
            return super().wait(timeout)

    monkeypatch.setattr(trainings.subprocess, "Popen", Stopped)
    with pytest.raises(SystemExit):
        trainings._run([sys.executable, "-c", code], output)
    assert output.read_text().split() == ["ready", "saved"]
