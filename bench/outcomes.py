"""What runs with several seeds were measured to be: means, and differences from the first variant. P people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.rows import Rows
from evaluation.bootstrap import confidence_intervals
from evaluation.grounding.people import Mean, Wins, area_under_curve
from utils.files import replacing


class Outcome(NamedTuple):
    """What one run was measured to be."""

    values: dict[str, float]  # by column; NaN = not measured
    people: dict[str, np.ndarray]  # by column: values of people (P,), or as of `from_wins`

    def save_people(self, path: Path) -> None:
        arrays: dict[str, Any] = dict(self.people)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)


def from_wins(found: Wins) -> np.ndarray:
    """As one array (P, P + 1), the counts in the last column."""
    return np.column_stack(found)


def print_means(columns: Sequence[str], outcomes: Mapping[str, Sequence[Outcome]]) -> None:
    """A row for each variant: mean over the seeds, deviation between them, and the interval over people."""
    title = "mean over seeds ± deviation between seeds (95 % interval over people)"
    rows = Rows({"variant": _width(outcomes)}, columns, title=title, width=28)
    for name, runs in outcomes.items():
        rows.add(name, *(_mean_cell(column, runs) for column in columns))


def print_differences(columns: Sequence[str], outcomes: Mapping[str, Sequence[Outcome]]) -> None:
    """A row for each variant but the first: mean difference, deviation between seeds, and the interval over people."""
    first, *others = outcomes
    title = f"difference from {first} ± deviation between seeds (95 % interval, paired by people)"
    rows = Rows({"variant": _width(outcomes)}, columns, title=title, width=32)
    for name in others:
        rows.add(name, *(_difference_cell(column, outcomes[first], outcomes[name]) for column in columns))


def _mean_cell(column: str, runs: Sequence[Outcome]) -> str:
    values = np.array([run.values[column] for run in runs])
    if np.isnan(values).any():
        return "-"
    arrays = [run.people[column] for run in runs if column in run.people]
    return f"{values.mean():.2f}{_deviation(values)}" + (f" ({_ends(np.mean(arrays, axis=0))})" if arrays else "")


def _difference_cell(column: str, before: Sequence[Outcome], after: Sequence[Outcome]) -> str:
    """Of the seeds that both have."""
    pairs = list(zip(before, after, strict=False))  # both are in the order of the seeds
    if not pairs or any(column not in run.people for pair in pairs for run in pair):
        return "-"
    differences = []
    for one, other in pairs:
        difference = other.people[column] - one.people[column]
        if difference.ndim == 2:
            difference[:, -1] = one.people[column][:, -1]  # the counts are the same in both
        differences.append(difference)
    found = _interval(np.mean(differences, axis=0))
    deviation = _deviation(np.array([other.values[column] - one.values[column] for one, other in pairs]))
    return f"{found.value:+.2f}{deviation} ({found.low:+.2f} to {found.high:+.2f})"


def _deviation(of_seeds: np.ndarray) -> str:
    return f" ± {of_seeds.std(ddof=1):.2f}" if len(of_seeds) > 1 else ""


def _ends(people: np.ndarray) -> str:
    found = _interval(people)
    return f"{found.low:.2f}-{found.high:.2f}"


def _interval(people: np.ndarray) -> Mean:
    if people.ndim == 2:
        return area_under_curve(Wins(people[:, :-1], people[:, -1]))
    return Mean(float(people.mean()), *confidence_intervals(people[:, None])[0])


def _width(outcomes: Mapping[str, Sequence[Outcome]]) -> int:
    return max(map(len, outcomes))
