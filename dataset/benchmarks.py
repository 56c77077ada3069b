"""The three benchmarks and data of one's own: file names, record format and official sizes.

Sources: the papers and annotation files of the benchmarks.

"Images" counts annotation records: ICFG-PEDES lists one image twice and counts it twice.
"""

from dataclasses import dataclass
from typing import NamedTuple

from utils.errors import UserError

SPLITS = ("train", "val", "test")


class SplitCounts(NamedTuple):
    people: int
    images: int
    captions: int


@dataclass(frozen=True)
class Benchmark:
    """Layout of a benchmark on disk, and the official size of each split."""

    name: str
    raw_files: tuple[str, ...]  # names of the annotation file; the first that exists is read
    path_key: str  # the key of a record that holds the image path, relative to imgs/
    splits: dict[str, SplitCounts]  # official sizes; empty: there are none to compare with
    image_folders: tuple[str, ...]  # folders under imgs/; empty: the images lie in imgs/ itself


CUSTOM = Benchmark(
    name="custom",
    raw_files=("table.csv", "table.jsonl", "table.parquet"),
    path_key="image",
    splits={},
    image_folders=(),
)
BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="CUHK-PEDES",
            raw_files=("reid_raw.json",),
            path_key="file_path",
            splits={
                "train": SplitCounts(people=11_003, images=34_054, captions=68_126),
                "val": SplitCounts(people=1_000, images=3_078, captions=6_158),
                "test": SplitCounts(people=1_000, images=3_074, captions=6_156),
            },
            image_folders=("cam_a", "cam_b", "CUHK01", "CUHK03", "Market", "test_query", "train_query"),
        ),
        Benchmark(
            name="ICFG-PEDES",
            raw_files=("ICFG-PEDES.json", "ICFG_PEDES.json"),
            path_key="file_path",
            splits={
                "train": SplitCounts(people=3_102, images=34_674, captions=34_674),
                "val": SplitCounts(people=0, images=0, captions=0),
                "test": SplitCounts(people=1_000, images=19_848, captions=19_848),
            },
            image_folders=("train", "test"),
        ),
        Benchmark(
            name="RSTPReid",
            raw_files=("data_captions.json",),
            path_key="img_path",
            splits={
                "train": SplitCounts(people=3_701, images=18_505, captions=37_010),
                "val": SplitCounts(people=200, images=1_000, captions=2_000),
                "test": SplitCounts(people=200, images=1_000, captions=2_000),
            },
            image_folders=(),
        ),
        CUSTOM,
    )
}


def benchmark(name: str) -> Benchmark:
    """Return the benchmark of that name. Raises: UserError that lists the valid names, for any other name."""
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
