"""Command line behind shell/data_process.sh: check a benchmark or a table of one's own, and write processed_data/.

The folder gets {split}.json of each split and the name of the benchmark; for a table whose ids are no numbers, also
people.json, the number of each person.
Exit status: 0 written (perhaps with warnings), 1 errors found and nothing written, 2 nothing to check.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dataset import checks
from dataset.benchmarks import BENCHMARKS, CUSTOM, SPLITS, Benchmark, SplitCounts, benchmark
from dataset.caption_checks import check_odd_captions, check_shared_captions, drop_ambiguous_captions
from dataset.checks import Annotation, Finding
from dataset.custom import PEOPLE_FILE, Entries, entries_of, parse_columns
from dataset.records import HOLD_OUT_EVERY, NAME_FILE, read_json_list
from dataset.saved_datasets import read_saved
from dataset.tables import read_table
from utils.errors import UserError
from utils.log import one_line_errors, set_up_logging

SHOWN_PER_KIND = 5
SYNTHETIC = "synthetic.json"  # marks a folder of SynthPedes
NO_VAL = f"with eval.select_on: val, training holds out every {HOLD_OUT_EVERY}th train person to choose best.pth"
NO_TEST = "evaluation has nothing to measure"
CHECKS = (checks.check_people, checks.check_images_listed_once, check_shared_captions, check_odd_captions)


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    chosen = benchmark(options.name)
    if options.images:
        link_images(options.root, options.images)
    raw_file = find_table(options.root, options.table) if options.table else find_raw_file(options.root, chosen)
    try:
        return prepare(
            options.root,
            raw_file,
            read_entries(raw_file, chosen, options),
            chosen,
            verify=options.verify_images,
            drop_ambiguous=options.drop_ambiguous_captions,
            workers=options.workers,
        )
    except (OSError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        print(f"not ready: nothing was written, {options.root / 'processed_data'} is as it was before", file=sys.stderr)
        return 1


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="data_process.sh", description="Check a benchmark and write its processed_data/ folder (docs/data.md)."
    )
    parser.add_argument("name", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("root", type=Path, metavar="DIR", help="folder with the annotation file and imgs/")
    parser.add_argument("--verify-images", action="store_true", help="decode every image (minutes)")
    parser.add_argument(
        "--drop-ambiguous-captions", action="store_true", help="leave captions of several people out of train"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="default: all cores")
    own = parser.add_argument_group(f"NAME {CUSTOM.name}")
    text = f"csv, tsv, jsonl, parquet or a saved datasets folder (default: {' or '.join(CUSTOM.raw_files)} in DIR)"
    own.add_argument("--table", type=Path, metavar="FILE", help=text)
    text = "folder of the pictures, to which DIR/imgs becomes a link (default: they lie in DIR/imgs already)"
    own.add_argument("--images", type=Path, metavar="FOLDER", help=text)
    text = "the table's names of image, person_id, caption, split, where they are others: image=path person_id=pid"
    own.add_argument("--columns", nargs="+", default=[], metavar="NAME=COLUMN", help=text)
    text = "shares of people in train, val and test, where the table has no split (default: 0.8 0.1 0.1)"
    own.add_argument("--split", nargs=3, type=float, metavar=("TRAIN", "VAL", "TEST"), help=text)
    own.add_argument("--seed", type=int, default=0, metavar="S", help="of that split (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers must be at least 1, not {options.workers}")
    if options.name != CUSTOM.name and (options.table or options.images or options.columns or options.split):
        parser.error(f"--table, --images, --columns and --split are for data of your own: name it {CUSTOM.name}")
    return options


def link_images(root: Path, images: Path) -> None:
    """Make root/imgs a link to a folder, and root if needed. Raises: UserError if root/imgs is something else."""
    if not images.is_dir():
        raise UserError(f"{images}: no such folder of pictures")
    link = root / "imgs"
    if link.exists() and link.resolve() == images.resolve():
        return
    if link.exists() or link.is_symlink():
        raise UserError(f"{link} is there already: leave --images out, or remove it")
    root.mkdir(parents=True, exist_ok=True)
    link.symlink_to(images.resolve(), target_is_directory=True)


def find_table(root: Path, table: Path) -> Path:
    """Return the table, which may also lie in root. Raises: FileNotFoundError if there is no such folder or table."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; it should hold imgs/")
    for path in (table, root / table):
        if path.exists():
            return path
    raise FileNotFoundError(f"{table}: no such table, neither in this folder nor in {root}")


def find_raw_file(root: Path, benchmark: Benchmark) -> Path:
    """Return the annotation file in root. Raises: FileNotFoundError that names the expected files."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; it should hold {' or '.join(benchmark.raw_files)} and imgs/")
    for name in benchmark.raw_files:
        if (root / name).is_file():
            return root / name
    others = sorted(path.name for path in root.glob("*.json"))
    found = f"; the folder has {', '.join(others)}" if others else ""
    raise FileNotFoundError(
        f"{root}: no annotation file of {benchmark.name}, looked for {' and '.join(benchmark.raw_files)}{found}"
    )


def read_entries(raw_file: Path, benchmark: Benchmark, options: argparse.Namespace) -> Entries:
    """Read the annotation file, or the table. Raises: UserError if that is not possible."""
    if benchmark is not CUSTOM:
        entries = read_json_list(raw_file)
        return Entries(entries, list(range(len(entries))), {})
    names = parse_columns(options.columns, raw_file)
    is_saved = raw_file.is_dir()
    rows = read_saved(raw_file, names, options.root / "imgs") if is_saved else read_table(raw_file)
    drawn = (options.root / SYNTHETIC).is_file()  # its other files list every caption that was drawn
    return entries_of(rows, names, raw_file, shares=options.split, seed=options.seed, keep_repeated=drawn)


def prepare(
    root: Path,
    raw_file: Path,
    read: Entries,
    benchmark: Benchmark,
    *,
    verify: bool,
    drop_ambiguous: bool,
    workers: int,
) -> int:
    """Check everything, print the findings and a table of counts, and write the splits if there is no error."""
    synthetic = (root / SYNTHETIC).is_file()
    has_official = bool(benchmark.splits) and not synthetic
    annotations, findings = checks.parse_annotations(read.entries, benchmark.path_key, str(raw_file), read.numbers)
    annotations, empty = checks.drop_empty_captions(annotations, str(raw_file))
    findings += empty + repeated_captions(read, str(raw_file))
    for check in CHECKS:
        findings += check(annotations, str(raw_file))
    findings += checks.check_images(root, annotations, benchmark, decode=verify, workers=workers)
    if synthetic and benchmark.splits:
        print("synthetic benchmark (synthetic.json): its counts are not compared with the official ones")
    if has_official:
        findings += checks.check_counts(checks.count_splits(annotations), benchmark, str(raw_file))
    dropped = drop_ambiguous_captions(annotations)
    if drop_ambiguous:
        annotations = dropped.annotations
    counts = checks.count_splits(annotations)
    findings += checks.check_train_not_empty(counts, str(raw_file)) + empty_splits(counts, benchmark, str(raw_file))
    print_findings(findings)
    if drop_ambiguous:
        print(dropped)
    elif dropped.captions:
        told = "captions of train stand under several people; --drop-ambiguous-captions leaves them out"
        print(f"{dropped.captions:,} {told}")
    Console().print(counts_table(counts, benchmark, with_official=has_official))
    return finish(root, annotations, findings, benchmark.name, read.people)


def repeated_captions(read: Entries, file: str) -> list[Finding]:
    """Find rows of a table whose caption their image has already."""
    return [
        Finding("repeated caption", f"{file}: row {number} repeats a caption of its image: left out", is_error=False)
        for number in read.repeated
    ]


def empty_splits(counts: dict[str, SplitCounts], benchmark: Benchmark, file: str) -> list[Finding]:
    """Find val and test without people, unless the benchmark has none there."""
    findings = []
    for split, what in (("val", NO_VAL), ("test", NO_TEST)):
        official = benchmark.splits.get(split)
        if not counts[split].people and (official is None or official.people):
            findings.append(Finding(f"no {split} people", f"{file}: no {split} people: {what}", is_error=False))
    return findings


def finish(
    root: Path, annotations: list[Annotation], findings: list[Finding], name: str, people: Mapping[str, int]
) -> int:
    num_errors = sum(finding.is_error for finding in findings)
    target = root / "processed_data"
    if num_errors:
        print(f"not ready: {num_errors:,} errors; nothing was written, {target} is as it was before")
        return 1
    write_splits(target, annotations, name, people)
    num_warnings = len(findings)
    print(f"ready: wrote {', '.join(f'{split}.json' for split in SPLITS)} to {target} ({num_warnings:,} warnings)")
    return 0


def write_splits(target: Path, annotations: list[Annotation], name: str, people: Mapping[str, int]) -> None:
    """Write {split}.json of all splits and the benchmark's name to target. If writing fails, nothing changes.

    people: numbers given to the ids of a table, for people.json; empty: the ids are numbers, and there is no such file.
    """
    target.mkdir(exist_ok=True)
    contents = {NAME_FILE: f"{name}\n"}
    if people:
        contents[PEOPLE_FILE] = json.dumps({str(number): person for person, number in people.items()})
    for split in SPLITS:
        records = [annotation.record for annotation in annotations if annotation.split == split]
        entries = [{"id": r.person_id, "file_path": r.file_path, "captions": r.captions} for r in records]
        contents[f"{split}.json"] = json.dumps(entries)
    temporary = {file: target / f"{file}.tmp" for file in contents}
    try:
        for file, path in temporary.items():
            path.write_text(contents[file], encoding="ascii")  # json escapes everything else
        for file, path in temporary.items():
            os.replace(path, target / file)
        if not people:
            (target / PEOPLE_FILE).unlink(missing_ok=True)  # of an earlier table
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def print_findings(findings: list[Finding]) -> None:
    """Print errors first; for each kind, the first SHOWN_PER_KIND findings and the number of the others."""
    by_kind: dict[tuple[bool, str], list[Finding]] = defaultdict(list)
    for finding in sorted(findings, key=lambda finding: not finding.is_error):
        by_kind[finding.is_error, finding.kind].append(finding)
    for (is_error, kind), group in by_kind.items():
        level = "error" if is_error else "warning"
        for finding in group[:SHOWN_PER_KIND]:
            print(f"{level}: {finding.message}")
        if len(group) > SHOWN_PER_KIND:
            print(f"{level}: ... and {len(group) - SHOWN_PER_KIND:,} more of this kind ({kind}: {len(group):,})")


def counts_table(counts: dict[str, SplitCounts], benchmark: Benchmark, *, with_official: bool) -> Table:
    table = Table(title=benchmark.name)
    table.add_column("split")
    for name in SplitCounts._fields:
        table.add_column(name, justify="right")
        if with_official:
            table.add_column("official", justify="right", style="dim")
    for split, found in counts.items():
        cells = []
        for name, here in found._asdict().items():
            cells.append(f"{here:,}")
            if with_official:
                cells.append(f"{getattr(benchmark.splits[split], name):,}")
        table.add_row(split, *cells)
    return table


if __name__ == "__main__":
    set_up_logging()
    sys.exit(main())
