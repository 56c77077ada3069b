"""Imports point one way: a room imports only rooms below it, and no modules import one another in a circle."""

from pathlib import Path

import pytest

from tests.helpers.imports import Import, circle_of, imports_of, modules_of
from tests.helpers.paths import REPOSITORY, ROOMS

# From low to high. Parts that share a line do not import one another.
ORDER = [
    ("utils",),
    ("dataset",),
    ("losses", "models"),
    ("evaluation",),
    ("training",),
    ("figures",),
    ("gallery",),
    ("train", "eval", "search"),
    ("bench",),
    ("tests",),
]
PARTS = tuple(part for level in ORDER for part in level)


def arrows_back(imports: list[Import]) -> list[str]:
    """Imports of a part that is not below the importer's."""
    height = {part: number for number, level in enumerate(ORDER) for part in level}
    return [
        str(each)
        for each in imports
        if (own := room_of(each.importer)) != (other := room_of(each.imported)) and height[other] >= height[own]
    ]


def room_of(module: str) -> str:
    return module.partition(".")[0]


def within(imports: list[Import], room: str) -> list[Import]:
    return [each for each in imports if room_of(each.importer) == room_of(each.imported) == room]


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return imports_of(REPOSITORY, modules_of(REPOSITORY, PARTS))


def test_the_order_names_every_part():
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")}
    scripts = {path.stem for path in REPOSITORY.glob("*.py")}
    assert packages | scripts | {"bench"} == set(PARTS)
    assert set(ROOMS) == set(PARTS) - {"train", "eval", "search", "bench", "tests"}


def test_no_arrow_runs_back(imports):
    assert len(imports) > 500
    assert arrows_back(imports) == []


@pytest.mark.parametrize("room", PARTS)
def test_no_circle_within_a_room(imports, room):
    assert " -> ".join(circle_of(within(imports, room))) == ""


def test_tests_do_not_import_one_another(imports):
    """What they share lies in conftest.py or tests/helpers."""
    between = [each for each in within(imports, "tests") if ".test_" in each.imported or "conftest" in each.imported]
    assert [str(each) for each in between] == []


def tree(root: Path, files: dict[str, str]) -> list[Import]:
    """Imports of a made-up tree."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return imports_of(root, modules_of(root, PARTS))


@pytest.mark.parametrize(
    ("importer", "text"),
    [
        ("dataset/a.py", "import models.b"),
        ("dataset/a.py", "from models import b"),
        ("dataset/a.py", "from models.b import thing"),
        ("dataset/a.py", "def late():\n    from models.b import thing"),
        ("dataset/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import models.b as b"),
        ("dataset/a.py", "from importlib import import_module\nb = import_module('models.b')"),
        ("losses/a.py", "from models.b import thing"),
        ("utils/a/c.py", "from models.b import thing"),
    ],
)
def test_an_arrow_that_runs_back_is_seen(tmp_path, importer, text):
    line = len(text.splitlines())
    found = tree(tmp_path, {importer: text, "models/b.py": "thing = 1"})
    assert arrows_back(found) == [f"{importer}:{line} imports models.b"]


def test_parts_of_one_line_do_not_import_one_another(tmp_path):
    files = {
        "models/a.py": "import losses.b",
        "losses/b.py": "",
        "train.py": "import search",
        "search.py": "import models.a",
    }
    found = tree(tmp_path, files)
    assert arrows_back(found) == ["models/a.py:1 imports losses.b", "train.py:1 imports search"]


def test_a_circle_is_seen_through_relative_and_late_imports(tmp_path):
    files = {
        "gallery/__init__.py": "from gallery.a import open",
        "gallery/a.py": "from . import b\nimport json, torch",
        "gallery/b.py": "def late():\n    from .c import thing",
        "gallery/c.py": "from gallery import a",
        "utils/d.py": "import utils.e",
        "utils/e.py": "",
    }
    found = tree(tmp_path, files)
    *circle, again = circle_of(within(found, "gallery"))
    start = circle.index("gallery.a")
    assert circle[start:] + circle[:start] == ["gallery.a", "gallery.b", "gallery.c"]
    assert again == circle[0]
    assert circle_of(within(found, "utils")) == []
