"""The files of an evaluation: a line per query, and the report as JSON and as tables."""

import csv
import json

import pytest
import torch

from evaluation.metrics import measure_queries
from evaluation.report import latex_rows, make_report, markdown_table
from evaluation.results import default_folder, save_per_query, save_report
from evaluation.retrieval import Scores
from utils.config import save_config

TITLE = "CUHK-PEDES test, output/a_b/best.pth"


def test_query_without_a_right_image_has_empty_measures(tmp_path):
    queries = measure_queries(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), None, torch.tensor([1, 7]), torch.tensor([1, 2]))
    save_per_query(tmp_path / "q.csv", queries, [1, 7], ['a "red", hat', "nobody"], ["x/1.png", "y/2.png"])
    with (tmp_path / "q.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {
        **{"query": "0", "person_id": "1", "caption": 'a "red", hat', "first_rank": "2", "num_right": "1"},
        **{"AP": "50.0", "INP": "50.0", "first_image": "y/2.png"},
    }
    assert (second["first_rank"], second["num_right"], second["AP"], second["INP"]) == ("", "0", "", "")
    assert second["first_image"] == "x/1.png"


def test_files(tmp_path):
    similarity = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    scores = Scores(similarity, similarity, torch.arange(6) % 3, torch.arange(4) % 3, {})
    report = make_report(scores, "similarity")
    save_report(tmp_path, report, TITLE, {"split": "test"})
    assert json.loads((tmp_path / "metrics.json").read_text())["split"] == "test"
    assert (tmp_path / "table.md").read_text() == markdown_table(report, TITLE)
    assert (tmp_path / "table.tex").read_text() == latex_rows(report, TITLE)


@pytest.mark.parametrize(
    ("name", "root", "folder"),
    [
        ("CUHK-PEDES", "data", "eval-test"),  # its own data, however often
        ("CUHK-PEDES", "other/../data", "eval-test"),
        ("CUHK-PEDES", "other", "eval-test-other"),
        ("custom", "other", "eval-test-custom"),
    ],
)
def test_other_data_get_a_folder_of_their_own(debug_config, tmp_path, name, root, folder):
    (tmp_path / "other").mkdir()
    save_config(debug_config("dataset.name=CUHK-PEDES", root=tmp_path / "data"), tmp_path / "config.yaml")
    config = debug_config(f"dataset.name={name}", root=tmp_path / root)
    assert default_folder(config, tmp_path / "best.pth", "test") == tmp_path / folder


def test_a_folder_that_is_no_run_gets_the_plain_name(debug_config, tmp_path):
    assert default_folder(debug_config(), tmp_path, "val") == tmp_path / "eval-val"
