"""The recipes of CONTRIBUTING.md: what they change, run and name, and how to follow one in a copy of the repository."""

import re
from pathlib import Path
from typing import NamedTuple

SECTION = re.compile(r"^### (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^```(diff|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
POINTER = re.compile(r"^- `([^`]+)`, at `([^`]+)`:", re.MULTILINE)


class Recipe(NamedTuple):
    """A section below "Recipes"."""

    title: str
    diffs: list[str]  # "+++ file", then either a new file's lines or hunks that each follow a line "@@"
    commands: list[str]
    pointers: list[tuple[str, str]]  # file, and the text in it that the recipe points to


def read_recipes(text: str) -> list[Recipe]:
    _, *parts = SECTION.split(text)
    return [_recipe(title, body) for title, body in zip(parts[::2], parts[1::2], strict=True)]


def file_of(diff: str) -> str:
    return diff.splitlines()[0].removeprefix("+++ ")


def apply_diff(diff: str, root: Path) -> None:
    """Change one file. Raises ValueError if what a hunk replaces is not in it exactly once, or a new file exists."""
    path, lines = root / file_of(diff), diff.splitlines()[1:]
    if lines[0] != "@@":
        if path.exists():
            raise ValueError(f"{path} exists, but the diff has no @@")
        path.write_text("".join(line[1:] + "\n" for line in lines))
        return
    text = path.read_text()
    for hunk in "\n".join(lines).removeprefix("@@\n").split("\n@@\n"):
        old, new = (_lines_with(signs, hunk) for signs in (" -", " +"))
        pattern = "".join(f"^{re.escape(line)}(?: +#.*)?\n" for line in old)
        text, count = re.subn(
            pattern, lambda _, new=new: "".join(f"{line}\n" for line in new), text, flags=re.MULTILINE
        )
        if count != 1:
            raise ValueError(f"{path} should hold this once, not {count} times:\n" + "\n".join(old))
    path.write_text(text)


def _lines_with(signs: str, hunk: str) -> list[str]:
    """The lines of a hunk that begin with one of the signs, without it; an empty line is one of context."""
    return [line[1:] for line in hunk.splitlines() if (line or " ")[0] in signs]


def _recipe(title: str, body: str) -> Recipe:
    blocks = BLOCK.findall(body)
    diffs = [text for kind, text in blocks if kind == "diff"]
    commands = [line for kind, text in blocks if kind == "bash" for line in text.splitlines()]
    return Recipe(title, diffs, commands, POINTER.findall(body))
