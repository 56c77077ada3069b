"""Examples of people: which are chosen, and what is drawn."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image

from figures.embedding import EmbeddedSplit
from figures.people import ClosePeople, FarPair, closest_people, draw_people, furthest_pairs
from figures.style import GREEN
from utils.errors import UserError


def on_circle(*degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def embedded(
    image: np.ndarray, image_person_id: list[int], text: np.ndarray, text_person_id: list[int]
) -> EmbeddedSplit:
    return EmbeddedSplit(
        image,
        text,
        np.array(image_person_id),
        np.array(text_person_id),
        [Path(f"{row}.png") for row in range(len(image))],
        [f"caption {row}" for row in range(len(text))],
    )


def test_the_two_least_similar_images_of_a_person():
    """Person 1 at 0, 10 and 60 degrees, person 2 at 0 and 90, person 3 has one image."""
    split = embedded(on_circle(0, 0, 10, 90, 60, 5), [1, 2, 1, 2, 1, 3], on_circle(0), [1])
    pairs = furthest_pairs(split, 5)
    assert [(pair.person_id, {path.name for path in pair.images}) for pair in pairs] == [
        (2, {"1.png", "3.png"}),
        (1, {"0.png", "4.png"}),
    ]
    assert [pair.similarity for pair in pairs] == pytest.approx([0, 0.5], abs=1e-6)
    assert len(furthest_pairs(split, 1)) == 1


def test_captions_whose_people_are_equally_similar_come_first():
    """People 1 to 3 at 0, 40 and 100 degrees. Caption 0 (of 1) lies on 1; caption 1 (of 2) between 1 and 2 and 3."""
    split = embedded(on_circle(0, 40, 100, 170), [1, 2, 3, 3], on_circle(0, 50, 51), [1, 2, 2])
    examples = closest_people(split, 5)
    assert [example.caption for example in examples] == ["caption 1", "caption 0"]  # one caption per person described
    first = examples[0]
    assert [path.name for path in first.images] == ["1.png", "0.png", "2.png"]  # person 3 with the nearer image
    assert first.right == [True, False, False]
    assert first.similarities == pytest.approx(np.cos(np.radians([10, 50, 50])), abs=1e-6)
    assert len(closest_people(split, 1)) == 1


def test_the_person_described_is_always_shown():
    """Nine people nearer to the caption than the one it describes."""
    split = embedded(on_circle(*range(9), 80), list(range(10)), on_circle(0), [9])
    (example,) = closest_people(split, 1)
    assert len(example.images) == 6
    assert example.right == [False] * 5 + [True]
    assert example.similarities == sorted(example.similarities, reverse=True)


def test_too_few_people():
    with pytest.raises(UserError, match="nobody has two images"):
        furthest_pairs(embedded(on_circle(0, 5), [1, 2], on_circle(0), [1]), 3)
    with pytest.raises(UserError, match="two people in the gallery and a caption of one of them"):
        closest_people(embedded(on_circle(0, 5), [1, 2], on_circle(0), [7]), 3)
    with pytest.raises(UserError, match="two people in the gallery"):
        closest_people(embedded(on_circle(0, 5), [1, 1], on_circle(0), [1]), 3)


def test_drawing_frames_the_person_described(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 50), "blue").save(path)
    pairs = [FarPair(1, (path, path), 0.25)] * 5  # more than fit into one row
    example = ClosePeople("a long caption " * 40, [path] * 3, [0.5, 0.4, 0.3], [False, True, False])
    (axes,) = draw_people(pairs, [example], "the title").axes
    assert len(axes.images) == 13
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert sum(to_hex(frame.get_edgecolor()) == GREEN.lower() for frame in frames) == 1
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("cosine 0.25") == 5
    assert "the title" in texts
    assert any(text.endswith("…") for text in texts)
