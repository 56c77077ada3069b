"""The measures of grounding as a table for the terminal, as Markdown and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from evaluation.bootstrap import LEVEL, PAIRED_RESAMPLES, RESAMPLES, SEED
from evaluation.grounding.chunk_scores import ChunkScores
from evaluation.grounding.measures import Grounding, Reranking
from evaluation.grounding.people import Mean
from evaluation.grounding.pointing import Pointing
from evaluation.metrics import HEADERS, MEASURES
from utils.files import replacing, save_json


class Section(NamedTuple):
    title: str
    headers: tuple[str, ...]  # of the columns behind the first
    rows: Sequence[tuple[str, ...]]


def save_grounding(folder: Path, grounding: Grounding, title: str) -> None:
    """Write grounding.json and grounding.md."""
    folder.mkdir(parents=True, exist_ok=True)
    save_json(folder / "grounding.json", grounding_json(grounding))
    with replacing(folder / "grounding.md") as temporary:
        temporary.write_text(markdown(grounding, title), encoding="utf-8")


def grounding_json(grounding: Grounding) -> dict[str, Any]:
    """Pointing and chunk scores in [0, 1], re-ranking in percent; means as {value, low, high}."""
    reranking = grounding.reranking
    return {
        "attention": {name: _plain(measured) for name, measured in grounding.attention.items()},
        "layer": grounding.layer,
        "evidence": {name: _plain(measured) for name, measured in grounding.evidence.items()},
        "chunks": {name: _plain(measured) for name, measured in grounding.chunks.items()},
        "reranking": None if reranking is None else _reranking_json(reranking),
        "num_captions": grounding.num_captions,
        "bootstrap": {"resamples": RESAMPLES, "paired_resamples": PAIRED_RESAMPLES, "seed": SEED, "level": LEVEL},
    }


def _plain(measured: Any) -> dict[str, Any]:
    fields = measured._asdict().items()
    return {key: value._asdict() if isinstance(value, Mean) else value for key, value in fields}


def _reranking_json(reranking: Reranking) -> dict[str, dict[str, float]]:
    names = ("similarity", "reranked", "difference", "low", "high", "p_value")
    columns = (reranking.similarity, reranking.reranked, *reranking.test)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {measure: dict(zip(names, row, strict=True)) for measure, row in zip(MEASURES, rows, strict=True)}


def terminal_tables(grounding: Grounding, title: str) -> Iterator[Table]:
    """One table for each measure."""
    for number, section in enumerate(_sections(grounding)):
        table = Table(section.title, *section.headers, box=SIMPLE_HEAD, title_justify="left", title_style="")
        table.title = None if number else title
        for number_of_column, column in enumerate(table.columns):
            column.justify, column.no_wrap = "right" if number_of_column else "left", True
        for row in section.rows:
            table.add_row(*row)
        yield table


def markdown(grounding: Grounding, title: str) -> str:
    lines = [f"{title.replace('|', '/')}; {LEVEL:.0%} intervals over people", ""]
    for section in _sections(grounding):
        lines += [f"| {section.title} | {' | '.join(section.headers)} |", "|---" + "|---:" * len(section.headers) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in section.rows]
        lines.append("")
    return "\n".join(lines)


def _sections(grounding: Grounding) -> Iterator[Section]:
    pointing = {f"attention, layer {grounding.layer}": grounding.attention, "evidence": grounding.evidence}
    for title, measured in pointing.items():
        if measured:
            yield Section(f"pointing: {title}", ("accuracy in %", "chance", "ratio", "words"), _pointing(measured))
    if grounding.chunks:
        yield Section("chunk scores", ("AUC", "pairs in %", "blind", "words", "n"), _chunks(grounding.chunks))
    if grounding.reranking is not None:
        similarity, reranked, test = grounding.reranking
        columns = zip(HEADERS, similarity, reranked, *test, strict=True)
        rows = [
            (name, f"{a:.2f}", f"{b:.2f}", f"{difference:+.2f} ({low:+.2f} to {high:+.2f})", _p(p_value))
            for name, a, b, difference, low, high, p_value in columns
        ]
        yield Section("re-ranking", ("similarity, %", "re-ranked", "difference", "p"), rows)


def _pointing(measured: Mapping[str, Pointing]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            _percent(own.accuracy),
            f"{100 * own.chance.value:.1f}",
            f"{own.accuracy.value / own.chance.value:.1f}",
            f"{own.words}",
        )
        for name, own in measured.items()
    ]


def _chunks(measured: Mapping[str, ChunkScores]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            _number(own.auc),
            _percent(own.pairs),
            f"{own.elsewhere.value:.3f}",
            f"{own.words.value:.3f}" if own.words else "-",
            f"{own.exchanges}",
        )
        for name, own in measured.items()
    ]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _percent(mean: Mean) -> str:
    return f"{100 * mean.value:.1f} ({100 * mean.low:.1f}-{100 * mean.high:.1f})"


def _number(mean: Mean) -> str:
    return f"{mean.value:.3f} ({mean.low:.3f}-{mean.high:.3f})"
