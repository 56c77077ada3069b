"""The documentation builds as a site without a dead link, and whatever it names exists: paths, tests, commands, keys.

Pages refer to files outside docs/ by their path in backticks, since the site does not hold those files; mkdocs checks
the links among the pages, and the tests here check the rest.
"""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.helpers.paths import CONFIGS, REPOSITORY, ROOMS

DOCS = REPOSITORY / "docs"
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "tests/parity/README.md")),
    *sorted(DOCS.rglob("*.md")),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))

FOLDERS = (*ROOMS, "configs", "shell", "docs", "bench", "tests")
ROOTS = (REPOSITORY, REPOSITORY / "tests", REPOSITORY / "tests" / "parity")  # what a path may be relative to
SUFFIXES = (".py", ".sh", ".md", ".c", ".h", ".toml", ".yaml", ".yml", ".txt", ".cff")
MADE_BY_A_RUN = {"config.yaml", "table.md", "grounding.md", "model.safetensors", "train.log", "benchmark.txt"}
MADE_BY_A_RUN |= {"DIR/processed_data/benchmark.txt"}
OF_OTHERS = {"data_process.py", "ruamel.yaml"}  # what pages name of other projects
OLD_NAMES = {"utils.figures", "dataset.synthetic"}  # they only print the new name

CODE = re.compile(r"```.*?```|`([^`\n]+)`", re.DOTALL)  # a group for what stands in the line, none for a block
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"\b(?:python3?|bash) (-m )?([\w./-]+)((?:(?!&&|\|)[^`#\n]|\\\n)*)")


def inline_code(page: Path) -> list[str]:
    return [match[1] for match in CODE.finditer(page.read_text()) if match[1]]


def commands(page: Path) -> list[tuple[bool, str, str]]:
    """(is it a module, its name, its arguments) of each command that starts python or bash."""
    return [(bool(match[1]), match[2], match[3]) for match in COMMAND.finditer(page.read_text())]


@cache
def file_names() -> set[str]:
    return {path.name for folder in (REPOSITORY, *(REPOSITORY / name for name in FOLDERS)) for path in files_of(folder)}


def files_of(folder: Path) -> list[Path]:
    return list(folder.glob("*") if folder == REPOSITORY else folder.rglob("*"))


def looks_like_a_path(text: str) -> bool:
    if not re.fullmatch(r"[\w./*-]+", text) or text in MADE_BY_A_RUN | OF_OTHERS:
        return False
    return text.endswith(SUFFIXES) or ("/" in text and text.split("/")[0] in FOLDERS)


def path_exists(text: str) -> bool:
    if "/" not in text and "*" not in text and text in file_names():
        return True
    return any(True for root in ROOTS for _ in root.glob(text.rstrip("/")))


@cache
def names_in(path: Path) -> set[str]:
    """Functions, classes and constants at the top of a module, and what it imports."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def module_file(dotted: str) -> Path | None:
    path = REPOSITORY.joinpath(*dotted.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def is_of_the_code(dotted: str) -> bool:
    """Whether a dotted name is a module, something at the top of one, or something within that."""
    module, *names = dotted.split(".")
    while names and module_file(f"{module}.{names[0]}"):
        module = f"{module}.{names.pop(0)}"
    file = module_file(module)
    return file is not None and (not names or names[0] in names_in(file))


def is_a_key(dotted: str) -> bool:
    section = YAML(typ="safe").load(CONFIGS / "base.yaml")
    for name in dotted.split("."):
        if not isinstance(section, dict) or name not in section:
            return False
        section = section[name]
    return True


@cache
def sources() -> str:
    """Everything in which options of our commands are declared."""
    folders = [REPOSITORY / folder for folder in (*ROOMS, "bench", "shell")]
    files = [*REPOSITORY.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.[ps][yh]"))]
    return "\n".join(file.read_text() for file in files)


def test_the_site_builds_without_a_dead_link(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True)
    assert built.returncode == 0, built.stderr.decode()
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert pages <= {path.relative_to(tmp_path / "site") for path in (tmp_path / "site").rglob("*.html")}


def test_every_page_is_on_the_entry_page():
    entry = (DOCS / "index.md").read_text()
    missing = [page.name for page in DOCS.rglob("*.md") if page.name != "index.md" and f"{page.stem}.md)" not in entry]
    assert missing == []


@each_page
def test_relative_links_lead_to_files(page):
    targets = [link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


@each_page
def test_paths_in_backticks_exist(page):
    paths = [text for code in inline_code(page) if looks_like_a_path(text := code.partition("::")[0])]
    assert [path for path in paths if not path_exists(path)] == []


@each_page
def test_tests_in_backticks_exist(page):
    missing = []
    for path, separator, name in (code.partition("::") for code in inline_code(page)):
        if separator and path.endswith(".py"):
            files = [root / path for root in ROOTS if (root / path).is_file()]
            missing += [] if any(name in names_in(file) for file in files) else [f"{path}::{name}"]
    assert missing == []


@each_page
def test_commands_exist(page):
    missing = []
    for is_module, name, _ in commands(page):
        ours = name.split(".")[0] in FOLDERS
        if is_module and ours:
            path = REPOSITORY.joinpath(*name.split("."))
            found = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
        elif is_module:
            found = find_spec(name.split(".")[0]) is not None
        else:
            found = (REPOSITORY / name).is_file()
        missing += [] if found else [name]
    assert missing == []


@each_page
def test_options_of_our_commands_exist(page):
    missing = []
    for is_module, name, arguments in commands(page):
        if name.endswith((".py", ".sh")) or (is_module and name.split(".")[0] in FOLDERS):
            options = re.findall(r"(?<!\S)(--[a-z][\w-]*)", arguments)
            missing += [f"{name} {option}" for option in options if f'"{option}"' not in sources()]
    assert [each for each in missing if not each.endswith((" --help", " --with-browser"))] == []


@each_page
def test_dotted_names_in_backticks_are_keys_or_code(page):
    sections = set(YAML(typ="safe").load(CONFIGS / "base.yaml"))
    pattern = rf"(?:{'|'.join({*sections, *ROOMS, 'bench'})})(?:\.\w+)+"
    names = [code.partition(":")[0] for code in inline_code(page) if re.fullmatch(rf"{pattern}(?::.*)?", code)]
    wrong = [name for name in names if not name.endswith(SUFFIXES) and not is_a_key(name) and not is_of_the_code(name)]
    assert [name for name in wrong if name not in OLD_NAMES | MADE_BY_A_RUN] == []
