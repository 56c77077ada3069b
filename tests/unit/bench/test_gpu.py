"""bench.gpu: runs commands, keeps what they print, and goes on after a bad one."""

import importlib
import shlex
import sys
from importlib.metadata import version

import pytest
import torch

from bench import gpu


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")


def test_each_step_leaves_a_page_and_a_bad_one_does_not_stop_the_next(card, monkeypatch, tmp_path):
    steps = {
        "fails": "-c \"print('seen before'); raise SystemExit(3)\"",
        "hangs": "-c \"import time; print('begins', flush=True); time.sleep(60)\"",
        "works": "-c \"print('a table')\"",
    }
    monkeypatch.setattr(gpu, "STEPS", steps)
    assert gpu.main(["--out", str(tmp_path), "--limit", "3"]) == 1
    pages = {path.stem.rpartition("-")[2]: path.read_text() for path in tmp_path.iterdir()}
    assert set(pages) == set(steps)
    for step, parts in {
        "fails": ["**exit status 3**", "seen before"],
        "hangs": ["**stopped after 3 s**", "begins"],
        "works": ["```\na table\n```", f"torch {version('torch')}", "# works on a card"],
    }.items():
        assert [part for part in parts if part not in pages[step]] == []
    assert "**" not in pages["works"]


def test_one_step_by_name(card, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "STEPS", {"one": "-c 'pass'", "other": "-c 'raise SystemExit(1)'"})
    assert gpu.main(["one", "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.iterdir())) == 1


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


@pytest.mark.parametrize("step", [step for step in gpu.STEPS if step != "tests"])
def test_the_benches_know_the_flags_they_are_given(monkeypatch, step):
    _, module, *flags = shlex.split(gpu.STEPS[step])
    monkeypatch.setattr(sys, "argv", [module, *flags])
    importlib.import_module(module).parse_arguments()
