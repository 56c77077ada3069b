"""search.py query, calibrate and serve: answers are those of the evaluation."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import search
from dataset.run_loaders import eval_loaders_of
from dataset.tokenizer import load_tokenizer
from evaluation.metrics import rank_gallery
from evaluation.retrieval import score_gallery
from gallery import Gallery
from gallery.encoding.encoder import Encoder
from gallery.indexing.commands import build_index
from gallery.indexing.request import IndexingRequest
from gallery.search.negation import PROBE_WEIGHT
from gallery.service import server
from gallery.store.segments import image_id
from gallery.store.store import Store
from tests.helpers.runs import refused
from tests.helpers.saved_models import save_search_model
from tests.helpers.search_runs import CPU, TOP_K, answers, search_command
from utils.errors import UserError


@pytest.fixture(scope="module")
def indexed(checkpoint, images, test_paths, tmp_path_factory):
    """Index of the test images, through the command line."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "list.txt").write_text("\n".join(test_paths) + "\n\n")
    command = ["index", "--images", str(images), "--checkpoint", str(checkpoint), "--index", str(folder / "index")]
    assert search_command([*command, "--list", str(folder / "list.txt"), "--tokens", "no"]) == 0
    return folder / "index"


@pytest.fixture(scope="module")
def evaluated(config, checkpoint):
    """The test captions and their scores in the evaluation."""
    encoder = Encoder(checkpoint, config, CPU.device)
    loaders = eval_loaders_of(config, load_tokenizer(config.model.text_encoder.name), CPU, "test")
    scores = score_gallery(
        encoder.model, loaders.gallery, loaders.captions, process=CPU, precision="fp32", rerank_top_k=TOP_K
    )
    return loaders.captions.dataset.texts, scores  # type: ignore[attr-defined]


def test_answers_are_those_of_the_evaluation(indexed, evaluated, images, test_paths, capsys, tmp_path):
    texts, scores = evaluated
    (tmp_path / "queries.txt").write_text("\n".join(texts))
    common = ["--queries", str(tmp_path / "queries.txt"), "--index", str(indexed)]
    exact = answers(capsys, *common, "--top", str(TOP_K))
    fast = answers(capsys, *common, "--fast", "--top", "100")
    assert [answer["query"] for answer in exact] == texts
    orders = rank_gallery(scores.similarity, scores.matching), rank_gallery(scores.similarity)
    for row, (one, other) in enumerate(zip(exact, fast, strict=True)):
        assert (one["mode"], other["mode"], len(other["hits"])) == ("exact", "fast", len(test_paths))
        for answer, order, of_order in ((one, orders[0], scores.matching), (other, orders[1], scores.similarity)):
            for hit, image in zip(answer["hits"], order[row].tolist(), strict=False):
                assert hit["path"] == str(images.resolve() / test_paths[image])
                assert hit["score"] == pytest.approx(float(of_order[row, image]), abs=1e-4)
                assert hit["similarity"] == pytest.approx(float(scores.similarity[row, image]), abs=1e-5)
                assert hit["image_id"] == image_id(test_paths[image])


def test_kept_tokens_give_the_same_scores(indexed, checkpoint, images, test_paths, evaluated, tmp_path):
    report = build_index(
        IndexingRequest(images=images, checkpoint=checkpoint, index=tmp_path, paths=test_paths, tokens="yes"), CPU
    )
    assert report.encoded == report.total == len(test_paths)
    size = (tmp_path / "segments" / "00000001" / "tokens.f16").stat().st_size
    assert size == len(test_paths) * 17 * 48 * 2  # 32 px in patches of 8, and the class token; width 48; two bytes
    kept, encoded_again = (Gallery.open(path, device="cpu") for path in (tmp_path, indexed))
    assert (kept.describe()["image_tokens"], encoded_again.describe()["image_tokens"]) == ("kept", "not kept")
    for text in evaluated[0][:3]:
        one, other = (
            {hit.image_id: hit for hit in gallery.query(text, top=8).hits} for gallery in (kept, encoded_again)
        )
        assert one.keys() == other.keys()
        for name, hit in one.items():
            assert hit.score == pytest.approx(other[name].score, abs=5e-3)  # tokens are kept as float16
            assert [chunk.text for chunk in hit.chunks] == [chunk.text for chunk in other[name].chunks]


def test_chunks_of_the_sentence_are_scored(indexed):
    gallery = Gallery.open(str(indexed), device="cpu")
    answer = gallery.query("A man with a red backpack, and black shoes.", top=2)
    assert [[chunk.text for chunk in hit.chunks] for hit in answer.hits] == [["red backpack", "black shoes"]] * 2
    assert all(0 < chunk.score < 1 for hit in answer.hits for chunk in hit.chunks)
    assert gallery.query("a man", top=2).hits[0].chunks == ()
    assert len({hit.chunks for hit in answer.hits}) == 2


def test_similar_people_and_where_words_are_seen(indexed, images, test_paths):
    gallery = Gallery.open(indexed, device="cpu")
    with Image.open(images / test_paths[2]) as picture:
        answer = gallery.query_image(picture, top=3)
    assert (answer.mode, len(answer.hits), answer.query) == ("image", 3, "")
    assert answer.hits[0].image_id == image_id(test_paths[2])
    assert answer.hits[0].similarity == pytest.approx(1, abs=1e-3)
    assert gallery.image_path(image_id(test_paths[2])) == images.resolve() / test_paths[2]
    for unknown in ("0" * 16, "../../etc/passwd", "", image_id(test_paths[2]).upper()):
        with pytest.raises(KeyError):
            gallery.image_path(unknown)
    heats = gallery.explain("A man, with a red t-shirt!", image_id(test_paths[2]))
    assert [(heat.word, heat.chunk) for heat in heats] == [
        ("a", 0),
        ("man", 0),
        ("with", 0),
        ("a", 0),
        ("red", 1),
        ("t", 1),
        ("shirt", 1),
    ]
    for heat in heats:
        values = [value for row in heat.heat for value in row]
        assert (len(heat.heat), len(values)) == (4, 16)
        assert min(values) >= 0
        assert max(values) in (0, pytest.approx(1))
    with pytest.raises(KeyError):
        gallery.explain("a man", "0" * 16)


def test_what_the_sentence_denies_pushes_images_down(indexed, test_paths):
    gallery = Gallery.open(indexed, device="cpu")
    answer = gallery.query("a man without a hat", top=100, fast=True)
    assert (answer.query, answer.negated, answer.mode) == ("a man without a hat", ("hat",), "fast")
    assert len(answer.hits) == len(test_paths)
    plain, probe = (
        {hit.image_id: hit.similarity for hit in gallery.query(text, top=100, fast=True).hits}
        for text in ("a man", "a person with a hat")
    )
    away = {image: plain[image] - PROBE_WEIGHT * probe[image] for image in plain}
    assert [hit.image_id for hit in answer.hits] == sorted(away, key=away.__getitem__, reverse=True)
    assert gallery.query("a man WITHOUT a red T-shirt", fast=True).unknown_words == ()
    exact = gallery.query("a man without a hat", top=100)
    assert {hit.image_id: hit.score for hit in exact.hits} == pytest.approx(
        {hit.image_id: hit.score for hit in gallery.query("a man", top=100).hits}, abs=1e-4
    )


def test_marks_move_the_query_and_words_are_judged(indexed, test_paths):
    gallery = Gallery.open(indexed, device="cpu")
    before = gallery.query("a man", top=100, fast=True)
    last, first = before.hits[-1].image_id, before.hits[0].image_id
    after = gallery.query("a man", top=100, liked=[last], disliked=[first])
    assert (after.mode, after.confidence) == ("fast", None)
    found = [hit.image_id for hit in after.hits]
    assert len(found) == len(test_paths) - 1
    assert first not in found
    assert found.index(last) < len(found) - 1
    similar = gallery.query_similar(last, top=100, disliked=[first])
    assert [hit.image_id for hit in similar.hits].count(first) == 0
    assert gallery.query("a man with asdf", top=1).unknown_words == ("asdf",)
    with pytest.raises(UserError, match="both as right and as wrong"):
        gallery.query("a man", liked=[first], disliked=[first])


def test_mistakes(indexed, config, checkpoint, images, tmp_path, capsys):
    other = save_search_model(config, tmp_path / "other" / "best.pth", seed=1)
    common = ["--images", str(images), "--index", str(indexed)]
    message = refused(search_command, ["index", *common, "--checkpoint", str(other)], capsys)
    assert "made with another checkpoint" in message
    assert str(checkpoint) in message
    message = refused(search_command, ["query", "a man", "--index", str(indexed), "--checkpoint", str(other)], capsys)
    assert "is another one than this index was made with" in message
    queries = {
        ("a man", "--index", str(tmp_path)): "is not an index",
        ("?!", "--index", str(indexed)): "the query is empty",
        ("a man", "--top", "0", "--index", str(indexed)): "top must be at least 1",
        ("--index", str(indexed)): "give one sentence",
        ("a man", "--engine", "mysql", "--index", str(indexed)): "expected the URL of a Milvus server",
    }
    for arguments, expected in queries.items():
        assert expected in refused(search_command, ["query", *arguments], capsys)
    (tmp_path / "empty").mkdir()
    new = ["--checkpoint", str(checkpoint), "--index", str(tmp_path / "new")]
    assert "no images" in refused(search_command, ["index", "--images", str(tmp_path / "empty"), *new], capsys)
    assert "not a folder" in refused(search_command, ["index", "--images", str(tmp_path / "none"), *new], capsys)
    assert not (tmp_path / "new").exists()


def test_what_the_terminal_shows(indexed, test_paths, capsys, tmp_path):
    log, picture = tmp_path / "audit.jsonl", tmp_path / "grid.png"
    command = ["query", "a man with a red backpack", "--index", str(indexed), "--top", "4"]
    assert search_command([*command, "--save", str(picture), "--audit-log", str(log)]) == 0
    shown = capsys.readouterr().out
    assert "red backpack" in shown
    assert "not calibrated" in shown
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line["query"] == "a man with a red backpack"
    assert len(line["shown"]) == 4
    assert set(line["shown"]) <= {image_id(path) for path in test_paths}
    with Image.open(picture) as grid:
        assert grid.format == "PNG"
        assert grid.width > 500


def test_a_model_without_second_stage_says_so(debug_config, images, test_paths, tmp_path, capsys):
    config = debug_config("eval.rerank_top_k=0")
    own = save_search_model(config, tmp_path / "best.pth")
    build_index(IndexingRequest(images=images, checkpoint=own, index=tmp_path / "index", paths=test_paths), CPU)
    assert Store.open(tmp_path / "index").manifest.token_shape is None
    assert search_command(["query", "a man in a red coat", "--index", str(tmp_path / "index")]) == 0
    assert "eval.rerank_top_k is 0" in capsys.readouterr().out
    gallery = Gallery.open(tmp_path / "index")
    assert gallery.query("a man in a red coat").hits == gallery.query("a man in a red coat", fast=True).hits
    assert gallery.query("a man in a red coat").mode == "fast"


def test_calibration_reaches_the_answers(debug_config, images, test_paths, tiny_benchmark, tmp_path, capsys):
    """The tiny val split has too few people: the train split stands in for it."""
    root = Path(shutil.copytree(tiny_benchmark, tmp_path / "data", ignore=shutil.ignore_patterns("cache")))
    shutil.copy(root / "processed_data" / "train.json", root / "processed_data" / "val.json")
    own = save_search_model(debug_config(f"eval.rerank_top_k={TOP_K}", root=root), tmp_path / "best.pth")
    request = IndexingRequest(images=images, checkpoint=own, index=tmp_path / "index", paths=test_paths)
    build_index(request, CPU)
    (before,) = answers(capsys, "a man", "--index", str(tmp_path / "index"))
    assert (before["confidence"], before["nothing_matches"]) == (None, None)
    assert search_command(["calibrate", "--checkpoint", str(own)]) == 0
    assert "AUC" in capsys.readouterr().out
    assert build_index(request, CPU).encoded == 0
    stored = json.loads((tmp_path / "best.calibration.json").read_text())
    assert Store.open(tmp_path / "index").manifest.calibration == stored
    for arguments, order in ((["--fast"], stored["fast"]), ([], stored["exact"])):
        (answer,) = answers(capsys, "a man", "--index", str(tmp_path / "index"), *arguments)
        assert 0 <= answer["confidence"] <= 1
        assert answer["nothing_matches"] == (answer["confidence"] < order["threshold"])
        (unread,) = answers(capsys, "a sdfsdf", "--index", str(tmp_path / "index"), *arguments)
        assert (unread["confidence"], unread["nothing_matches"], unread["unknown_words"]) == (0, True, ["sdfsdf"])


def test_serve_hands_over_to_the_service(indexed, monkeypatch, test_paths):
    calls = []
    monkeypatch.setattr(server, "serve", lambda gallery, **options: calls.append((len(gallery), options)))
    assert search_command(["serve", "--index", str(indexed), "--port", "9", "--token", "secret"]) == 0
    options = {"host": "127.0.0.1", "port": 9, "token": "secret", "audit_log": None, "trusted_proxy": None}
    options["blur_others"] = False
    assert calls == [(len(test_paths), options)]


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        search.main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("index", "add", "remove", "query", "serve", "calibrate"))
