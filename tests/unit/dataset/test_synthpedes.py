"""SynthPedes: the same bytes from the same arguments, the formats on disk, people, captions and what they may tell."""

import io
import json
import re
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image

from dataset.benchmarks import benchmark
from dataset.synthpedes import generate as synthetic
from dataset.synthpedes.body import Look, sample_look
from dataset.synthpedes.captions import article, listing, write_caption
from dataset.synthpedes.figure import draw_person, draw_picture
from dataset.synthpedes.files import people_of
from dataset.synthpedes.generate import generate, main
from dataset.synthpedes.palette import CLOTH_RGB
from dataset.synthpedes.people import NONE, Person, num_differences, sample_people
from dataset.synthpedes.views import sample_view, visible_attributes
from tests.helpers.synthpedes import SMALL, files, raw_records
from utils.errors import UserError


def colours_of(image: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}


@pytest.fixture(scope="module")
def people() -> list[Person]:
    return [person for person, _ in sample_people(400, 0.3, set(), Random(3))]


def test_one_and_two_workers_write_the_same_bytes(tmp_path):
    generate(tmp_path / "one", **SMALL)
    generate(tmp_path / "two", **(SMALL | {"workers": 2}))
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_another_seed_writes_other_pictures_and_captions(tmp_path):
    generate(tmp_path / "one", **SMALL)
    generate(tmp_path / "two", **(SMALL | {"seed": 8}))
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert not set(one.values()) & set(two.values())


@pytest.mark.parametrize("name", ["CUHK-PEDES", "ICFG-PEDES", "RSTPReid"])
def test_format_on_disk(name, tmp_path):
    counts = {"train": 5, "val": 0 if name == "ICFG-PEDES" else 2, "test": 3}
    generate(tmp_path, **(SMALL | {"benchmark": name, "people": counts}))
    records = raw_records(tmp_path, name)
    assert len(records) == 2 * sum(counts.values())
    for record in records:
        assert {"split", "id", "captions", benchmark(name).path_key} <= set(record)
        assert type(record["id"]) is int
        assert len(record["captions"]) == 2
        with Image.open(tmp_path / "imgs" / record[benchmark(name).path_key]) as image:
            assert (image.format, image.mode, image.height) == ("JPEG", "RGB", 64)
            assert 24 <= image.width <= 32
    folders = {path.name for path in (tmp_path / "imgs").iterdir() if path.is_dir()}
    assert folders == set(benchmark(name).image_folders)
    assert len({record[benchmark(name).path_key] for record in records}) == len(records)
    ids = {split: {record["id"] for record in records if record["split"] == split} for split in counts}
    assert {split: len(people) for split, people in ids.items()} == counts
    assert len(ids["train"] | ids["val"] | ids["test"]) == sum(counts.values())


def test_note_tells_everybodys_attributes(tmp_path):
    generate(tmp_path, **SMALL)
    note = json.loads((tmp_path / "synthetic.json").read_text(encoding="utf-8"))
    assert note["version"] == synthetic.VERSION
    assert note["arguments"]["seed"] == 7
    assert [person["id"] for person in note["people"]] == list(range(1, 16))
    assert len({Person(**person["attributes"]) for person in note["people"]}) == 15


def test_second_run_reuses_and_interrupted_run_is_redone(tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path, **SMALL)
    assert not (tmp_path / "synthetic.json").exists()
    (tmp_path / "imgs" / "left_over.jpg").touch()
    generate(tmp_path, **SMALL)
    assert not (tmp_path / "imgs" / "left_over.jpg").exists()
    assert not (tmp_path / "synthetic.partial").exists()
    monkeypatch.setattr(synthetic, "clear", None)  # would raise if a second run drew anything
    with caplog.at_level("INFO"):
        generate(tmp_path, **SMALL)
    assert "nothing to do" in caplog.text
    with pytest.raises(UserError, match="seed 7, not 8"):
        generate(tmp_path, **(SMALL | {"seed": 8}))


def test_people_apart_from_those_of_other_folders(tmp_path):
    """Nobody comes again, ids go on, no seed is used twice; what was drawn apart from others is another folder."""
    generate(tmp_path / "one", **SMALL)
    two = SMALL | {"seed": 8, "apart_from": [tmp_path / "one"]}
    generate(tmp_path / "two", **two)
    one, others = (people_of(tmp_path / name, unlike_seed=0) for name in ("one", "two"))
    assert min(others) == max(one) + 1
    assert not set(one.values()) & set(others.values())
    generate(tmp_path / "two", **two)  # nothing to do
    with pytest.raises(UserError, match="another SynthPedes"):
        generate(tmp_path / "two", **(SMALL | {"seed": 8}))
    with pytest.raises(UserError, match="was drawn with seed 8 as well"):
        generate(tmp_path / "three", **two | {"apart_from": [tmp_path / "one", tmp_path / "two"]})
    with pytest.raises(UserError, match="holds no complete SynthPedes"):
        generate(tmp_path / "three", **two | {"apart_from": [tmp_path / "none"]})


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "imgs").mkdir()
    with pytest.raises(UserError, match="not SynthPedes"):
        generate(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": {"train": -1}}, "counts of train, val, test"),
        ({"people": {"train": 0}}, "not all 0"),
        ({"benchmark": "ICFG-PEDES"}, "no validation people"),
        ({"benchmark": "CUHK"}, "CUHK-PEDES, ICFG-PEDES, RSTPReid"),
        ({"images_per_person": 0}, "images per person"),
        ({"workers": 0}, "workers"),
        ({"size_px": (64, 100)}, "size"),
        ({"lookalikes": 1.0}, "lookalikes"),
    ],
)
def test_bad_arguments(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        generate(tmp_path / "out", **(SMALL | change))
    assert not (tmp_path / "out").exists()


def test_command_line_errors_are_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "out"), "--people-train", "-3"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "out"), "--size", "big"])
    assert "HEIGHTxWIDTH" in capsys.readouterr().err


def test_people_are_distinct_and_lookalikes_close():
    taken: set[Person] = set()
    drawn = [sample_people(500, 0.5, taken, Random(split)) for split in ("train", "test")]
    assert len(taken) == 1000
    for members in drawn:
        pairs = [(person, members[place][0]) for person, place in members if place is not None]
        assert 200 < len(pairs) < 300
        assert {num_differences(*pair) for pair in pairs} == {1, 2}


def test_no_impossible_people(people):
    for person in people:
        assert (person.lower == NONE) == (person.upper == "dress")
        assert not (person.upper == "coat" and person.lower in ("shorts", "skirt"))
        assert person.beard == NONE or (person.gender == "male" and person.age != "child")
        for thing in ("hat", "bag"):
            assert (getattr(person, thing) == NONE) == (getattr(person, f"{thing}_colour") == NONE)
        assert (person.pattern == "plain") == (person.pattern_colour == NONE)


def test_captions_have_the_length_and_the_grammar_of_sentences(people):
    rng = Random(0)
    captions = [write_caption(person, sample_view(person, rng), rng) for person in people for _ in range(5)]
    lengths = [len(caption.split()) for caption in captions]
    assert 20 < sum(lengths) / len(lengths) < 26
    assert len(set(captions)) > 0.95 * len(captions)
    for caption in captions:
        assert caption[0].isupper(), caption
        assert caption.endswith("."), caption
        assert "  " not in caption, caption
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|[{}]|none|\b(\w+) \1\b", caption), caption


def test_pronouns_agree(people):
    rng = Random(0)
    for person in people:
        words = set(write_caption(person, sample_view(person, rng), rng).lower().split())
        assert not words & ({"she", "her", "woman", "girl"} if person.gender == "male" else {"he", "his", "man", "boy"})


def test_captions_tell_only_what_the_view_shows(people):
    rng = Random(0)
    wearing = [replace(person, glasses="glasses", shoes="sandals", hat=NONE, hat_colour=NONE) for person in people]
    told: dict[str, int] = {"glasses": 0, "sandals": 0}
    for person in wearing:
        view = sample_view(person, rng)
        caption, shown = write_caption(person, view, rng), visible_attributes(person, view)
        for word, attribute in (("glasses", "glasses"), ("sandals", "shoes")):
            told[word] += word in caption
            assert word not in caption or attribute in shown
        assert not (view.from_back and "glasses" in caption)
    assert min(told.values()) > 50


def test_main_garments_are_mostly_told(people):
    rng = Random(0)
    jeans = [person for person in people if person.lower == "jeans"]
    told = ["jeans" in write_caption(person, sample_view(person, rng), rng) for person in jeans]
    assert 0.85 < sum(told) / len(told) < 1


def test_colour_of_the_coat_is_in_the_picture(people):
    """The middle of the trunk is red or blue as the attributes say, whatever the light."""
    rng, look = Random(0), sample_look(Random(0))
    plain = replace(
        people[0], age="adult", upper="sweater", pattern="plain", pattern_colour=NONE, sleeves="long", bag=NONE,
        bag_colour=NONE, carried=NONE, carried_colour=NONE, scarf_colour=NONE, inner_colour=NONE, hair="short",
        hair_colour="brown",
    )  # fmt: skip
    for colour, channel in (("red", 0), ("blue", 2)):
        person = replace(plain, upper_colour=colour)
        for _ in range(5):
            view = replace(sample_view(person, rng), yaw=0.0, top=0.05, height=0.9, centre=0.5, occluder=NONE)
            image = Image.open(io.BytesIO(draw_picture(person, look, view, (128, 60), rng).jpeg))
            trunk = np.asarray(image)[42:54, 25:35]
            assert trunk.mean((0, 1)).argmax() == channel


def test_bag_and_carried_object_keep_their_own_colours(people):
    black = {"upper_colour": "black", "lower_colour": "black", "shoe_colour": "black", "hat": NONE, "pattern": "plain"}
    plain = replace(people[0], upper="sweater", lower="trousers", scarf_colour=NONE, inner_colour=NONE, **black)
    person = replace(plain, bag="handbag", bag_colour="yellow", carried="shopping bag", carried_colour="green")
    view = replace(sample_view(person, Random(0)), yaw=0.0, stride=0.0, top=0.05, height=0.9, centre=0.5, bag_side=1)
    image = Image.new("RGB", (120, 256), (128, 128, 128))
    look = Look(skin=(208, 158, 118), build=1.0, tint=(0, 0, 0))
    draw_person(image, person, look, view)
    left, right = (colours_of(image.crop(box)) for box in ((0, 0, 50, 256), (70, 0, 120, 256)))
    assert CLOTH_RGB["yellow"] in right - left
    assert CLOTH_RGB["green"] in left - right


def test_words():
    assert [article(phrase) for phrase in ("orange hat", "red hat", "old man")] == [
        "an orange hat",
        "a red hat",
        "an old man",
    ]
    assert listing(["a", "b", "c"], oxford=True) == "a, b, and c"
    assert listing(["a", "b"], oxford=True) == "a and b"
