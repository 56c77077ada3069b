"""search.py on inputs that cannot be used: nothing of them enters an index, and the user is told what they are."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gallery import Gallery
from gallery.answers import CannotAnswer
from gallery.encoding.encoder import Encoder
from gallery.store.store import Store
from tests.helpers.runs import refused
from tests.helpers.search_runs import answers, search_command


@pytest.fixture
def folder(images, test_paths, tmp_path) -> Path:
    """Three pictures that can be indexed."""
    for number, path in enumerate(test_paths[:3]):
        (tmp_path / "images").mkdir(exist_ok=True)
        shutil.copy(images / path, tmp_path / "images" / f"{number}.jpg")
    return tmp_path / "images"


def index_command(folder: Path, checkpoint: Path, index: Path) -> list[str]:
    return ["index", "--images", str(folder), "--checkpoint", str(checkpoint), "--index", str(index)]


def test_weights_that_are_not_finite_are_refused(folder, checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint)
    content["model"]["vision_proj.weight"][2, 3] = float("nan")
    torch.save(content, tmp_path / "bad.pth")
    message = refused(search_command, index_command(folder, tmp_path / "bad.pth", tmp_path / "index"), capsys)
    assert "bad.pth: 1 of the" in message
    assert "weights of vision_proj.weight are NaN or infinite" in message
    assert len(Store.open(tmp_path / "index")) == 0
    assert "vision_proj.weight" in refused(
        search_command, ["query", "a man", "--index", str(tmp_path / "index")], capsys
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html><title>Google Drive - Quota exceeded</title>", "it is a web page ('Google Drive - Quota exceeded')"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 7\n", "it is a Git LFS pointer"),
        (b"", "it is empty"),
    ],
)
def test_a_checkpoint_that_is_none_is_named(folder, tmp_path, capsys, content, reason):
    (tmp_path / "best.pth").write_bytes(content)
    message = refused(search_command, index_command(folder, tmp_path / "best.pth", tmp_path / "index"), capsys)
    assert f"best.pth cannot be read, it is not a plain file of tensors: {reason}" in message


def test_a_checkpoint_of_a_compiled_model_is_indexed_with(folder, checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint)
    content["model"] = {f"_orig_mod.{name}": tensor for name, tensor in content["model"].items()}
    torch.save(content, tmp_path / "compiled.pth")
    for name, path in (("one", checkpoint), ("two", tmp_path / "compiled.pth")):
        assert search_command(index_command(folder, path, tmp_path / name)) == 0
    one, two = (Store.open(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 3
    for key, _ in one.images():
        np.testing.assert_array_equal(one.vector(key), two.vector(key))


def test_pictures_of_other_kinds_are_counted(folder, checkpoint, tmp_path, capsys):
    with Image.open(folder / "0.jpg") as picture:
        for name in ("a.bmp", "b.BMP", "c.gif", "d.tiff"):
            picture.save(folder / name)
    assert search_command(index_command(folder, checkpoint, tmp_path / "index")) == 0
    told = "2 .bmp, 1 .gif, 1 .tiff not read: convert them to jpg, png or webp"
    printed = capsys.readouterr().out
    assert "3 images (3 encoded)" in printed
    assert told in printed
    assert search_command(["add", str(folder), "--index", str(tmp_path / "index")]) == 0
    assert told in capsys.readouterr().out
    for path in folder.glob("*.jpg"):
        path.unlink()
    assert told in refused(search_command, index_command(folder, checkpoint, tmp_path / "other"), capsys)


def test_an_image_without_finite_numbers_is_left_out(folder, checkpoint, tmp_path, monkeypatch, capsys):
    own = Encoder.images

    def overflowing(self, pixels):
        encoded = own(self, pixels)
        encoded.vectors[1, 0] = np.nan
        tokens = encoded.tokens.clone()
        tokens[2, 0, 0] = 1e6  # too large for the 16 bits that an index keeps
        return encoded._replace(tokens=tokens)

    monkeypatch.setattr(Encoder, "images", overflowing)
    assert search_command([*index_command(folder, checkpoint, tmp_path / "index"), "--tokens", "yes"]) == 0
    printed = capsys.readouterr().out
    assert "1 images (1 encoded, 2 unreadable)" in printed
    assert printed.count("the model makes numbers of it that are not finite") == 2
    assert [image.path for _, image in Store.open(tmp_path / "index").images()] == ["0.jpg"]


def test_a_query_without_finite_numbers_is_not_answered(folder, checkpoint, tmp_path, monkeypatch):
    assert search_command(index_command(folder, checkpoint, tmp_path / "index")) == 0
    gallery = Gallery.open(tmp_path / "index", device="cpu")
    own = Encoder.sentence
    monkeypatch.setattr(Encoder, "sentence", lambda *args: own(*args)._replace(vector=np.full(32, np.nan, np.float32)))
    with pytest.raises(CannotAnswer, match="the model makes no finite numbers of this query"):
        gallery.query("a man")


def test_words_that_the_model_does_not_know_are_told(folder, checkpoint, tmp_path, capsys):
    """The vocabulary of the tests' model is so small that it lacks "man" as well."""
    common = ["--index", str(tmp_path / "index")]
    assert search_command(index_command(folder, checkpoint, tmp_path / "index")) == 0
    (answer,) = answers(capsys, "a man with 🎒, 龘 and 🎒", *common)
    assert answer["unknown_pieces"] == ["man", "🎒", "龘", "🎒"]
    assert answer["num_pieces"] == 7
    assert search_command(["query", "a man with 🎒, 龘 and 🎒", *common]) == 0
    assert "unknown to the model: 4 of 7 word pieces, read as [UNK]: man, 🎒, 龘\n" in capsys.readouterr().out
    assert search_command(["query", "with a", *common]) == 0
    assert "unknown" not in capsys.readouterr().out
