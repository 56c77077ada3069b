"""A table of one's own from preparation to search, and a model evaluated on other data than it was trained on."""

import json
from pathlib import Path

import pytest

import figures.__main__
from dataset.prepare import main as prepare
from dataset.records import read_records
from dataset.run_loaders import split_records
from dataset.synthpedes.generate import generate
from models import export
from tests.helpers.benchmark import PEOPLE
from tests.helpers.runs import eval_command, train_and_record
from tests.helpers.search_runs import answers, search_command

COUNTS = ("num_images", "num_captions", "num_people")
ONE_STEP = "train.stop_after_steps=1"


def drawn(root: Path, name: str, seed: int) -> Path:
    """A prepared SynthPedes with two images of each person."""
    generate(
        root,
        benchmark=name,
        people=PEOPLE,
        images_per_person=2,
        captions_per_image=2,
        seed=seed,
        size_px=(64, 32),
        workers=1,
        lookalikes=0.0,
    )
    assert prepare([name, str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return drawn(tmp_path_factory.mktemp("own") / "own", "custom", seed=0)


@pytest.fixture(scope="module")
def trained(own, debug_settings, tmp_path_factory) -> Path:
    """A run on the table, evaluated on it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    settings = debug_settings("dataset.name=custom", "eval.rerank_top_k=3", root=own)
    train_and_record([*settings, ONE_STEP, "--output", str(folder)])
    assert eval_command([*settings, "--checkpoint", str(folder / "last.pth"), "--save-scores"]) == 0
    return folder


def test_the_same_pedestrians_as_in_the_format_of_a_benchmark(own, tiny_benchmark):
    for split in PEOPLE:
        table, listed = (
            [(record.person_id, record.captions) for record in read_records(root, split)]
            for root in (own, tiny_benchmark)
        )
        assert table == listed


def test_figures(trained, own, tmp_path):
    config = str(trained / "config.yaml")
    figures.__main__.main(["retrievals", str(trained / "eval-test"), "--config", config])
    figures.__main__.main(["words", str(own), "--out", str(tmp_path / "w")])
    assert (trained / "eval-test" / "retrievals.png").is_file()
    assert (tmp_path / "w.png").is_file()


def test_export(trained, tmp_path):
    export.main([str(trained / "last.pth"), str(tmp_path / "exported")])
    assert (tmp_path / "exported" / "config.json").is_file()


def test_search(trained, own, tmp_path, capsys):
    index = str(tmp_path / "index")
    arguments = ["--images", str(own / "imgs"), "--checkpoint", str(trained / "last.pth"), "--index", index]
    assert search_command(["index", *arguments]) == 0
    (answer,) = answers(capsys, "a man in a red coat", "--index", index, "--top", "2")
    assert all((own / "imgs" / hit["path"]).is_file() for hit in answer["hits"])


@pytest.mark.parametrize(("name", "folder"), [("RSTPReid", "eval-test-RSTPReid"), ("custom", "eval-test-other")])
def test_evaluation_on_other_data_than_it_was_trained_on(trained, debug_settings, tmp_path, name, folder):
    other = drawn(tmp_path / "other", name, seed=1)
    before = (trained / "eval-test" / "metrics.json").read_bytes()
    settings = debug_settings(f"dataset.name={name}", "eval.rerank_top_k=3", root=other)
    assert eval_command([*settings, "--checkpoint", str(trained / "last.pth")]) == 0
    metrics = json.loads((trained / folder / "metrics.json").read_text())
    assert [metrics[key] for key in COUNTS] == [2 * PEOPLE["test"], 4 * PEOPLE["test"], PEOPLE["test"]]
    assert (trained / "eval-test" / "metrics.json").read_bytes() == before  # of its own data


def test_training_on_several_roots_and_evaluation_on_the_first(
    own, tiny_benchmark, debug_config, debug_settings, tmp_path
):
    both = f"dataset.root=[{own},{tiny_benchmark}]"
    config = debug_config("dataset.name=custom", both)
    train = split_records(config, "train")
    assert len(train) == 2 * len(read_records(own, "train"))
    assert len({record.person_id for record in train}) == 2 * PEOPLE["train"]
    assert all((own / "imgs" / record.file_path).is_file() for record in train)
    assert split_records(config, "test") == read_records(own, "test")
    settings = debug_settings("dataset.name=custom", both, "train.batch_size=48", "train.epochs=1")  # all pairs of both
    assert len(train_and_record([*settings, "--output", str(tmp_path / "run")])) == 1
    assert eval_command([*settings, "--checkpoint", str(tmp_path / "run" / "last.pth")]) == 0
    metrics = json.loads((tmp_path / "run" / "eval-test" / "metrics.json").read_text())
    assert metrics["num_people"] == PEOPLE["test"]
