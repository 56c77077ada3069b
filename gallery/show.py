"""Answers as text: a table in the terminal for people, a line of JSON for programs."""

from datetime import datetime
from pathlib import Path, PurePosixPath
from string import ascii_lowercase
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gallery.answers import Answer, Hit, Mode

SCORES: dict[Mode, str] = {"exact": "match", "fast": "similarity", "image": "similarity"}  # what Hit.score is
TO_SECONDS = "%Y-%m-%d %H:%M:%S"
FITS = 0.5  # a chunk with at least this probability is shown as fitting


def as_table(answer: Answer, root: Path) -> Table:
    """Rank, path below root, score, and how well each chunk fits, in percent; the caption explains their letters.

    Where the index knows it: how many images a result stands for, which recording it is from, and when.
    """
    scored = answer.hits[0].chunks if answer.hits else ()
    chunks = list(zip(ascii_lowercase, scored, strict=False))  # 26 columns are more than a terminal shows
    caption = Text("   ".join(f"{letter}: {chunk.text}" for letter, chunk in chunks))
    table = Table(title=Text(answer.query), caption=caption, box=box.SIMPLE_HEAD, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.add_column("#", justify="right", style="dim")
    table.add_column("image", overflow="fold")
    table.add_column(SCORES[answer.mode], justify="right")
    for letter, _ in chunks:
        table.add_column(letter, justify="right")
    counts = any(hit.group is not None and hit.group.num_images > 1 for hit in answer.hits)
    moments = any(hit.origin is not None for hit in answer.hits)
    if counts:
        table.add_column("images", justify="right")
    if moments:
        table.add_column("from", overflow="fold")
        table.add_column("when", overflow="fold")
    for rank, hit in enumerate(answer.hits, start=1):
        more = [str(hit.group.num_images if hit.group else 1)] if counts else []
        more += [PurePosixPath(hit.origin.source).name if hit.origin else "", when(hit)] if moments else []
        fits = [Text(f"{chunk.score:.0%}", "green" if chunk.score >= FITS else "dim") for chunk in hit.chunks]
        table.add_row(
            str(rank), Text(str(_below(root, hit.path))), f"{hit.score:.3f}", *fits[: len(chunks)], *map(Text, more)
        )
    return table


def verdict(answer: Answer) -> str:
    """One line: whether the person is in the gallery, and how long the search took."""
    if answer.confidence is None:
        sure = "not calibrated: whether anybody here fits is not known (python search.py calibrate)"
    else:
        sure = confidence(answer)
    return f"{sure}; {answer.mode}, {answer.seconds:.2f} s"


def remarks(answer: Answer) -> list[str]:
    """Lines that say how the sentence was read, if there is anything to say."""
    lines = [unknown_pieces(answer)]
    if answer.unknown_words:
        lines.append(f"not understood: {', '.join(answer.unknown_words)}")
    if answer.negated:
        lines.append(f"read as what the person must not have: {', '.join(answer.negated)}")
    return [line for line in lines if line]


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


def when(hit: Hit) -> str:
    """The time span of a hit: the camera's local time if that is known, else seconds of the video; "" = neither."""
    if hit.origin is None:
        return ""
    own, group = hit.origin, hit.group
    if own.clock is not None:
        start, end = (group.start_clock or own.clock, group.end_clock or own.clock) if group else (own.clock, own.clock)
        until = "" if start == end else f" - {end:%H:%M:%S}" if start.date() == end.date() else f" - {end:{TO_SECONDS}}"
        return f"{start:{TO_SECONDS}}{until}"
    if own.time_s is None:
        return ""
    start_s, end_s = (group.start_s, group.end_s) if group else (own.time_s, own.time_s)
    return f"{start_s:.1f} s" if start_s == end_s else f"{start_s:.1f} - {end_s:.1f} s"


def as_json(answer: Answer) -> dict[str, Any]:
    """Plain values for JSON; the keys are the names of the tuples' fields."""
    return {name: _plain(value) for name, value in answer._asdict().items()}


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value


def _below(root: Path, path: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
