"""A table of results that is printed row by row: a bench that is stopped has then shown all that it measured."""

from collections.abc import Mapping, Sequence


class Rows:
    """Print a title and the headers, then each row as it comes, all as a Markdown table.

    Args:
        names: headers of the columns that say what a row is about, with the widths of these columns.
        values: headers of the columns that were measured; they are aligned to the right.
        width: of a value, unless its header is wider.
    """

    def __init__(self, names: Mapping[str, int], values: Sequence[str], *, title: str = "", width: int = 9) -> None:
        self._num_names = len(names)
        named = [max(least, len(header)) for header, least in names.items()]
        self._widths = [*named, *(max(width, len(header)) for header in values)]
        print(f"\n{title}\n" if title else "")
        self.add(*names, *values)
        rules = ["-" * (column - 1) for column in self._widths]
        self.add(*(f":{rule}" if number < self._num_names else f"{rule}:" for number, rule in enumerate(rules)))

    def add(self, *cells: str) -> None:
        assert len(cells) == len(self._widths)
        texts = [
            cell.ljust(column) if number < self._num_names else cell.rjust(column)
            for number, (cell, column) in enumerate(zip(cells, self._widths, strict=True))
        ]
        print(f"| {' | '.join(texts)} |", flush=True)
