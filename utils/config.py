"""Reading and writing a configuration: base.yaml < file < `--set section.key=value`, checked by utils/config_schema.py.

A file names the one it builds on as `base: other.yaml` (relative to itself). Mappings are merged key by key, everything
else is replaced. Every mistake is a ConfigError of one line: where (file and line, or the --set option), the full key,
what is wrong, and the nearest valid key or value.
"""

import difflib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from utils.config_schema import ADAPTER, Config
from utils.errors import UserError

__all__ = ["Config", "ConfigError", "load_config", "save_config", "stored_config"]

BASE = Path(__file__).resolve().parents[1] / "configs" / "base.yaml"

KeyPath = tuple[str | int, ...]  # ("optimizer", "lr"); a number is a place in a list
LOSS_WEIGHTS = ("losses", "weights")

_EXPECTED = {  # pydantic's error type -> what the key wants, in the words of YAML
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text (in quotes where it looks like something else)",
    "tuple_type": "a list, e.g. [a, b]",
    "string_too_short": "text that is not empty",
}


class ConfigError(UserError):
    """A configuration that cannot be used; the message is one line for the user."""


def load_config(path: Path | str, overrides: Sequence[str] = (), *, losses: Iterable[str] = ()) -> Config:
    """Read and check a configuration file.

    Args:
        overrides: the "section.key=value" of --set, values in YAML.
        losses: keys that losses.weights may have besides those in base.yaml.
    Raises: ConfigError.
    """
    layers = _Layers(Path(path))
    layers.add_file(Path(path))
    for override in overrides:
        layers.add_override(override)
    layers.check_losses({*_base_losses(), *losses})
    return layers.checked()


def stored_config(values: dict[str, Any], source: str) -> Config:
    """The configuration in a checkpoint; keys that it is too old to hold have the values of base.yaml.

    Raises: ConfigError naming the source.
    """
    layers = _Layers(Path(source))
    layers.add_file(BASE)
    layers.add_values(values, source)
    return layers.checked()


def save_config(config: Config, path: Path) -> None:
    """Write every key as YAML; load_config reads the file without any base."""
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(config.as_dict(), file)


@cache
def _base_losses() -> tuple[str, ...]:
    """The keys of losses.weights in base.yaml."""
    values, _ = _read_yaml(_read_text(BASE, ""), str(BASE))
    return tuple(values["losses"]["weights"])


class _Layers:
    """Values merged so far, and for each key where its value was written."""

    def __init__(self, path: Path) -> None:
        self.path = path  # the file that the user named
        self.values: dict[str, Any] = {}
        self.places: dict[KeyPath, tuple[int, str]] = {(): (0, str(path))}  # number of the layer, "file:line"
        self.depth = 0

    def add_file(self, path: Path, opened: tuple[Path, ...] = (), asked_by: str = "") -> None:
        """Merge a file over what is there, its base first."""
        if path.resolve() in opened:
            raise ConfigError(f"{asked_by}{path} is already being read: the bases form a circle")
        values, lines = _read_yaml(_read_text(path, asked_by), str(path))
        if not isinstance(values, dict):
            raise ConfigError(f"{path}:1: expected sections of keys such as `base: base.yaml`, got {_shown(values)}")
        places: dict[KeyPath, str] = {key: f"{path}:{line}" for key, line in lines.items()}
        base = values.pop("base", None)
        if base is not None:
            asked_by = f"{places[('base',)]}: base: "
            if not isinstance(base, str):
                raise ConfigError(f"{asked_by}must be the path of one file, got {_shown(base)}")
            self.add_file(path.parent / base, (*opened, path.resolve()), asked_by)
        self._add(values, places)

    def add_override(self, text: str) -> None:
        """Merge one "section.key=value"."""
        place = f"--set {text}"
        name, equals, value_text = text.partition("=")
        keys = tuple(name.strip().split("."))
        if not equals or not all(keys):
            raise ConfigError(f"{place}: expected section.key=value, e.g. --set optimizer.lr=2e-5")
        value, lines = _read_yaml(value_text, place, keys)
        for key in reversed(keys):
            value = {key: value}
        parts: list[KeyPath] = [keys[:end] for end in range(1, len(keys) + 1)]
        self._add(value, dict.fromkeys([*parts, *lines], place))

    def add_values(self, values: dict[str, Any], place: str) -> None:
        """Merge values that were written by a program."""
        self._add(values, defaultdict(lambda: place))

    def _add(self, values: dict[str, Any], places: dict[KeyPath, str]) -> None:
        self.depth += 1
        _merge(self.values, values, (), places)
        self.places.update({key: (self.depth, place) for key, place in places.items()})

    def check_losses(self, known: set[str]) -> None:
        """losses.weights is a mapping whose keys the schema does not list."""
        weights = self.values.get("losses", {}).get("weights", {})
        for key in weights:
            if key not in known:
                location: KeyPath = (*LOSS_WEIGHTS, key)
                raise ConfigError(self._unknown(location))
        for key in _base_losses():
            if weights and key not in weights:
                raise ConfigError(self._missing((*LOSS_WEIGHTS, key)))

    def checked(self) -> Config:
        try:
            # JSON, since there the strict types take a list for a tuple and a mapping for a section
            return ADAPTER.validate_json(json.dumps(self.values, default=str))
        except ValidationError as error:
            # An unknown key first: a misspelt one shows up as a missing one as well
            worst = min(error.errors(), key=lambda e: e["type"] != "unexpected_keyword_argument")
        raise ConfigError(self._explained(worst))

    def _explained(self, error: Any) -> str:
        location: KeyPath = error["loc"]
        if error["type"] == "unexpected_keyword_argument":
            return self._unknown(location)
        if error["type"] == "missing" and not isinstance(location[-1], int):
            return self._missing(location)
        if error["type"] == "missing":
            location = location[:-1]  # a list that is too short
        together = getattr(error.get("ctx", {}).get("error"), "keys", None)
        if together is None:
            return f"{self._place(location)[1]}: {_dotted(location)}: {_problem(error)}"
        involved: list[KeyPath] = [(*location, *key.split(".")) for key in together]
        blamed = max(involved, key=lambda key: self._place(key)[0])  # the value written last is the likely mistake
        return f"{self._place(blamed)[1]}: {_dotted(blamed)}: {error['ctx']['error']}"

    def _unknown(self, location: KeyPath) -> str:
        return f"{self._place(location)[1]}: {_dotted(location)}: unknown key; {_nearest_key(location)}"

    def _missing(self, location: KeyPath) -> str:
        return f"{self.path}: {_dotted(location)}: missing key; start the file with `base: base.yaml`"

    def _place(self, location: KeyPath) -> tuple[int, str]:
        """Layer and place of a key, or of the nearest key around it."""
        return next(
            self.places[location[:end]] for end in range(len(location), -1, -1) if location[:end] in self.places
        )


def _read_text(path: Path, asked_by: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [found.name for found in path.parent.glob("*.yaml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"{asked_by}{path}: no such file{hint}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{asked_by}{path}: not a text file in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{asked_by}{path}: cannot be read: {error.strerror}") from None


def _read_yaml(text: str, place: str, path: KeyPath = ()) -> tuple[Any, dict[KeyPath, int]]:
    """Plain values of a YAML 1.2 text, and the line of every key in it; path is that of the whole text."""
    yaml = YAML(typ="safe", pure=True)
    try:
        lines = dict(_key_lines(yaml.compose(text), path, place))
        return yaml.load(text), lines
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark and not place.startswith("--set") else ""
        raise ConfigError(f"{place}{line}: not valid YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise ConfigError(f"{place}: not valid YAML: {' '.join(str(error).split())}") from None


def _key_lines(node: Node | None, path: KeyPath, place: str) -> Iterator[tuple[KeyPath, int]]:
    """Full path and line of each key; refuses a key given twice, which YAML forbids, since its path is known here."""
    if not isinstance(node, MappingNode):
        return
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        where = place if place.startswith("--set") else f"{place}:{line}"
        if not isinstance(key_node, ScalarNode):
            raise ConfigError(f"{where}: a key must be a plain word")
        here = (*path, key_node.value)
        if key_node.value in seen:
            raise ConfigError(f"{where}: {_dotted(here)}: duplicate key, given on line {seen[key_node.value]} already")
        seen[key_node.value] = line
        yield here, line
        yield from _key_lines(value_node, here, place)


def _merge(into: dict[str, Any], values: dict[str, Any], path: KeyPath, places: dict[KeyPath, str]) -> None:
    for key, value in values.items():
        here, old = (*path, key), into.get(key)
        if not isinstance(old, dict):
            into[key] = value
        elif isinstance(value, dict):
            _merge(old, value, here, places)
        else:
            message = f"{places[here]}: {_dotted(here)}: must hold the keys {', '.join(old)}, got {_shown(value)}"
            raise ConfigError(message)


def _problem(error: Any) -> str:
    """What is wrong with one value, from pydantic's description of it."""
    got = f"got {_shown(error['input'])}"
    if error["type"] == "missing":
        return f"the list is too short, {got}"
    if error["type"] == "too_long":
        return f"the list is too long, {got}"
    wanted = _EXPECTED.get(error["type"]) or str(error["msg"]).removeprefix("Input should be ")
    choices = re.findall(r"'([^']+)'", wanted) if error["type"] == "literal_error" else []
    by_lower_case = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(str(error["input"]).lower(), by_lower_case, n=1, cutoff=0.4)
    return f"must be {wanted}, {got}" + (f"; did you mean {by_lower_case[near[0]]}?" if near else "")


def _nearest_key(location: KeyPath) -> str:
    """ "did you mean a.b?": of the same section, else of that name anywhere; else the section's keys."""
    *section, name = map(str, location)
    valid = [*_valid_keys(Config, ()), *((*LOSS_WEIGHTS, key) for key in _base_losses())]
    siblings = [key[-1] for key in valid if list(key[:-1]) == section]
    near = difflib.get_close_matches(name, siblings, n=1)
    if near:
        return f"did you mean {_dotted((*section, near[0]))}?"
    elsewhere = difflib.get_close_matches(name, {key[-1] for key in valid}, n=1, cutoff=0.8)
    same_name = [_dotted(key) for key in valid if key[-1] in elsewhere]
    if same_name:
        return f"did you mean {' or '.join(same_name)}?"
    return f"valid keys: {', '.join(siblings)}"


def _valid_keys(section: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for field in fields(section):
        yield (*path, field.name)
        if is_dataclass(field.type):
            yield from _valid_keys(field.type, (*path, field.name))


def _dotted(location: KeyPath) -> str:
    return ".".join(str(key) for key in location)


def _shown(value: Any) -> str:
    """A value as one would write it in YAML, cut to fit a line."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
