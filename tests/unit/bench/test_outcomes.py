"""Tables of several seeds: means, deviations, intervals over people, paired differences."""

import math

import numpy as np

from bench.outcomes import Outcome, from_wins, print_differences, print_means
from evaluation.grounding.people import area_under_curve, count_wins

PERSON = np.arange(20) // 2


def outcome(seed: int, gain: float) -> Outcome:
    """R@1 of ten people, who differ much from one another, and chunk scores."""
    generator = np.random.default_rng(seed)
    people = np.linspace(0, 100, 10) + generator.normal(size=10) + gain
    shown, other = generator.normal(size=20) + gain / 4, generator.normal(size=20)
    wins = count_wins(shown, other, PERSON)
    values = {"R@1": float(people.mean()), "AUC": area_under_curve(wins).value, "pointing": math.nan}
    return Outcome(values, {"R@1": people, "AUC": from_wins(wins)})


def cells(printed: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in printed.splitlines() if "|" in line]
    return {line[0]: line[1:] for line in lines}


def test_means_with_deviation_and_interval_over_people(capsys):
    runs = [outcome(seed, 0.0) for seed in range(3)]
    print_means(("R@1", "AUC", "pointing"), {"whole": runs})
    r1, auc, pointing = cells(capsys.readouterr().out)["whole"]
    values = [run.values["R@1"] for run in runs]
    assert r1.startswith(f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} (")
    low, high = map(float, r1.partition("(")[2].strip(")").split("-"))
    assert low < 35 < 65 < high
    assert auc.startswith(f"{np.mean([run.values['AUC'] for run in runs]):.2f} ± ")
    assert pointing == "-"


def test_differences_are_paired_by_people(capsys):
    """People differ by 100, the gain of 8 is the same for all: its interval does not know the people's spread."""
    outcomes = {name: [outcome(seed, gain) for seed in range(3)] for name, gain in (("whole", 0.0), ("better", 8.0))}
    print_differences(("R@1", "AUC", "pointing"), outcomes)
    r1, auc, pointing = cells(capsys.readouterr().out)["better"]
    assert r1 == "+8.00 ± 0.00 (+8.00 to +8.00)"
    gains = [b.values["AUC"] - a.values["AUC"] for a, b in zip(*outcomes.values(), strict=True)]
    assert abs(float(auc.partition(" ")[0]) - np.mean(gains)) < 0.006
    assert f" ± {np.std(gains, ddof=1):.2f} (" in auc
    assert "(+" in auc
    assert pointing == "-"


def test_only_seeds_that_both_have_are_compared(capsys):
    print_differences(("R@1",), {"whole": [outcome(0, 0.0), outcome(1, 50.0)], "other": [outcome(0, 1.0)]})
    assert cells(capsys.readouterr().out)["other"] == ["+1.00 (+1.00 to +1.00)"]


def test_people_are_read_as_they_were_written(tmp_path):
    own = outcome(0, 0.0)
    own.save_people(tmp_path / "people.npz")
    with np.load(tmp_path / "people.npz") as found:
        for column, people in own.people.items():
            np.testing.assert_array_equal(found[column], people)
