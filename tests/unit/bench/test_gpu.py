"""bench.gpu: runs commands, keeps what they print, and goes on after a bad one."""

import importlib
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.gpu import Step

SMALL = "-c 'raise SystemExit(9)'"  # of a dry run


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")


def page_of(folder: Path, step: str) -> str:
    (path,) = folder.glob(f"*-gpu-{step}.md")
    return path.read_text()


def test_each_step_leaves_a_page_and_a_bad_one_does_not_stop_the_next(card, monkeypatch, tmp_path):
    steps = {
        "fails": Step("-c \"print('seen before'); raise SystemExit(3)\"", 60, SMALL),
        "hangs": Step("-c \"import time; print('begins'); time.sleep(60)\"", 3, SMALL),
        "works": Step("-c \"print('a table')\"", 60, SMALL),
    }
    monkeypatch.setattr(gpu, "STEPS", steps)
    assert gpu.main(["--out", str(tmp_path)]) == 1
    pages = {step: page_of(tmp_path, step) for step in steps}
    for step, parts in {
        "fails": ["**exit status 3, ", "seen before"],
        "hangs": ["**stopped after 3 s, ", "begins"],
        "works": ["```\na table\n```", f"torch {version('torch')}", "# works on a card", "\ndone, "],
    }.items():
        assert [part for part in parts if part not in pages[step]] == []
    assert "**" not in pages["works"]


def test_one_step_by_name(card, monkeypatch, tmp_path):
    monkeypatch.setattr(
        gpu, "STEPS", {"one": Step("-c 'pass'", 60, SMALL), "other": Step("-c 'raise SystemExit(1)'", 60, SMALL)}
    )
    assert gpu.main(["one", "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.iterdir())) == 1


def test_a_step_gets_no_more_than_the_time_left_and_is_skipped_without_any(card, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu, "LEAST", 0.5)
    hangs = Step("-c \"import time; print('begins'); time.sleep(60)\"", 60, SMALL)
    monkeypatch.setattr(gpu, "STEPS", {"hangs": hangs, "late": hangs})
    assert gpu.main(["--seconds", "3", "--out", str(tmp_path)]) == 1
    assert "**stopped after 3 s, " in page_of(tmp_path, "hangs")
    assert "== late: skipped, 0 s are left" in capsys.readouterr().out
    assert list(tmp_path.glob("*late*")) == []


def test_what_a_step_has_started_ends_with_it(card, monkeypatch, tmp_path):
    """A child keeps the pipe open: without its end the next step would not begin."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    monkeypatch.setattr(gpu, "STEPS", {"parent": Step(f'-c "{code}"', 2, SMALL)})
    begin = time.monotonic()
    assert gpu.main(["--out", str(tmp_path)]) == 1
    assert time.monotonic() - begin < 20


BEYOND = ("scan", "compile")  # for which ten minutes have no room


def test_ten_minutes_have_room_for_all_but_the_last_steps():
    assert sum(step.limit for name, step in gpu.STEPS.items() if name not in BEYOND) <= 600
    assert list(gpu.STEPS)[-len(BEYOND) :] == list(BEYOND)


@pytest.mark.parametrize(
    ("visible", "arguments", "told"), [(True, ["speed"], "no step 'speed'"), (False, [], "no CUDA device")]
)
def test_what_cannot_run_is_said_in_a_line(monkeypatch, capsys, tmp_path, visible, arguments, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    with pytest.raises(SystemExit) as stopped:
        gpu.main([*arguments, "--out", str(tmp_path / "none")])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_dry_run_needs_no_gpu_and_says_what_its_page_is(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "STEPS", {"one": Step("-c 'raise SystemExit(1)'", 60, "-c \"print('small')\"")})
    assert gpu.main(["--dry-run", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    assert path.name.endswith("-dry-run-one.md")
    assert path.read_text().startswith("# one on a CPU, dry run\n")
    assert "small" in path.read_text()


@pytest.mark.parametrize("kind", ["command", "small"])
@pytest.mark.parametrize("step", [step for step in gpu.STEPS if step != "tests"])
def test_the_benches_know_the_flags_they_are_given(monkeypatch, step, kind):
    _, module, *flags = shlex.split(getattr(gpu.STEPS[step], kind))
    monkeypatch.setattr(sys, "argv", [module, *flags])
    importlib.import_module(module).parse_arguments()
