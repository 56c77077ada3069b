"""Options that narrow a search on the command line, and what the commands tell their user."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from gallery.answers import Answer
from gallery.gallery import Gallery
from gallery.indexing.commands import IndexingReport
from gallery.indexing.removal import Forgotten
from gallery.indexing.scan import not_read
from gallery.search.filters import Filter
from gallery.show import as_json, as_table, remarks, verdict


def add_narrowing_options(query: argparse.ArgumentParser) -> None:
    """Which images take part, and how hits are counted."""
    add = query.add_argument_group("where and when (crops of `search.py crop`)").add_argument
    text = "only from these recordings, e.g. 'cam1*'; also repeated"
    add("--source", action="append", default=[], metavar="PATTERN", help=text)
    text = "only from then on, e.g. 2026-11-20T08:00 (the camera's local time)"
    add("--after", metavar="TIME", help=text)
    add("--before", metavar="TIME", help="only until then")
    add("--min-height", type=float, metavar="PX", help="only people of at least this height in the full frame")
    text = "each image, rather than one result for a person's track and for near copies"
    add("--no-group", dest="group", action="store_false", help=text)


def filter_of(args: argparse.Namespace) -> Filter:
    """Raises: CannotAnswer."""
    return Filter.parse(source=args.source, after=args.after, before=args.before, min_height=args.min_height)


def print_answer(answer: Answer, gallery: Gallery, args: argparse.Namespace) -> None:
    if args.json:
        sys.stdout.write(json.dumps(as_json(answer), ensure_ascii=False) + "\n")
        return
    console = Console(highlight=False)
    description = gallery.describe()
    console.print(as_table(answer, Path(description["root"])))
    if not args.fast and answer.mode == "fast":
        console.print(f"second stage: {description['second_stage']}", markup=False, soft_wrap=True)
    for line in (*remarks(answer), verdict(answer)):
        console.print(line, markup=False, soft_wrap=True)


def print_report(report: IndexingReport, index: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    counts = {
        "encoded": report.encoded,
        "unchanged": report.unchanged + report.touched,
        "removed": report.removed,
        "kept unseen": report.kept,
        "unreadable": len(report.unreadable),
    }
    console.print(f"{index}: {report.total} images ({', '.join(f'{n} {name}' for name, n in counts.items() if n)})")
    for bad in report.unreadable:
        console.print(f"  unreadable: {bad.path}: {bad.reason}", markup=False)
    if report.other_kinds:
        console.print(f"  {not_read(report.other_kinds)}")
    console.print(f"{report.seconds:.1f} s")


def print_forgotten(forgotten: Forgotten, index: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    files = f", {forgotten.files} files deleted" if forgotten.files else ""
    console.print(f"{index}: {forgotten.images} images forgotten{files}; {forgotten.total} are left")
    if forgotten.without_clock:
        console.print(f"  {forgotten.without_clock} of them have no time of day, so that no date takes them out")
