"""pyproject.toml and the requirements files name the same packages, and the packages are those of the repository."""

import re

import pytest
from packaging.requirements import Requirement

from tests.helpers.paths import REPOSITORY, ROOMS
from tests.helpers.pyproject import PROJECT, PYPROJECT

EXTRAS = PROJECT["optional-dependencies"]
FILES = {  # file -> what it holds
    "requirements.txt": [*PROJECT["dependencies"], *EXTRAS["export"]],
    "requirements-dev.txt": EXTRAS["dev"],
    "requirements-milvus.txt": EXTRAS["milvus"],
    "requirements-video.txt": EXTRAS["video"],
    "requirements-cuda.txt": EXTRAS["cuda"],
}


def lines_of(file: str) -> list[str]:
    """Its lines without comments."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in (REPOSITORY / file).read_text().splitlines())
    return [line for line in lines if line]


def test_every_requirements_file_and_extra_is_compared():
    assert set(FILES) == {path.name for path in REPOSITORY.glob("requirements*.txt")}
    assert set(EXTRAS) == {"export", "dev", "milvus", "video", "cuda"}


@pytest.mark.parametrize("file", FILES)
def test_a_requirements_file_holds_what_pyproject_names(file):
    assert {str(Requirement(line)) for line in lines_of(file)} == {str(Requirement(line)) for line in FILES[file]}
    assert len(lines_of(file)) == len(FILES[file])


def test_no_package_is_named_twice():
    lists = [PROJECT["dependencies"], *EXTRAS.values()]
    names = [Requirement(line).name for lines in lists for line in lines]
    assert len(names) == len(set(names))


def test_torch_without_the_release_that_fails():
    (torch,) = (Requirement(line) for line in PROJECT["dependencies"] if Requirement(line).name == "torch")
    assert "2.13.0" not in torch.specifier
    assert all(version in torch.specifier for version in ("2.11.0", "2.12.0", "2.14.1"))


def test_every_room_is_installed_and_type_checked():
    setuptools = PYPROJECT["tool"]["setuptools"]
    assert set(setuptools["packages"]["find"]["include"]) == {"configs", *(f"{room}*" for room in ROOMS)}
    assert set(setuptools["py-modules"]) == {"train", "eval", "search"}
    recipes = {f"{module}.py" for module in setuptools["py-modules"]}
    assert set(PYPROJECT["tool"]["mypy"]["files"]) == {*ROOMS, *recipes, "bench"}
    assert PYPROJECT["tool"]["mypy"]["disallow_untyped_defs"]
