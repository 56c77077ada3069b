"""The scripts in shell/: they are valid bash, and every file that they name exists."""

import re
import shutil
import subprocess

import pytest

from tests.conftest import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "shell").glob("*.sh"))
# Files of the repository: not globs (*-eval.sh), nor what is made in another folder ($RUN/config.yaml)
NAMED_FILE = re.compile(r"(?<![\w./*${}-])(?:\$REPOSITORY/)?([\w./-]*\w\.(?:py|sh|yaml|txt|md))\b")
MADE_BY_THE_SCRIPT = {"mamba-tbps-requirements.txt"}  # a copy inside the virtual environment
FOLDERS = ("", "configs", "shell")  # where a script may mean a bare name to be


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_named_files_exist(script):
    named = {name.lstrip("/") for name in NAMED_FILE.findall(script.read_text())}  # "$(dirname ...)/common.sh"
    assert named
    named -= MADE_BY_THE_SCRIPT
    missing = [name for name in named if not any((REPOSITORY / folder / name).exists() for folder in FOLDERS)]
    assert missing == []


def test_the_names_that_users_type():
    names = {path.name for path in SCRIPTS}
    benchmarks = ("cuhk", "icfg", "rstp")
    assert {f"{name}_train.sh" for name in benchmarks} | {f"{name}-eval.sh" for name in benchmarks} <= names
    assert "data_process.sh" in names
