"""Comparing two files of scores: which differences are told, and which files cannot be compared."""

import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from evaluation.comparison import check_same, compare_files, comparison_json, comparison_table
from utils.errors import UserError

NUM_PEOPLE, NUM_TEXTS = 12, 60


def scores(noise: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Two images per person, five captions; the larger the noise, the worse the model."""
    generator = np.random.default_rng(seed)
    texts, images = np.arange(NUM_TEXTS) % NUM_PEOPLE, np.arange(2 * NUM_PEOPLE) % NUM_PEOPLE
    similarity = (texts[:, None] == images) + noise * generator.standard_normal((len(texts), len(images)))
    return {
        "similarity": similarity.astype(np.float32),
        "scores": np.full(similarity.shape, -np.inf, dtype=np.float32),
        "text_person_ids": texts,
        "image_person_ids": images,
        "image_paths": np.array([f"{row}.png" for row in range(len(images))]),
    }


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / f"{len(list(folder.iterdir()))}.npz"
    np.savez(path, **arrays)
    return path


def test_a_better_model_is_better_in_every_measure(tmp_path):
    a, b = saved(tmp_path, **scores(0.8)), saved(tmp_path, **scores(0.2, seed=1))
    differences = compare_files(a, b)
    for rows in differences.values():
        assert [row.measure for row in rows] == ["R1", "R5", "R10", "mAP", "mINP"]
        for row in rows:
            assert row.difference == pytest.approx(row.b - row.a)
            assert row.low <= row.difference <= row.high
        assert rows[0].p_value < 0.01
        assert rows[0].low > 0
    assert differences["re-ranked"] == differences["similarity"]  # nothing was re-ranked
    for row, backwards in zip(differences["similarity"], compare_files(b, a)["similarity"], strict=True):
        assert (row.difference, row.p_value) == pytest.approx((-backwards.difference, backwards.p_value))


def test_captions_without_a_right_image_are_left_out_of_both(tmp_path):
    nobody = np.where(np.arange(NUM_TEXTS) < 30, 99, np.arange(NUM_TEXTS) % NUM_PEOPLE)
    own = {**scores(0.8), "text_person_ids": nobody}
    row = compare_files(saved(tmp_path, **own), saved(tmp_path, **own))["similarity"][0]
    assert (row.difference, row.p_value) == (0, 1)
    half = {name: values[30:] if len(values) == NUM_TEXTS else values for name, values in own.items()}
    half_path = saved(tmp_path, **half)
    assert row.a == compare_files(half_path, half_path)["similarity"][0].a


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("text_person_ids", lambda values: values[:-1], "a.npz has 60 captions, b.npz has 59"),
        ("text_person_ids", lambda values: values[::-1], "not of the same captions: number 0 is 0 in one, 11 in the"),
        ("image_paths", lambda values: values[:-2], "a.npz has 24 images, b.npz has 22"),
        (
            "image_paths",
            lambda values: np.roll(values, 1),
            "same images: number 0 is 0.png in one, 23.png in",
        ),
        (
            "image_person_ids",
            lambda values: values + 1,
            "same people of the images: number 0 is 0 in one, 1",
        ),
    ],
)
def test_other_captions_or_galleries_are_refused(name, change, message):
    a = scores(0.5)
    with pytest.raises(UserError, match=re.escape(message)):
        check_same(a, {**a, name: change(a[name])}, Path("a.npz"), Path("b.npz"))


def with_captions(scores: dict[str, np.ndarray], captions: list[str]) -> dict[str, np.ndarray]:
    return {**scores, "captions": np.array(captions)}


def test_other_captions_of_the_same_people_are_refused():
    words = [f"caption {row} of a man in a coat" for row in range(NUM_TEXTS)]
    a, swapped = with_captions(scores(0.5), words), list(words)
    swapped[3], swapped[15] = words[15], words[3]  # of one person
    changed = [caption.replace("coat", "hat") if row == 7 else caption for row, caption in enumerate(words)]
    shortened = [caption[: len(caption) // 2] for caption in words]
    for other, message in (
        (swapped, "not of the same captions: number 3 is caption 3 of a man in a coat in one, caption 15 of a man in"),
        (changed, "number 7 is caption 7 of a man in a coat in one, caption 7 of a man in a hat in the other"),
        (shortened, "not of the same captions"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            check_same(a, with_captions(scores(0.5), other), Path("a.npz"), Path("b.npz"))


def test_captions_that_one_model_cuts_earlier_are_the_same():
    """dataset.max_words is 90 in one configuration and 70 in the other; files of earlier versions have no captions."""
    words = [" ".join(f"word{row + n}" for n in range(1 + row)) for row in range(NUM_TEXTS)]
    cut = [" ".join(caption.split()[:40]) for caption in words]
    a, b = with_captions(scores(0.5), words), with_captions(scores(0.5), cut)
    check_same(a, b, Path("a.npz"), Path("b.npz"))
    check_same(b, a, Path("b.npz"), Path("a.npz"))
    check_same(a, scores(0.5), Path("a.npz"), Path("old.npz"))
    cut[59] = cut[58]
    with pytest.raises(UserError, match="captions: number 59"):
        check_same(a, with_captions(scores(0.5), cut), Path("a.npz"), Path("b.npz"))


def test_files_that_are_none_are_refused(tmp_path):
    own, broken = saved(tmp_path, **scores(0.5)), tmp_path / "broken.npz"
    broken.write_bytes(b"no archive")
    for path, message in (
        (broken, "broken.npz is not a file of eval.py --save-scores"),
        (tmp_path / "missing.npz", "missing.npz does not exist: run eval.py with --save-scores"),
        (saved(tmp_path, similarity=np.zeros((2, 2))), "is not a file of eval.py --save-scores"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            compare_files(own, path)


def test_table_and_json_hold_the_same(tmp_path):
    a, b = saved(tmp_path, **scores(0.8)), saved(tmp_path, **scores(0.2, seed=1))
    differences = compare_files(a, b)
    console = Console(width=100)
    with console.capture() as shown:
        console.print(comparison_table(differences, a, b))
    lines = shown.get().splitlines()
    first = differences["re-ranked"][0]
    r1 = next(line for line in lines if "R@1 " in line)
    assert all(text in r1 for text in (f"{first.a:.2f}", f"{first.b:.2f}", f"{first.difference:+.2f}", "< 0.001"))
    data = comparison_json(differences, a, b)
    assert data["re-ranked"]["R1"] == {name: value for name, value in first._asdict().items() if name != "measure"}
    assert (data["a"], data["b"]) == (str(a), str(b))
