"""Two pages of results side by side: python -m bench.compare OLD.md NEW.md

Pages are those of bench.gpu, or whatever a bench printed. A row is known by the line above its table and by the columns
that are aligned to the left; each other column makes a line with the old value, the new one, and new / old.
"""

import argparse
from pathlib import Path

from bench.rows import Rows

Place = tuple[str, str]  # what a row is about, and the column


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD.md")
    parser.add_argument("new", type=Path, metavar="NEW.md")
    args = parser.parse_args()
    old, new = (read_values(path.read_text(encoding="utf-8")) for path in (args.old, args.new))
    widths = [max((len(place[part]) for place in (*old, *new)), default=0) for part in (0, 1)]
    rows = Rows({"row": widths[0], "column": widths[1]}, ("old", "new", "new / old"))
    for place in dict.fromkeys((*old, *new)):
        before, after = old.get(place, "-"), new.get(place, "-")
        rows.add(*place, before, after, ratio(before, after))


def read_values(page: str) -> dict[Place, str]:
    """Cells of all tables that `bench.rows` has printed on a page."""
    title, headers, num_names = "", [], 0
    values: dict[Place, str] = {}
    lines = page.splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("| "):
            title = line if line and not line.startswith((" ", "#", "`")) else title
            continue
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if following.startswith("| :-"):
            headers, num_names = cells, following.count(":-")
        elif not cells[0].startswith(":-"):
            row = ", ".join([title, *cells[:num_names]])
            values |= {(row, header): cell for header, cell in zip(headers[num_names:], cells[num_names:], strict=True)}
    return values


def ratio(old: str, new: str) -> str:
    try:
        before, after = (float(text.rstrip("x%").replace(",", "")) for text in (old, new))
    except ValueError:
        return "-"
    return f"{after / before:.2f}" if before else "-"


if __name__ == "__main__":
    main()
