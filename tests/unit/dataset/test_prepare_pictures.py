"""What preparing a benchmark finds about its pictures: missing, misplaced, empty, broken, not fetched."""

import json
from io import BytesIO

import pytest
from PIL import Image

from tests.helpers.annotations import PNG, entry, lay_out, only, run, small


def test_missing_images_say_which_part(tmp_path, capsys):
    entries = small() + [entry("train", 5, f"CUHK03/{view}.png") for view in range(4)]
    root = lay_out(tmp_path, entries, missing=("Market/3.png", "Market/4.png", "CUHK03/1.png", "CUHK03/3.png"))
    status, lines = run(root, capsys)
    assert status == 1
    assert only(lines, "error") == [
        f"error: {part}, the first: {first}"
        for part, first in [
            (f"{root}/imgs/CUHK03: 2 of 4 images missing", "record 5 (train, person 5, 'CUHK03/1.png')"),
            (f"{root}/imgs/Market: missing altogether (2 images)", "record 2 (val, person 3, 'Market/3.png')"),
        ]
    ]


def test_all_seven_parts_of_cuhk_are_named(tmp_path, capsys):
    folders = ("CUHK01", "CUHK03", "Market", "cam_a", "cam_b", "test_query", "train_query")
    entries = [entry("train", 1, f"{folder}/1.png", "a man") for folder in folders]
    status, lines = run(lay_out(tmp_path, entries, missing=[entry["file_path"] for entry in entries]), capsys)
    assert status == 1
    for folder in folders:
        assert any(f"imgs/{folder}: missing altogether (1 images)" in line for line in lines)


def test_no_image_folder_at_all(tmp_path, capsys):
    (tmp_path / "reid_raw.json").write_text(json.dumps(small()))
    status, lines = run(tmp_path, capsys)
    assert status == 1
    assert only(lines, "error") == [f"error: {tmp_path}/imgs: no such folder, all 4 images are missing"]


@pytest.mark.parametrize("place", ["imgs/imgs", "."])
def test_images_unpacked_in_the_wrong_place(tmp_path, capsys, place):
    (tmp_path / "reid_raw.json").write_text(json.dumps(small()[:1]))
    (tmp_path / place / "cam_a").mkdir(parents=True)
    (tmp_path / place / "cam_a" / "1.png").write_bytes(PNG.getvalue())
    status, lines = run(tmp_path, capsys)
    assert status == 1
    assert f"; {tmp_path / place} has it: move what is in there to {tmp_path}/imgs" in only(lines, "error")[0]


def test_empty_image_file(tmp_path, capsys):
    lay_out(tmp_path, small())
    (tmp_path / "imgs" / "cam_b" / "2.png").write_bytes(b"")
    status, lines = run(tmp_path, capsys)
    assert status == 1
    assert only(lines, "error") == [f"error: {tmp_path}/imgs/cam_b/2.png: the image of record 1 is empty (0 bytes)"]


def test_verify_images_decodes_each(tmp_path, capsys):
    lay_out(tmp_path, small())
    picture = BytesIO()
    Image.effect_noise((64, 128), 50).convert("RGB").save(picture, "JPEG")
    (tmp_path / "imgs" / "cam_a" / "1.png").write_bytes(picture.getvalue()[:-600])
    (tmp_path / "imgs" / "Market" / "4.png").write_bytes(b"<html>quota exceeded</html>")
    assert run(tmp_path, capsys)[0] == 0  # only decoding finds these
    status, lines = run(tmp_path, capsys, "--verify-images", "--workers", "1")
    assert status == 1
    assert len(only(lines, "error")) == 2
    assert "imgs/Market/4.png: the image of record 3 cannot be decoded (cannot identify" in only(lines, "error")[0]
    assert "imgs/cam_a/1.png: the image of record 0 cannot be decoded (" in only(lines, "error")[1]


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 7021\n"


@pytest.mark.parametrize("arguments", [[], ["--verify-images"]])
def test_pictures_that_git_lfs_has_not_fetched(tmp_path, capsys, arguments):
    lay_out(tmp_path, small())
    (tmp_path / "imgs" / "cam_a" / "1.png").write_bytes(LFS_POINTER)
    status, lines = run(tmp_path, capsys, *arguments)
    assert status == 1
    (error,) = only(lines, "error")
    assert "imgs/cam_a/1.png: the image of record 0 cannot be decoded: it is a Git LFS pointer" in error
    assert "to the file of 7,021 bytes: run `git lfs pull` in its repository" in error


def test_an_annotation_file_that_git_lfs_has_not_fetched(tmp_path, capsys):
    lay_out(tmp_path, small())
    (tmp_path / "reid_raw.json").write_bytes(LFS_POINTER)
    status, lines = run(tmp_path, capsys)
    assert status == 1
    assert "reid_raw.json: not a JSON file (it starts with 'version https://git-'): it is a Git LFS pointer" in lines[0]


def test_the_page_of_a_download_that_failed_is_named_when_pictures_are_decoded(tmp_path, capsys):
    lay_out(tmp_path, small())
    (tmp_path / "imgs" / "cam_a" / "1.png").write_bytes(b"<html><title>Quota exceeded</title></html>")
    (error,) = only(run(tmp_path, capsys, "--verify-images")[1], "error")
    assert "cannot be decoded (cannot identify image file" in error
    assert "): it is a web page ('Quota exceeded'), sent in the place of the file: download the file itself" in error


def test_paths_written_with_backslashes_are_missing_images(tmp_path, capsys):
    lay_out(tmp_path, small())
    added = entry("train", 1, "cam_a\\1.png")
    (tmp_path / "reid_raw.json").write_text(json.dumps([*small(), added]))
    (error,) = only(run(tmp_path, capsys)[1], "error")
    assert "imgs: missing altogether (1 images), the first: record 4 (train, person 1, 'cam_a\\\\1.png')" in error


def test_a_link_that_leads_to_itself_is_a_missing_image(tmp_path, capsys):
    lay_out(tmp_path, small())
    (tmp_path / "imgs" / "cam_a" / "1.png").unlink()
    (tmp_path / "imgs" / "cam_a" / "1.png").symlink_to("1.png")
    (error,) = only(run(tmp_path, capsys)[1], "error")
    assert "imgs/cam_a: missing altogether (1 images), the first: record 0" in error
