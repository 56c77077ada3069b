"""Who imports whom in a source tree, read from the files without running them."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple


class Import(NamedTuple):
    """An arrow from one module to another of the same tree; names are dotted, a package's is that of its folder."""

    importer: str
    imported: str
    place: str  # "file:line", the file relative to the root

    def __str__(self) -> str:
        return f"{self.place} imports {self.imported}"


def modules_of(root: Path, parts: tuple[str, ...]) -> dict[str, Path]:
    """Dotted name -> file of every module in the named packages and modules that lie directly in root."""
    files = [path for part in parts for path in [root / f"{part}.py", *sorted((root / part).rglob("*.py"))]]
    return {_name_of(path.relative_to(root)): path for path in files if path.exists()}


def imports_of(root: Path, modules: dict[str, Path]) -> list[Import]:
    """All imports among the modules: at the top of a file, in functions, in `if TYPE_CHECKING:`, by import_module."""
    found = []
    for importer, path in modules.items():
        package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in _names_imported(node, package):
                imported = _longest_module(name, modules)
                if imported is not None and imported != importer:
                    line: int = node.lineno  # type: ignore[attr-defined]
                    found.append(Import(importer, imported, f"{path.relative_to(root)}:{line}"))
    return found


def circle_of(imports: list[Import]) -> list[str]:
    """Modules that import one another in a circle, the first one at the end again; empty if there is no circle."""
    graph = defaultdict(set)
    for each in imports:
        graph[each.importer].add(each.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # from importer to imported
    return []


def _name_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _names_imported(node: ast.AST, package: str) -> Iterator[str]:
    """Full dotted names; for `from a import b` that is a.b, whether b is a module or something that a defines."""
    match node:
        case ast.Import():
            yield from (alias.name for alias in node.names)
        case ast.ImportFrom():
            start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            where = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{where}.{alias.name}" for alias in node.names)
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[ast.Constant(value=str(name)), *_]):
            if called == "import_module":
                yield name


def _longest_module(name: str, modules: dict[str, Path]) -> str | None:
    """The module that a dotted name lies in: a.b.c is in a.b if that is a module, else in a."""
    parts = name.split(".")
    ends = range(len(parts), 0, -1)
    return next((".".join(parts[:end]) for end in ends if ".".join(parts[:end]) in modules), None)
