"""What is known about the captions of a drawn split."""

import json
from pathlib import Path

import pytest

from dataset.run_loaders import eval_loaders_of
from dataset.synthpedes.shown import FILE
from dataset.tokenizer import load_tokenizer
from evaluation.grounding.cases import by_image, load_cases
from tests.helpers.benchmark import PEOPLE
from tests.helpers.runs import copy_of
from utils.distributed import start
from utils.errors import UserError


@pytest.fixture
def load(debug_config, tiny_bert):
    def cases(root: Path, *overrides: str):
        config = debug_config(*overrides, root=root)
        sets = eval_loaders_of(config, load_tokenizer(str(tiny_bert)), start(), "test").sets
        return load_cases(config, sets), sets

    return cases


def test_cases_are_the_captions_of_the_split_in_their_order(load, tiny_benchmark):
    cases, sets = load(tiny_benchmark)
    assert [case.caption.text for case in cases] == sets.captions.texts
    assert [case.person_id for case in cases] == sets.captions.person_id.tolist()
    assert [case.number for case in cases] == list(range(4 * PEOPLE["test"]))
    groups = dict(by_image(cases))
    assert list(groups) == list(range(2 * PEOPLE["test"]))
    assert {len(own) for own in groups.values()} == {2}
    for case in cases:
        words = {name.attribute: case.caption.text[name.start : name.end] for name in case.caption.names}
        assert case.person.upper_colour.split(" ")[-1] in words.get("upper_colour", case.person.upper_colour) or (
            case.person.upper_colour in ("beige", "grey", "purple", "navy")
        )
        assert "upper" in case.parts


def test_captions_are_cut_like_those_of_the_model(load, tiny_benchmark):
    cases, sets = load(tiny_benchmark, "dataset.max_words=6")
    assert [case.caption.text for case in cases] == sets.captions.texts
    assert all(name.end <= len(case.caption.text) for case in cases for name in case.caption.names)


def test_data_that_were_not_drawn(load, tiny_benchmark, tmp_path):
    root = copy_of(tiny_benchmark, tmp_path / "other")
    (root / "synthetic.json").unlink()
    with pytest.raises(UserError, match="no complete SynthPedes"):
        load(root)


def test_annotations_that_were_changed(load, tiny_benchmark, tmp_path):
    root = copy_of(tiny_benchmark, tmp_path / "other")
    pictures = json.loads((root / FILE).read_text())
    for entry in pictures.values():
        entry["captions"][0]["text"] = "A man."
        entry["captions"][0]["names"] = []
    (root / FILE).write_text(json.dumps(pictures))
    with pytest.raises(UserError, match="other captions"):
        load(root)
    (root / FILE).write_text("{}")
    with pytest.raises(UserError, match="has no picture"):
        load(root)
