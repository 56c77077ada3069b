"""A small SynthPedes for tests, and what lies in its folder."""

import json
from pathlib import Path
from typing import Any

from dataset.benchmarks import benchmark

SMALL: dict[str, Any] = {
    "benchmark": "CUHK-PEDES",
    "people": {"train": 8, "val": 3, "test": 4},
    "images_per_person": 2,
    "captions_per_image": 2,
    "seed": 7,
    "size_px": (64, 32),
    "workers": 1,
}


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def raw_records(root: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((root / benchmark(name).raw_files[0]).read_text(encoding="utf-8"))
