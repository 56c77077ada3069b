"""The command line of figures, under its name and under the old one."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from figures.__main__ import main
from tests.helpers.paths import REPOSITORY


@pytest.mark.parametrize("suffix", [".png", ".pdf", ""])
def test_architecture_command(tmp_path, suffix):
    main(["architecture", str(tmp_path / "docs" / f"a{suffix}")])
    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == ["a.pdf", "a.png"]
    assert Image.open(tmp_path / "docs" / "a.png").width > 1000


@pytest.mark.parametrize(
    ("module", "told"), [("figures", ""), ("utils.figures", "python -m utils.figures is now: python -m figures\n")]
)
def test_both_names_of_the_command_work(tmp_path, module, told):
    """The old name says the new one in a single line."""
    command = [sys.executable, "-m", module, "architecture", str(tmp_path / "a")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "a.png"), str(tmp_path / "a.pdf")]
    assert done.stderr == told
    assert all(Path(name).is_file() for name in done.stdout.split())
