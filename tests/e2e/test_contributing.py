"""CONTRIBUTING.md, followed to the letter: its diffs in a copy of the repository, and its commands there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import REPOSITORY, ROOMS
from tests.helpers.recipes import Recipe, apply_diff, file_of, read_recipes

GUIDE = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = {recipe.title: recipe for recipe in read_recipes(GUIDE)}
each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@pytest.fixture
def copied(tmp_path, tiny_benchmark) -> Path:
    """What the commands need of the repository, with the debug configuration's drawn pedestrians."""
    for folder in (*ROOMS, "configs", "shell"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("train.py", "eval.py", "pyproject.toml"):
        shutil.copy(REPOSITORY / file, tmp_path / file)
    shutil.copytree(tiny_benchmark, tmp_path / "data" / "debug")
    return tmp_path


def follow(recipe: Recipe, root: Path) -> None:
    for diff in recipe.diffs:
        apply_diff(diff, root)


def run(command: str, root: Path) -> str:
    """Run a line of bash in root, with the Python of the tests as `python`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHON": sys.executable, "PYTHONPATH": str(root)}
    done = subprocess.run(["bash", "-ec", command], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_there_is_a_recipe_for_each_kind_of_part():
    assert list(RECIPES) == ["An image encoder", "A training objective", "A data set", "A scan backend"]
    assert all(recipe.diffs and recipe.commands and recipe.pointers for recipe in RECIPES.values())


@each_recipe
def test_what_a_recipe_points_to_is_there(recipe):
    for file, text in recipe.pointers:
        assert text in (REPOSITORY / file).read_text(encoding="utf-8"), file


@pytest.mark.slow
@each_recipe
def test_a_recipe_works(recipe, copied):
    follow(recipe, copied)
    told = "".join(run(command, copied) for command in recipe.commands)
    assert "stopped after step 2" in told  # each ends with a training
    assert ("  brightness " in told) == (recipe.title == "A training objective")  # its loss in the log


@each_recipe
def test_a_recipe_passes_the_checks(recipe, copied):
    follow(recipe, copied)
    changed = " ".join(file for file in map(file_of, recipe.diffs) if file.endswith(".py"))
    run(f"python -m ruff check {changed} && python -m ruff format --check {changed}", copied)


def test_a_recipe_that_is_out_of_date_fails(tmp_path):
    (tmp_path / "a.py").write_text("first = 1\nsecond = 2  # a comment\n")
    apply_diff("+++ a.py\n@@\n-second = 2\n+second = 3\n", tmp_path)
    assert (tmp_path / "a.py").read_text() == "first = 1\nsecond = 3\n"
    with pytest.raises(ValueError, match=r"should hold this once, not 0 times:\nsecond = 2$"):
        apply_diff("+++ a.py\n@@\n-second = 2\n+second = 3\n", tmp_path)
    with pytest.raises(ValueError, match="exists"):
        apply_diff("+++ a.py\n+new = 1\n", tmp_path)


def test_the_guide_names_the_test_command_and_the_hooks():
    for text in ("bash shell/test.sh --with-browser", "pre-commit install", "requirements-dev.txt"):
        assert text in GUIDE
