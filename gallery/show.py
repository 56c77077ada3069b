"""Answers as text: a table in the terminal for people, a line of JSON for programs."""

from pathlib import Path
from string import ascii_lowercase
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gallery.answers import Answer, Mode

SCORES: dict[Mode, str] = {"exact": "match", "fast": "similarity", "image": "similarity"}  # what Hit.score is
FITS = 0.5  # a chunk with at least this probability is shown as fitting


def as_table(answer: Answer, root: Path) -> Table:
    """Rank, path below root, score, and how well each chunk fits, in percent; the caption explains their letters."""
    chunks = list(zip(ascii_lowercase, answer.hits[0].chunks if answer.hits else (), strict=False))
    caption = Text("   ".join(f"{letter}: {chunk.text}" for letter, chunk in chunks))
    table = Table(title=Text(answer.query), caption=caption, box=box.SIMPLE_HEAD, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.add_column("#", justify="right", style="dim")
    table.add_column("image", overflow="fold")
    table.add_column(SCORES[answer.mode], justify="right")
    for letter, _ in chunks:
        table.add_column(letter, justify="right")
    for rank, hit in enumerate(answer.hits, start=1):
        fits = [Text(f"{chunk.score:.0%}", "green" if chunk.score >= FITS else "dim") for chunk in hit.chunks]
        table.add_row(str(rank), Text(str(_below(root, hit.path))), f"{hit.score:.3f}", *fits[: len(chunks)])
    return table


def verdict(answer: Answer) -> str:
    """One line: whether the person is in the gallery, and how long the search took."""
    if answer.confidence is None:
        sure = "not calibrated: whether anybody here fits is not known (python search.py calibrate)"
    else:
        sure = confidence(answer)
    return f"{sure}; {answer.mode}, {answer.seconds:.2f} s"


def unknown_pieces(answer: Answer) -> str:
    """One line: which word pieces the model cannot read, and how many they are; "" if it knows all of them."""
    if not answer.unknown_pieces:
        return ""
    counts = f"{len(answer.unknown_pieces)} of {answer.num_pieces} word pieces"
    return f"unknown to the model: {counts}, read as [UNK]: {', '.join(dict.fromkeys(answer.unknown_pieces))}"


def confidence(answer: Answer) -> str:
    """The calibrated probability in words."""
    if answer.confidence is None:
        return "not calibrated"
    probability = f"the person is in the gallery with probability {answer.confidence:.0%}"
    return f"nothing matches: {probability} only" if answer.nothing_matches else probability


def as_json(answer: Answer) -> dict[str, Any]:
    """Plain values for JSON; the keys are the names of the tuples' fields."""
    hits = [
        {**hit._asdict(), "path": str(hit.path), "chunks": [chunk._asdict() for chunk in hit.chunks]}
        for hit in answer.hits
    ]
    return {**answer._asdict(), "hits": hits}


def _below(root: Path, path: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
