"""Map and histograms of an embedding: what is chosen, counted and drawn; the commands on a checkpoint."""

import numpy as np
import pytest
import torch

from figures.__main__ import main
from figures.embedding import EmbeddedSplit, choose_points, draw_embedding, similarity_histograms, tsne
from models.build import build_model
from utils.errors import UserError
from utils.log import one_line_errors


def split(num_people: int = 8, per_person: int = 3, noise: float = 0.3) -> EmbeddedSplit:
    """As many images as captions per person, around a direction of the person's own."""
    generator = np.random.default_rng(0)
    person_id = np.arange(num_people * per_person) % num_people
    middle = generator.standard_normal((num_people, 16))
    sides = [middle[person_id] + noise * generator.standard_normal((len(person_id), 16)) for _ in range(2)]
    image, text = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    return EmbeddedSplit(image, text, person_id, person_id, [], [""] * len(text))


def test_histograms_are_those_of_all_pairs(monkeypatch):
    monkeypatch.setattr("figures.embedding.ROWS_AT_A_TIME", 5)  # several blocks
    own = split()
    found = similarity_histograms(own)
    similarity = own.text @ own.image.T
    right = own.text_person_id[:, None] == own.image_person_id
    for share, values in ((found.right, similarity[right]), (found.wrong, similarity[~right])):
        assert share.sum() == pytest.approx(1)
        np.testing.assert_allclose(share, np.histogram(values, found.edges)[0] / len(values), atol=1e-12)
    wins = (similarity[~right][:, None] > similarity[right]).mean()
    assert found.overlap == pytest.approx(wins, abs=0.002)  # up to pairs within one fine bin


@pytest.mark.parametrize(("constant", "overlap"), [(1.0, 0.5), (-1.0, 0.5)])
def test_all_pairs_alike(constant, overlap):
    ones = np.ones((4, 1))
    found = similarity_histograms(EmbeddedSplit(ones, constant * ones, np.arange(4), np.arange(4), [], []))
    assert found.overlap == pytest.approx(overlap)
    assert found.right.sum() == found.wrong.sum() == pytest.approx(1)


def test_pairs_of_one_kind_only_are_refused():
    ones = np.ones((2, 1))
    with pytest.raises(UserError, match="two people at least"):
        similarity_histograms(EmbeddedSplit(ones, ones, np.zeros(2), np.zeros(2), [], []))


def test_coloured_people_are_on_the_map_and_no_row_twice(monkeypatch):
    monkeypatch.setattr("figures.embedding.MAX_POINTS", 30)
    own = split()
    people, rows = choose_points(own, 3, seed=0)
    assert len(set(people)) == 3
    assert len(set(rows.tolist())) == len(rows) == 30
    person_id = np.tile(own.image_person_id, 2)[rows]
    assert np.isin(person_id, people).sum() == 3 * 2 * 3
    again = choose_points(own, 3, seed=0)
    assert (again[0], again[1].tolist()) == (people, rows.tolist())
    assert choose_points(own, 3, seed=1)[0] != people
    nobody = own._replace(text_person_id=own.text_person_id + 100)
    with pytest.raises(UserError, match="nobody has both"):
        choose_points(nobody, 3, seed=0)


def test_a_coloured_person_of_many_images_keeps_its_captions():
    own = split(num_people=2, per_person=30)
    people, rows = choose_points(own, 1, seed=0)
    coloured = rows[np.tile(own.image_person_id, 2)[rows] == people[0]][:16]
    assert (coloured < len(own.image)).sum() == (coloured >= len(own.image)).sum() == 8


def test_map_keeps_neighbours_and_repeats_itself():
    """Points of one person are nearer to each other than to others, in the map as in the embedding."""
    own = split(noise=0.05)
    points = np.concatenate([own.image, own.text])
    places = tsne(points, seed=0)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(len(places))
    person_id = np.tile(own.image_person_id, 2)
    assert (person_id[distance.argmin(axis=1)] == person_id).mean() > 0.9
    np.testing.assert_array_equal(places, tsne(points, seed=0))


def test_drawing_has_a_line_and_two_markers_per_person():
    left, right = draw_embedding(split(), "title", num_people=2, seed=0).axes
    assert len(left.lines) == 2
    assert [len(points.get_offsets()) for points in left.collections] == [18, 18, 3, 3, 3, 3]
    assert {text.get_text() for text in right.get_legend().get_texts()} == {"wrong pairs", "right pairs"}
    assert "exceeds" in right.get_xlabel()
    assert [text.get_text() for text in left.texts] == ["1", "1", "2", "2"]  # people, without their colours
    assert len({patch.get_linestyle() for patch in right.patches if not patch.get_fill()}) == 2


def test_few_right_pairs_give_few_bins():
    few, many = (similarity_histograms(split(num_people=people, per_person=5)) for people in (8, 200))
    assert len(few.right) == 14  # 8 * 25 pairs
    assert len(many.right) == 50


def test_commands_on_a_checkpoint(debug_settings, debug_config, tmp_path, capsys):
    torch.manual_seed(0)
    torch.save({"model": build_model(debug_config()).state_dict()}, tmp_path / "best.pth")
    given = [*debug_settings(), "--checkpoint", str(tmp_path / "best.pth")]
    for name in ("embedding", "people"):
        main([name, *given])
        assert capsys.readouterr().out.split() == [str(tmp_path / f"{name}.{suffix}") for suffix in ("png", "pdf")]
    command = one_line_errors(main)
    assert command(["embedding", *given, "--people", "9"]) == 2
    assert "there are colours for 8 people, not for 9" in capsys.readouterr().err
    assert command(["people", *given, "--checkpoint", "other.pth"]) == 2
    assert "one --checkpoint makes this figure" in capsys.readouterr().err
