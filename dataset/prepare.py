"""Command line behind shell/data_process.sh: check a benchmark on disk and write its processed_data/ folder.

The folder gets {split}.json of each split and the name of the benchmark.
Exit status: 0 written (perhaps with warnings), 1 errors found and nothing written, 2 nothing to check.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dataset import checks
from dataset.benchmarks import BENCHMARKS, SPLITS, Benchmark, SplitCounts, benchmark
from dataset.caption_checks import check_odd_captions, check_shared_captions, drop_ambiguous_captions
from dataset.checks import Annotation, Finding
from dataset.records import NAME_FILE, read_json_list
from utils.errors import UserError
from utils.log import one_line_errors, set_up_logging

SHOWN_PER_KIND = 5
CHECKS = (checks.check_people, checks.check_images_listed_once, check_shared_captions, check_odd_captions)


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
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
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers must be at least 1, not {options.workers}")
    raw_file = find_raw_file(options.root, benchmark(options.name))
    try:
        return prepare(
            raw_file,
            benchmark(options.name),
            verify=options.verify_images,
            drop_ambiguous=options.drop_ambiguous_captions,
            workers=options.workers,
        )
    except (OSError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        print(f"not ready: nothing was written, {options.root / 'processed_data'} is as it was before", file=sys.stderr)
        return 1


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


def prepare(raw_file: Path, benchmark: Benchmark, *, verify: bool, drop_ambiguous: bool, workers: int) -> int:
    """Check everything, print the findings and a table of counts, and write the splits if there is no error."""
    root = raw_file.parent
    synthetic = (root / "synthetic.json").is_file()
    annotations, findings = checks.parse_annotations(read_json_list(raw_file), benchmark.path_key, str(raw_file))
    annotations, empty = checks.drop_empty_captions(annotations, str(raw_file))
    findings += empty
    for check in CHECKS:
        findings += check(annotations, str(raw_file))
    findings += checks.check_images(root, annotations, benchmark, decode=verify, workers=workers)
    if synthetic:
        print("synthetic benchmark (synthetic.json): its counts are not compared with the official ones")
    else:
        findings += checks.check_counts(checks.count_splits(annotations), benchmark, str(raw_file))
    dropped = drop_ambiguous_captions(annotations)
    if drop_ambiguous:
        annotations = dropped.annotations
    counts = checks.count_splits(annotations)
    findings += checks.check_train_not_empty(counts, str(raw_file))
    print_findings(findings)
    if drop_ambiguous:
        print(dropped)
    elif dropped.captions:
        told = "captions of train stand under several people; --drop-ambiguous-captions leaves them out"
        print(f"{dropped.captions:,} {told}")
    Console().print(counts_table(counts, benchmark, with_official=not synthetic))
    return finish(root, annotations, findings, benchmark.name)


def finish(root: Path, annotations: list[Annotation], findings: list[Finding], name: str) -> int:
    num_errors = sum(finding.is_error for finding in findings)
    target = root / "processed_data"
    if num_errors:
        print(f"not ready: {num_errors:,} errors; nothing was written, {target} is as it was before")
        return 1
    write_splits(target, annotations, name)
    num_warnings = len(findings)
    print(f"ready: wrote {', '.join(f'{split}.json' for split in SPLITS)} to {target} ({num_warnings:,} warnings)")
    return 0


def write_splits(target: Path, annotations: list[Annotation], name: str) -> None:
    """Write {split}.json of all splits and the benchmark's name to target. If writing fails, nothing changes."""
    target.mkdir(exist_ok=True)
    contents = {NAME_FILE: f"{name}\n"}
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
        for here, there in zip(found, benchmark.splits[split], strict=True):
            cells += [f"{here:,}", f"{there:,}"] if with_official else [f"{here:,}"]
        table.add_row(split, *cells)
    return table


if __name__ == "__main__":
    set_up_logging()
    sys.exit(main())
