"""Which part of a drawn person each pixel shows, the boxes of the parts, and parts.json."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dataset.synthpedes.body import Look, sample_look
from dataset.synthpedes.figure import draw_person, draw_picture
from dataset.synthpedes.generate import generate
from dataset.synthpedes.parts import PARTS, SCENE, Part, Pen, visible_parts
from dataset.synthpedes.people import NONE, Person, sample_people
from dataset.synthpedes.shown import FILE, read_shown
from dataset.synthpedes.views import CameraView, sample_view, visible_attributes
from tests.helpers.synthpedes import SMALL, files, raw_records
from utils.errors import UserError


@pytest.fixture(scope="module")
def people() -> list[Person]:
    return [person for person, _ in sample_people(60, 0.0, set(), Random(3))]


@pytest.fixture
def canvas() -> Image.Image:
    image = Image.new("RGB", (20, 10))
    image.putalpha(SCENE)
    return image


def from_the_front(person: Person) -> CameraView:
    return replace(sample_view(person, Random(0)), yaw=0.0, stride=0.0, top=0.05, height=0.9, centre=0.5, occluder=NONE)


def test_box_and_share_of_a_part(canvas):
    pen = Pen(canvas, SCENE)
    pen.rectangle((0, 0, 19, 9), fill=(1, 2, 3))
    with pen.part("bag"):
        pen.rectangle((4, 2, 7, 6), fill=(9, 9, 9), outline=(8, 8, 8))
    assert visible_parts(canvas) == {name: Part((0.2, 0.2, 0.4, 0.7), 0.1) for name in ("person", "bag")}
    assert canvas.convert("RGB").getpixel((5, 4)) == (9, 9, 9)


def test_what_is_painted_on_top_hides_a_part_of_the_same_colour(canvas):
    pen = Pen(canvas, SCENE)
    with pen.part("lower"):
        pen.rectangle((0, 0, 9, 9), fill=(9, 9, 9))
    with pen.part("upper"):
        pen.rectangle((5, 0, 19, 9), fill=(9, 9, 9))
    ImageDraw.Draw(canvas).rectangle((15, 0, 19, 9), fill=(9, 9, 9))  # an occluder
    found = visible_parts(canvas)
    assert found["lower"] == Part((0, 0, 0.25, 1), 0.25)
    assert found["upper"] == Part((0.25, 0, 0.75, 1), 0.5)
    assert found["person"] == Part((0, 0, 0.75, 1), 0.75)


def test_a_logo_belongs_to_the_garment(canvas):
    pen = Pen(canvas, SCENE)
    with pen.part("upper"):
        pen.rectangle((0, 0, 9, 9), fill=(9, 9, 9))
        with pen.part("logo"):
            pen.rectangle((2, 2, 11, 3), fill=(1, 1, 1))
        pen.point((19, 9), fill=(1, 1, 1))
    found = visible_parts(canvas)
    assert found["upper"] == found["person"] == Part((0, 0, 1, 1), 0.525)
    assert found["logo"] == Part((0.1, 0.2, 0.6, 0.4), 0.1)


def test_parts_of_a_person_are_where_they_are_drawn(people):
    things = {"bag": "handbag", "bag_colour": "red", "carried": "umbrella", "carried_colour": "blue"}
    worn = {"hat": "cap", "hat_colour": "red", "glasses": "glasses", "scarf_colour": "white", "hair": "short"}
    clothes = {"upper": "jacket", "inner_colour": "white", "pattern": "plain", "pattern_colour": NONE, "lower": "jeans"}
    person = replace(people[0], gender="male", age="adult", beard="beard", hair_colour="brown", **things, **worn)
    person = replace(person, sleeves="long", lower_colour="blue", **clothes)
    parts = draw_picture(person, sample_look(Random(0)), from_the_front(person), (192, 96), Random(0)).parts
    assert set(parts) == set(PARTS) - {"head", "logo"}
    middle = {name: ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for name, (box, _) in parts.items()}
    downwards = ["hat", "glasses", "beard", "scarf", "upper", "lower", "shoes"]
    assert sorted(downwards, key=lambda name: middle[name][1]) == downwards
    for name in ("inner", "hat", "glasses", "shoes"):
        assert abs(middle[name][0] - 0.5) < 0.1, name
    inner, upper, whole = parts["inner"].box, parts["upper"].box, parts["person"].box
    assert upper[0] < inner[0] < inner[2] < upper[2]
    boxes = [box for box, _ in parts.values()]
    assert whole == (*np.min(boxes, axis=0)[:2], *np.max(boxes, axis=0)[2:])
    assert parts["carried"].box[1] == whole[1]  # the umbrella
    assert parts["person"].share >= sum(parts[name].share for name in ("upper", "lower", "inner", "carried", "hat"))


def test_a_bald_head_is_a_head_and_no_hair(people):
    bald = replace(people[0], hair="bald", hair_colour=NONE, hat=NONE, hat_colour=NONE)
    parts = draw_picture(bald, sample_look(Random(0)), from_the_front(bald), (128, 64), Random(0)).parts
    assert "hair" not in parts
    assert parts["head"].share > 0.01


def test_behind_a_hedge_there_are_no_shoes(people):
    view = replace(from_the_front(people[0]), occluder="hedge", occluder_top=0.7)
    parts = draw_picture(people[0], sample_look(Random(0)), view, (128, 64), Random(0)).parts
    assert "shoes" not in parts
    assert parts["person"].box[3] <= 0.8


def test_what_the_view_shows_is_mostly_drawn(people):
    """A caption's words can be looked for: garments always, other things unless something hides them."""
    missing, rng = [], Random(0)
    for person in people:
        view = sample_view(person, rng)
        shown = visible_attributes(person, view)
        parts = draw_picture(person, sample_look(rng), view, (128, 64), rng).parts
        assert {"upper", "person"} <= set(parts)
        missing += [name for name in ("hat", "bag", "carried", "lower", "shoes") if name in shown and name not in parts]
    assert len(missing) < 6, missing


def test_pictures_are_the_same_with_and_without_parts(people):
    look = Look(skin=(208, 158, 118), build=1.0, tint=(0, 0, 0))
    for person in people[:20]:
        plain = Image.new("RGB", (64, 128), (128, 128, 128))
        numbered = plain.copy()
        numbered.putalpha(SCENE)
        for image in (plain, numbered):
            draw_person(image, person, look, sample_view(person, Random(1)))
        assert numbered.convert("RGB").tobytes() == plain.tobytes()


def test_parts_json_tells_what_pictures_show(tmp_path):
    generate(tmp_path, **SMALL)
    pictures = read_shown(tmp_path)
    records = {record["file_path"]: record for record in raw_records(tmp_path, "CUHK-PEDES")}
    note = json.loads((tmp_path / "synthetic.json").read_text(encoding="utf-8"))
    people = {entry["id"]: Person(**entry["attributes"]) for entry in note["people"]}
    assert list(pictures) == list(records)
    for path, shown in pictures.items():
        assert shown.person_id == records[path]["id"]
        assert [caption.text for caption in shown.captions] == records[path]["captions"]
        person = people[shown.person_id]
        assert {"gender", "upper_colour"} <= set(shown.attributes) <= set(vars(person))
        for text, names in shown.captions:
            for attribute, part, start, end in names:
                assert attribute == "" or attribute in shown.attributes
                assert part in PARTS
                assert text[start:end].strip() == text[start:end] != ""


def test_a_folder_without_parts_json_gets_it_and_stays_as_it_is(tmp_path):
    generate(tmp_path, **SMALL)
    before = files(tmp_path)
    (tmp_path / FILE).unlink()
    changed = next((tmp_path / "imgs").rglob("*.jpg"))
    changed.write_bytes(b"of another Pillow")
    generate(tmp_path, **SMALL)
    assert files(tmp_path) == before | {str(changed.relative_to(tmp_path)): b"of another Pillow"}


def test_missing_and_damaged_parts_json(tmp_path):
    with pytest.raises(UserError, match=r"no parts\.json"):
        read_shown(tmp_path)
    for text in ('{"a.jpg": {"id": 1}}', "[]", "{"):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(UserError, match="damaged"):
            read_shown(tmp_path)
