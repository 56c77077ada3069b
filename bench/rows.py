"""A table of results that is printed row by row: a bench that is stopped has then shown all that it measured."""

from collections.abc import Mapping, Sequence

WIDTH = 9  # of a value, unless its header is wider


class Rows:
    """Print a title and the headers, then each row as it comes, all as a Markdown table.

    Args:
        names: headers of the columns that say what a row is about, with the widths of these columns.
        values: headers of the columns that were measured; they are aligned to the right.
    """

    def __init__(self, names: Mapping[str, int], values: Sequence[str], *, title: str = "") -> None:
        self._num_names = len(names)
        named = [max(width, len(header)) for header, width in names.items()]
        self._widths = [*named, *(max(WIDTH, len(header)) for header in values)]
        if title:
            print(f"\n{title}\n")
        self.add(*names, *values)
        rules = ["-" * (width - 1) for width in self._widths]
        self.add(*(f":{rule}" if number < self._num_names else f"{rule}:" for number, rule in enumerate(rules)))

    def add(self, *cells: str) -> None:
        assert len(cells) == len(self._widths)
        texts = [
            cell.ljust(width) if number < self._num_names else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, self._widths, strict=True))
        ]
        print(f"| {' | '.join(texts)} |", flush=True)
