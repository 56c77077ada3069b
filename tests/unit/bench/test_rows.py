"""Tables of results: printed row by row, and two pages of them compared."""

import sys

from bench import compare
from bench.rows import Rows


def page(tmp_path, capsys, name, rows):
    table = Rows({"step": 4, "pass": 8}, ("images/s", "of matmul"), title="a model, batch 8")
    for row in rows:
        table.add(*row)
    path = tmp_path / name
    path.write_text(f"# a step on a card\n\n```\nthe card\n{capsys.readouterr().out}```\n\ndone, 3 s\n")
    return path


def test_rows_are_printed_as_they_come(capsys):
    rows = Rows({"step": 6}, ("ms",))
    assert capsys.readouterr().out == "\n| step   |        ms |\n| :----- | --------: |\n"
    rows.add("one", "1.5")
    assert capsys.readouterr().out == "| one    |       1.5 |\n"


def test_pages_are_compared_cell_by_cell(tmp_path, capsys, monkeypatch):
    old = page(tmp_path, capsys, "old.md", [("ours", "forward", "1,000.0", "10%"), ("gone", "forward", "1", "1%")])
    new = page(tmp_path, capsys, "new.md", [("ours", "forward", "2,500.0", "-")])
    monkeypatch.setattr(sys, "argv", ["compare", str(old), str(new)])
    compare.main()
    lines = capsys.readouterr().out.splitlines()[3:]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    assert cells == [
        ["a model, batch 8, ours, forward", "images/s", "1,000.0", "2,500.0", "2.50"],
        ["a model, batch 8, ours, forward", "of matmul", "10%", "-", "-"],
        ["a model, batch 8, gone, forward", "images/s", "1", "-", "-"],
        ["a model, batch 8, gone, forward", "of matmul", "1%", "-", "-"],
    ]
