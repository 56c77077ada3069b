"""The tiny SynthPedes of the fixture `tiny_benchmark`, and how to read a prepared benchmark."""

import json
from pathlib import Path

from dataset.captions import clean_caption

PEOPLE = {"train": 6, "val": 3, "test": 4}


def read_split(root: Path, split: str) -> list[dict]:
    """Records of processed_data/SPLIT.json."""
    return json.loads((root / "processed_data" / f"{split}.json").read_text())


def words_of(record: dict) -> list[str]:
    """The words of a record's captions, cleaned, in their order."""
    return [word for caption in record["captions"] for word in clean_caption(caption, 99).split()]
