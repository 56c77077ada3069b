"""Checks of a benchmark on disk. Every check returns its findings; docs/data.md lists them.

A finding is an error if it would make training or evaluation wrong, else a warning. Records are counted from 0.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from dataset.benchmarks import SPLITS, Benchmark, SplitCounts
from dataset.captions import clean_caption
from dataset.records import Record, RecordError, parse_record
from utils.file_kinds import LFS_POINTER, Start, what_came_instead
from utils.log import progress

MISSING = "missing"
BATCH = 256  # images checked between two updates of the progress display
LARGEST_LFS_POINTER = 1024  # bytes, by the specification of Git LFS


class Finding(NamedTuple):
    kind: str  # findings of one kind are shown together; only the first few in full
    message: str
    is_error: bool


class Annotation(NamedTuple):
    number: int  # of the record in the annotation file, from 0; in a table, its first row
    split: str
    record: Record

    def __str__(self) -> str:
        return f"record {self.number} ({self.split}, person {self.record.person_id}, {self.record.file_path!r})"


def parse_annotations(
    entries: list[Any], path_key: str, file: str, numbers: Iterable[int] | None = None
) -> tuple[list[Annotation], list[Finding]]:
    """Turn the JSON values of an annotation file into annotations. Each value that is none becomes a finding.

    numbers: how the findings call the records; None: counted from 0.
    """
    annotations, findings = [], []
    for number, entry in zip(count() if numbers is None else numbers, entries, strict=False):  # count() has no end
        try:
            record = parse_record(entry, path_key)
            annotations.append(Annotation(number, _split_of(entry), record))
        except RecordError as error:
            findings.append(Finding(error.kind, f"{file}: record {number} {error}", is_error=True))
    return annotations, findings


def drop_empty_captions(annotations: list[Annotation], file: str) -> tuple[list[Annotation], list[Finding]]:
    """Drop captions without a word. A record with no other caption is an error."""
    kept, findings = [], []
    for annotation in annotations:
        captions = annotation.record.captions
        full = tuple(caption for caption in captions if clean_caption(caption, max_words=1).strip())
        if not full:
            findings.append(Finding("no captions", f"{file}: {annotation} has only empty captions", is_error=True))
            continue
        if len(full) < len(captions):
            empty = f"{len(captions) - len(full)} of {len(captions)} captions are empty and left out"
            findings.append(Finding("empty caption", f"{file}: {annotation}: {empty}", is_error=False))
            annotation = annotation._replace(record=annotation.record._replace(captions=full))
        kept.append(annotation)
    return kept, findings


def check_people(annotations: list[Annotation], file: str) -> list[Finding]:
    """Find people who are in several splits: one finding per person and additional split."""
    first: dict[int, dict[str, Annotation]] = defaultdict(dict)
    for annotation in annotations:
        first[annotation.record.person_id].setdefault(annotation.split, annotation)
    findings = []
    for one, *others in (list(splits.values()) for splits in first.values()):
        for other in others:
            message = f"{file}: {other}: the person is in {one.split} already, with record {one.number}"
            findings.append(Finding("person in two splits", message, is_error=True))
    return findings


def check_images_listed_once(annotations: list[Annotation], file: str) -> list[Finding]:
    """Find image paths in several records: an error if the records name different people, else a warning."""
    first: dict[str, Annotation] = {}
    findings = []
    for annotation in annotations:
        earlier = first.setdefault(annotation.record.file_path, annotation)
        if earlier is annotation:
            continue
        if earlier.record.person_id != annotation.record.person_id:
            other = f"person {earlier.record.person_id} in record {earlier.number}"
            message = f"{file}: {annotation}: the image belongs to {other}"
            findings.append(Finding("image of two people", message, is_error=True))
        else:
            message = f"{file}: {annotation}: the image is listed already, in record {earlier.number}"
            findings.append(Finding("image listed twice", message, is_error=False))
    return findings


def count_splits(annotations: list[Annotation]) -> dict[str, SplitCounts]:
    """Count people, images (records) and captions of each split."""
    counts = {}
    for split in SPLITS:
        records = [annotation.record for annotation in annotations if annotation.split == split]
        people = len({record.person_id for record in records})
        counts[split] = SplitCounts(people, len(records), sum(len(record.captions) for record in records))
    return counts


def check_counts(counts: dict[str, SplitCounts], benchmark: Benchmark, file: str) -> list[Finding]:
    """Compare the counts with the official ones."""
    findings = []
    for split, found in counts.items():
        official = benchmark.splits[split]
        if found != official:
            numbers = ", ".join(
                f"{here:,} {name} (official: {there:,})"
                for name, here, there in zip(SplitCounts._fields, found, official, strict=True)
            )
            findings.append(Finding("counts", f"{file}: {split} has {numbers}", is_error=False))
    return findings


def check_train_not_empty(counts: dict[str, SplitCounts], file: str) -> list[Finding]:
    if counts["train"].images:
        return []
    return [Finding("no train records", f"{file}: there is no usable record of train to learn from", is_error=True)]


def check_images(
    root: Path,
    annotations: list[Annotation],
    benchmark: Benchmark,
    *,
    decode: bool,
    workers: int,
) -> list[Finding]:
    """Find missing, empty and (with decode) undecodable images under root/imgs.

    The benchmark says which folders belong there. Threads look at the images in parallel; decoding uses processes.
    """
    folder = root / "imgs"
    by_path = {annotation.record.file_path: annotation for annotation in reversed(annotations)}
    paths = sorted(by_path)
    if paths and not folder.is_dir():
        message = f"{folder}: no such folder, all {len(paths):,} images are missing"
        return [Finding("missing images", f"{message}{_found_elsewhere(root, by_path[paths[0]])}", is_error=True)]
    pool: Executor
    # Spawned, not forked: a live progress bar runs a thread, which does not survive a fork.
    pool = ProcessPoolExecutor(workers, get_context("spawn")) if decode else ThreadPoolExecutor(workers)
    states: list[str | None] = []
    with pool, progress[None](len(paths), "decoding images" if decode else "looking for images") as bar:
        for batch in pool.map(partial(_check_batch, str(folder), decode), _batches(paths)):
            states += batch
            bar.advance(len(batch))
    wrong = {path: state for path, state in zip(paths, states, strict=True) if state is not None}
    missing = sorted(by_path[path] for path, state in wrong.items() if state == MISSING)  # in the file's order
    findings = _missing_by_folder(root, missing, paths, benchmark.image_folders)
    for path, state in wrong.items():
        if state != MISSING:
            message = f"{folder / path}: the image of record {by_path[path].number} {state}"
            findings.append(Finding("unreadable image", message, is_error=True))
    return findings


def _split_of(entry: dict[str, Any]) -> str:
    if "split" not in entry:
        raise RecordError("no split", "has no 'split'")
    if entry["split"] not in SPLITS:
        raise RecordError("unknown split", f"has the split {entry['split']!r}, which is none of {', '.join(SPLITS)}")
    return entry["split"]


def _batches(paths: list[str]) -> Iterator[list[str]]:
    remaining = iter(paths)
    return iter(lambda: list(islice(remaining, BATCH)), [])


def _check_batch(folder: str, decode: bool, paths: list[str]) -> list[str | None]:
    return [_check_image(os.path.join(folder, path), decode) for path in paths]


def _check_image(path: str, decode: bool) -> str | None:
    """Say what is wrong with an image file, or None."""
    if not os.path.isfile(path):
        return MISSING
    size = os.path.getsize(path)
    if size == 0:
        return "is empty (0 bytes)"
    if not decode and size >= LARGEST_LFS_POINTER:
        return None
    start = Start.of(Path(path))
    if start.data.startswith(LFS_POINTER):
        return f"cannot be decoded: {what_came_instead(start)}"
    if not decode:
        return None
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # decoders fail in many ways, and each means that the image cannot be used
        instead = what_came_instead(start)
        return f"cannot be decoded ({error})" + (f": {instead}" if instead else "")
    return None


def _missing_by_folder(
    root: Path, missing: list[Annotation], paths: list[str], known_folders: tuple[str, ...]
) -> list[Finding]:
    """Make one finding per folder, so that a missing part of a download stands out."""
    total: dict[str, int] = defaultdict(int)
    for path in paths:
        total[_top_folder(path)] += 1
    by_folder: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in missing:
        by_folder[_top_folder(annotation.record.file_path)].append(annotation)
    findings = []
    for top, absent in sorted(by_folder.items()):
        folder = root / "imgs" / top
        if len(absent) == total[top]:
            message = f"{folder}: missing altogether ({total[top]:,} images)"
        else:
            message = f"{folder}: {len(absent):,} of {total[top]:,} images missing"
        kind = f"missing images of {top}" if top in known_folders else "missing images"
        findings.append(
            Finding(kind, f"{message}, the first: {absent[0]}{_found_elsewhere(root, absent[0])}", is_error=True)
        )
    return findings


def _top_folder(path: str) -> str:
    return path.split("/")[0] if "/" in path else ""


def _found_elsewhere(root: Path, missing: Annotation) -> str:
    """Give a hint if an archive was unpacked one folder too high or too deep."""
    parents = [root, root / "imgs"] if (root / "imgs").is_dir() else [root]
    folders = [root, *(folder for parent in parents for folder in parent.iterdir() if folder.is_dir())]
    for folder in sorted(folders):
        if (folder / missing.record.file_path).is_file():
            return f"; {folder} has it: move what is in there to {root / 'imgs'}"
    return ""
