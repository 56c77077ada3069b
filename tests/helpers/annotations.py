"""Annotation files with tiny pictures, and the command that prepares them."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dataset.prepare import main

PNG = BytesIO()
Image.new("RGB", (1, 1)).save(PNG, "PNG")


def entry(split: Any, person: Any, path: str, *captions: str) -> dict[str, Any]:
    """A record of CUHK-PEDES."""
    return {"split": split, "id": person, "file_path": path, "captions": list(captions or [f"person number {person}"])}


def lay_out(root: Path, entries: list[Any], missing: tuple[str, ...] = ()) -> Path:
    """Write the annotation file of CUHK-PEDES with these entries, and their pictures but for the missing ones."""
    (root / "reid_raw.json").write_text(json.dumps(entries))
    (root / "imgs").mkdir(exist_ok=True)
    for path in (entry["file_path"] for entry in entries if isinstance(entry, dict) and "file_path" in entry):
        if path not in missing and not path.startswith("/") and ".." not in path:
            (root / "imgs" / path).parent.mkdir(parents=True, exist_ok=True)
            (root / "imgs" / path).write_bytes(PNG.getvalue())
    return root


def run(
    root: Path, capsys: pytest.CaptureFixture[str], *arguments: str, name: str = "CUHK-PEDES"
) -> tuple[int, list[str]]:
    """(exit status, lines of standard output and error)."""
    status = main([name, str(root), *arguments])
    output = capsys.readouterr()
    return status, (output.out + output.err).splitlines()


def only(lines: list[str], level: str) -> list[str]:
    return [line for line in lines if line.startswith(f"{level}: ")]


def small() -> list[dict[str, Any]]:
    """Four people, one caption or two, in all splits."""
    return [
        entry("train", 1, "cam_a/1.png", "a man", "a tall man"),
        entry("train", 2, "cam_b/2.png"),
        entry("val", 3, "Market/3.png"),
        entry("test", 4, "Market/4.png"),
    ]
