"""The project as `pip install` leaves it: every file is there, and its modules are found from any folder."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.paths import REPOSITORY, ROOMS

BUILD = (
    "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"  # needs no network
)
USE = """
import site, sys
site.addsitedir(sys.argv[1])
import train
from gallery import Gallery
from utils.config import BASE, load_config
assert load_config(BASE.with_name("cuhk_pedes.yaml")).dataset.name == "CUHK-PEDES"
print(BASE, sys.modules[Gallery.__module__].__file__, train.__file__, sep="\\n")
"""


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_of(root: Path) -> set[str]:
    """What an installation needs: the rooms with their pages and kernels, the configurations, the three recipes."""
    inside = [path for folder in (*ROOMS, "configs") for path in (root / folder).rglob("*")]
    files = [path for path in [*root.glob("*.py"), *inside] if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(root)) for path in files}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the repository, without what building leaves in it."""
    source = tmp_path_factory.mktemp("source")
    for name in [*sorted(files_of(REPOSITORY)), "pyproject.toml", "README.md", "LICENSE"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, source / name)
    return source


def built(source: Path, what: str, folder: Path) -> Path:
    """The unpacked wheel that a hook of setuptools makes of the copy."""
    run("-c", BUILD, what, folder, cwd=source)
    (wheel,) = folder.glob("mamba_tbps-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_holds_every_file_and_works_in_any_folder(source, tmp_path):
    site = built(source, "build_wheel", tmp_path)
    assert files_of(site) == files_of(source)
    (tmp_path / "elsewhere").mkdir()
    places = run("-c", USE, site, cwd=tmp_path / "elsewhere").splitlines()
    assert len(places) == 3
    assert all(Path(place).is_relative_to(site) for place in places)


def test_an_editable_installation_uses_the_files_of_the_repository(source, tmp_path):
    site = built(source, "build_editable", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    places = run("-c", USE, site, cwd=tmp_path / "elsewhere").splitlines()
    assert len(places) == 3
    assert all(Path(place).is_relative_to(source) for place in places)
