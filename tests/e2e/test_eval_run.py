"""eval.py: its files as design 4 fixes them, recomputed here by plain loops."""

import csv
import json

import numpy as np
import pytest
import torch

from dataset.captions import clean_caption
from dataset.images import read_image
from dataset.run_loaders import split_records
from dataset.tokenizer import encode, load_tokenizer
from models.build import build_model
from models.person_search import PersonSearchModel
from models.weights import initialise
from tests.helpers.benchmark import PEOPLE
from tests.helpers.runs import eval_command, refused, train_and_record

TOP_K = 3
MEASURES = ("R1", "R5", "R10", "mAP", "mINP")
FILES = {"metrics.json", "per_query.csv", "table.md", "table.tex"}


@pytest.fixture(scope="module")
def checkpoint(debug_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval") / "run"
    train_and_record([*debug_settings("train.stop_after_steps=4"), "--output", str(folder)])
    return folder / "last.pth"


@pytest.fixture(scope="module")
def evaluated(checkpoint, debug_settings):
    """metrics.json and scores.npz of the test split, with changed captions too."""
    settings = debug_settings(f"eval.rerank_top_k={TOP_K}")
    assert eval_command([*settings, "--checkpoint", str(checkpoint), "--save-scores", "--perturb"]) == 0
    folder = checkpoint.parent / "eval-test"
    assert {path.name for path in folder.iterdir()} == {*FILES, "scores.npz"}
    with np.load(folder / "scores.npz", allow_pickle=False) as scores:
        return json.loads((folder / "metrics.json").read_text()), dict(scores)


def test_names_shapes_and_types(evaluated, debug_config):
    metrics, scores = evaluated
    num_images, num_texts = 2 * PEOPLE["test"], 4 * PEOPLE["test"]
    assert {"R1", "R5", "R10", "mAP", "mINP"} <= metrics.keys()
    counts = {"num_images": num_images, "num_captions": num_texts, "num_people": PEOPLE["test"]}
    assert {key: metrics[key] for key in counts} == counts
    assert metrics["seconds"].keys() == {"images", "captions", "rerank", "total"}
    assert all(value >= 0 for value in metrics["seconds"].values())
    fixed = {"similarity", "scores", "text_person_ids", "image_person_ids", "image_paths"}
    assert scores.keys() == {*fixed, "captions"}
    for name in ("similarity", "scores"):
        assert scores[name].shape == (num_texts, num_images)
        assert scores[name].dtype == np.float32
    assert (np.isfinite(scores["scores"]).sum(axis=1) == TOP_K).all()
    assert (scores["scores"][~np.isfinite(scores["scores"])] == -np.inf).all()
    assert np.isfinite(scores["similarity"]).all()
    assert np.abs(scores["similarity"]).max() <= 1 + 1e-6
    records = split_records(debug_config(), "test")
    assert scores["image_paths"].tolist() == [record.file_path for record in records]
    assert scores["image_person_ids"].tolist() == [record.person_id for record in records]
    assert scores["text_person_ids"].tolist() == [r.person_id for r in records for _ in r.captions]
    assert scores["captions"].tolist() == [clean_caption(text, 48) for r in records for text in r.captions]


def test_the_most_similar_are_re_ranked(evaluated):
    _, scores = evaluated
    for similarity, row in zip(scores["similarity"], scores["scores"], strict=True):
        assert similarity[np.isfinite(row)].min() >= similarity[~np.isfinite(row)].max()


def test_metrics_follow_from_the_scores(evaluated):
    metrics, scores = evaluated
    both = zip(scores["scores"].tolist(), scores["similarity"].tolist(), strict=True)
    ranked = [sorted(range(len(row)), key=lambda n, r=row, s=s: (r[n] == -np.inf, -r[n], -s[n])) for row, s in both]
    assert {key: metrics[key] for key in ("R1", "R5", "R10", "mAP", "mINP")} == pytest.approx(
        measured(ranked, scores["text_person_ids"], scores["image_person_ids"]), rel=1e-9
    )
    ranked = [sorted(range(len(row)), key=lambda n, r=row: -r[n]) for row in scores["similarity"].tolist()]
    assert {key: metrics["similarity"][key] for key in ("R1", "R5", "R10", "mAP", "mINP")} == pytest.approx(
        measured(ranked, scores["text_person_ids"], scores["image_person_ids"]), rel=1e-9
    )


def measured(ranked: list[list[int]], text_person_ids, image_person_ids) -> dict[str, float]:
    """The five measures in percent, one query and one place after the other."""
    totals = dict.fromkeys(("R1", "R5", "R10", "mAP", "mINP"), 0.0)
    for order, person in zip(ranked, text_person_ids, strict=True):
        places = [place for place, image in enumerate(order, start=1) if image_person_ids[image] == person]
        for k in (1, 5, 10):
            totals[f"R{k}"] += places[0] <= k
        totals["mAP"] += sum(found / place for found, place in enumerate(places, start=1)) / len(places)
        totals["mINP"] += len(places) / places[-1]
    return {key: 100 * total / len(ranked) for key, total in totals.items()}


def test_scores_equal_one_pair_at_a_time(evaluated, checkpoint, debug_config, tiny_benchmark):
    """Neither padding nor the grouping of pairs changes a score. float32, atol 1e-4."""
    _, scores = evaluated
    config = debug_config()
    model = build_model(config).eval()
    initialise(model, checkpoint)
    tokenizer = load_tokenizer(config.model.text_encoder.name)
    records = split_records(config, "test")
    texts = [caption for record in records for caption in record.captions]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        images = []
        for record in records:
            pixels = read_image(tiny_benchmark / "imgs" / record.file_path, config.dataset.image_size)
            images.append(model.encode_image(((pixels / 255 - mean[:, None, None]) / std[:, None, None])[None]))
        for row, text in enumerate(texts):
            ids = torch.tensor([encode(tokenizer, clean_caption(text, 48), 48).ids])
            mask = torch.ones_like(ids)
            _, embedding = model.encode_text(ids, mask)
            for column, (features, image_embedding) in enumerate(images):
                similarity = float((embedding * image_embedding).sum())
                assert scores["similarity"][row, column] == pytest.approx(similarity, abs=1e-4)
                if np.isfinite(scores["scores"][row, column]):
                    score = float(model.match(ids, mask, features.tokens))
                    assert scores["scores"][row, column] == pytest.approx(score, abs=1e-4)


def test_twice_the_same_and_in_batches_of_any_size(evaluated, checkpoint, debug_settings, tmp_path):
    metrics, scores = evaluated
    for size in (64, 3):
        settings = debug_settings(f"eval.rerank_top_k={TOP_K}", f"eval.batch_size={size}")
        common = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "again"), "--save-scores"]
        assert eval_command([*settings, *common]) == 0
        again = json.loads((tmp_path / "again" / "metrics.json").read_text())
        with np.load(tmp_path / "again" / "scores.npz") as own:
            for name, values in scores.items():
                if size == 64 or values.dtype != np.float32:
                    np.testing.assert_array_equal(own[name], values)
                else:
                    np.testing.assert_allclose(own[name], values, rtol=0, atol=1e-5)
        assert {**again, "seconds": 0} == {key: value for key, value in metrics.items() if key != "perturbed"} | {
            "seconds": 0
        }


def test_val_split_and_a_gallery_smaller_than_k(checkpoint, debug_settings):
    settings = debug_settings("eval.rerank_top_k=128")
    assert eval_command([*settings, "--checkpoint", str(checkpoint), "--split", "val", "--save-scores"]) == 0
    folder = checkpoint.parent / "eval-val"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["split"], metrics["num_people"], metrics["num_images"]) == ("val", PEOPLE["val"], 6)
    with np.load(folder / "scores.npz") as scores:
        assert np.isfinite(scores["scores"]).all()


def test_image_to_text_follows_from_the_scores(evaluated):
    """Queries are the columns; an image's re-ranked captions, those that had it among their first k, come first."""
    metrics, scores = evaluated
    people = (scores["image_person_ids"], scores["text_person_ids"])
    both = zip(scores["scores"].T.tolist(), scores["similarity"].T.tolist(), strict=True)
    ranked = [sorted(range(len(row)), key=lambda n, r=row, s=s: (r[n] == -np.inf, -r[n], -s[n])) for row, s in both]
    ours = metrics["image_to_text"]
    assert {key: ours[key] for key in MEASURES} == pytest.approx(measured(ranked, *people), rel=1e-9)
    ranked = [sorted(range(len(row)), key=lambda n, r=row: -r[n]) for row in scores["similarity"].T.tolist()]
    assert {key: ours["similarity"][key] for key in MEASURES} == pytest.approx(measured(ranked, *people), rel=1e-9)
    assert ours["num_queries"] == 2 * PEOPLE["test"]


def test_every_row_has_intervals_around_its_measures(evaluated):
    metrics, _ = evaluated
    directions = [metrics, metrics["image_to_text"], *metrics["perturbed"].values()]
    for row in [*directions, *(direction["similarity"] for direction in directions)]:
        for name in MEASURES:
            low, high = row["intervals"][name]
            assert 0 <= low <= row[name] <= high <= 100
    assert any(metrics["intervals"][name][0] < metrics["intervals"][name][1] for name in MEASURES)


def test_per_query_file_averages_to_the_measures(evaluated, checkpoint):
    metrics, scores = evaluated
    with (checkpoint.parent / "eval-test" / "per_query.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["query"]) for row in rows] == list(range(metrics["num_captions"]))
    assert [int(row["person_id"]) for row in rows] == scores["text_person_ids"].tolist()
    ranks = np.array([int(row["first_rank"]) for row in rows])
    for k in (1, 5, 10):
        assert metrics[f"R{k}"] == pytest.approx(100 * np.mean(ranks <= k))
    assert metrics["mAP"] == pytest.approx(np.mean([float(row["AP"]) for row in rows]), abs=1e-5)
    assert metrics["mINP"] == pytest.approx(np.mean([float(row["INP"]) for row in rows]), abs=1e-5)
    person_of = dict(zip(scores["image_paths"].tolist(), scores["image_person_ids"].tolist(), strict=True))
    assert [person_of[row["first_image"]] == int(row["person_id"]) for row in rows] == (ranks == 1).tolist()
    assert all(row["caption"] == clean_caption(row["caption"], 99) != "" for row in rows)


def test_changed_captions_are_scored_on_the_gallery_encoded_once(evaluated, checkpoint, debug_settings, monkeypatch):
    """The same measures again, while each of the 8 images goes through the image encoder a single time."""
    metrics, _ = evaluated
    assert list(metrics["perturbed"]) == ["typos", "dropped_words", "shortened", "shuffled"]
    encoded = []
    own = PersonSearchModel.encode_image

    def counted(model, image):
        encoded.append(len(image))
        return own(model, image)

    monkeypatch.setattr(PersonSearchModel, "encode_image", counted)
    output = checkpoint.parent / "perturbed"
    settings = debug_settings(f"eval.rerank_top_k={TOP_K}")
    assert eval_command([*settings, "--checkpoint", str(checkpoint), "--perturb", "--output", str(output)]) == 0
    assert sum(encoded) == 2 * PEOPLE["test"]
    assert json.loads((output / "metrics.json").read_text())["perturbed"] == metrics["perturbed"]
    assert {path.name for path in output.iterdir()} == FILES


def test_compare_a_model_with_itself_and_with_another(evaluated, checkpoint, tmp_path, capsys):
    _, scores = evaluated
    own = checkpoint.parent / "eval-test" / "scores.npz"
    better = scores["text_person_ids"][:, None] == scores["image_person_ids"][None]
    np.savez(tmp_path / "b.npz", **{**scores, "scores": np.where(better, 9.0, -9.0).astype(np.float32)})
    arguments = ["--compare", str(own), str(tmp_path / "b.npz"), "--output", str(tmp_path / "out")]
    assert eval_command(arguments) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("re-ranked", "similarity", "R@1", "mINP", "95% interval"))
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for name in MEASURES:
        row = compared["re-ranked"][name]
        assert row["b"] == pytest.approx(100)
        assert row["difference"] == pytest.approx(row["b"] - row["a"])
        assert compared["similarity"][name]["p_value"] == 1
    assert compared["re-ranked"]["mAP"]["p_value"] < 0.01


def test_compare_refuses_other_captions_and_missing_files(evaluated, checkpoint, tmp_path, capsys):
    _, scores = evaluated
    own = str(checkpoint.parent / "eval-test" / "scores.npz")
    rows = ("similarity", "scores", "text_person_ids")
    fewer = tmp_path / "fewer.npz"
    np.savez(fewer, **{name: values[1:] if name in rows else values for name, values in scores.items()})
    message = refused(eval_command, ["--compare", own, str(fewer)], capsys)
    assert "compare two models on the same split" in message
    message = refused(eval_command, ["--compare", own, str(tmp_path / "no.npz")], capsys)
    assert "run eval.py with --save-scores" in message
    with pytest.raises(SystemExit) as stopped:
        eval_command(["--checkpoint", str(checkpoint)])
    assert stopped.value.code == 2
