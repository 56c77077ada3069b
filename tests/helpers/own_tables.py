"""Tables of images, people and captions with tiny pictures beside them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.annotations import PNG

HEADER = ("image", "person_id", "caption", "split")
ROWS = (
    ("a/1.png", "ann", "a red coat, and a bag", "train"),
    ("a/1.png", "ann", "a coat", "train"),
    ("a/2.png", "bob", "a blue coat", "train"),
    ("b/3.png", "cem", "a hat", "val"),
    ("b/4.png", "dee", "a scarf", "test"),
)


def csv_text(rows: Sequence[Sequence[str]] = ROWS, header: Sequence[str] = HEADER, delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def lay_out_pictures(root: Path, rows: Sequence[Sequence[str]] = ROWS) -> Path:
    """Write the pictures of the rows to root/imgs."""
    for image, *_ in rows:
        (root / "imgs" / image).parent.mkdir(parents=True, exist_ok=True)
        (root / "imgs" / image).write_bytes(PNG.getvalue())
    return root
