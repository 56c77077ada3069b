"""An index of crops knows where they come from: search.py index over a table of crops, filters and groups of query."""

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image

from gallery import Filter, Gallery
from gallery.footage.origin import Origin
from gallery.footage.table import FILE, Crop, read_table, write_rows
from gallery.indexing.commands import build_index
from gallery.indexing.removal import remove_images
from gallery.indexing.request import IndexingRequest
from gallery.store.segments import image_id
from gallery.store.store import Store
from tests.helpers.gallery_store import origin
from tests.helpers.runs import refused
from tests.helpers.search_runs import CPU, answers, search_command
from utils.errors import UserError

pytest.importorskip("pyarrow", reason="requirements-video.txt not installed")

NAMES = [f"cam{camera}/{number}.jpg" for camera in (1, 2) for number in range(4)]
NIGHT = "/rec/cam2/night.mp4"


def table_of() -> dict[str, Origin]:
    """Two tracks of one video, two crops each; four crops of another, of which one is 200 px high."""
    first = {name: origin(frame=100 * n, track=n // 2) for n, name in enumerate(NAMES[:4])}
    second = {
        name: origin(NIGHT, 25 * n, clock=None, track=None, box=(0.0, 0.0, 40.0, 200.0 if n == 3 else 60.0))
        for n, name in enumerate(NAMES[4:])
    }
    return first | second


def write_table(folder: Path, table: dict[str, Origin]) -> None:
    write_rows(folder / FILE, [Crop(image, own) for image, own in table.items()])


def origins_of(index: Path) -> dict[str, Origin | None]:
    store = Store.open(index)
    return {image.path: store.origin(key) for key, image in store.images()}


@pytest.fixture(scope="module")
def crops_folder(images, test_paths, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    for name, path in zip(NAMES, test_paths[: len(NAMES)], strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(images / path, folder / name)
    write_table(folder, table_of())
    return folder


@pytest.fixture(scope="module")
def indexed(crops_folder, checkpoint, tmp_path_factory) -> Path:
    index = tmp_path_factory.mktemp("indexed") / "index"
    command = ["index", "--images", str(crops_folder), "--checkpoint", str(checkpoint), "--index", str(index)]
    assert search_command(command) == 0
    return index


def test_the_origins_follow_the_table_and_the_folder(crops_folder, checkpoint, tmp_path):
    folder, index = Path(shutil.copytree(crops_folder, tmp_path / "crops")), tmp_path / "index"
    request = IndexingRequest(images=folder, checkpoint=checkpoint, index=index)
    (folder / FILE).unlink()
    assert build_index(request, CPU).encoded == 8
    assert set(origins_of(index).values()) == {None}

    table = table_of()
    write_table(
        folder, {name: table[name] for name in NAMES[:7]}
    )  # crops that were indexed before their table was there
    report = build_index(request, CPU)
    assert (report.encoded, report.touched, report.unchanged) == (0, 7, 1)
    assert origins_of(index) == {**{name: table[name] for name in NAMES[:7]}, NAMES[7]: None}

    os.utime(folder / NAMES[0], ns=(1, 1))
    table[NAMES[1]] = table[NAMES[1]]._replace(track=77)  # the tracker knows better by now
    write_table(folder, table)
    report = build_index(request, CPU)
    assert (report.encoded, report.touched, report.unchanged) == (0, 3, 5)
    assert origins_of(index) == table
    assert build_index(request, CPU).unchanged == 8

    assert remove_images(index, [NAMES[0]]) == 1
    assert search_command(["add", NAMES[0], "--index", str(index)]) == 0
    assert origins_of(index) == table
    (folder / FILE).unlink()  # what is known stays known
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    assert build_index(IndexingRequest(images=moved, checkpoint=checkpoint, index=index, prune=True), CPU).encoded == 0
    assert origins_of(index) == table


@pytest.mark.parametrize("fast", [[], ["--fast"]])
def test_filters_of_a_query(indexed, capsys, fast):
    def found(*options: str) -> set[str]:
        (answer,) = answers(capsys, "a man in a red coat", "--index", str(indexed), "--no-group", *fast, *options)
        assert all(hit["group"] is None for hit in answer["hits"])
        return {str(Path(hit["path"]).parent.name + "/" + Path(hit["path"]).name) for hit in answer["hits"]}

    assert found() == set(NAMES)
    assert found("--source", "cam1*") == set(NAMES[:4])
    assert found("--source", "nothing", "--source", "night.mp4") == set(NAMES[4:])
    assert found("--after", "2026-11-20T08:00:04") == set(NAMES[1:4])
    assert found("--after", "2026-11-20T08:00:04", "--before", "2026-11-20T08:00:12") == set(NAMES[1:3])
    assert found("--before", "2026-11-20") == set()
    assert found("--min-height", "100", "--top", "1") <= {*NAMES[:4], NAMES[7]}
    assert found("--min-height", "150", "--top", "1") == {NAMES[7]}  # the only one, wherever it is in the ranking


def test_groups_of_a_query(indexed, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    log = tmp_path / "audit.jsonl"
    command = ("a man in a red coat", "--index", str(indexed), "--source", "cam1", "--top", "2")
    (answer,) = answers(capsys, *command, "--audit-log", str(log))
    assert [hit["group"]["num_images"] for hit in answer["hits"]] == [2, 2]
    by_track = {hit["origin"]["track"]: hit for hit in answer["hits"]}
    assert set(by_track) == {0, 1}
    assert by_track[1]["group"] == {
        "num_images": 2,
        "start_s": 8.0,
        "end_s": 12.0,
        "start_clock": "2026-11-20T08:00:08",
        "end_clock": "2026-11-20T08:00:12",
        "near_copies": [],
    }
    assert by_track[0]["origin"]["clock"] in ("2026-11-20T08:00:00", "2026-11-20T08:00:04")
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line["source"] == ["cam1"]
    assert line["shown"] == [hit["image_id"] for hit in answer["hits"]]
    assert search_command(["query", *command]) == 0
    shown = capsys.readouterr().out
    assert "0800.mp4" in shown
    assert "2026-11-20 08:00:08 - 08:00:12" in shown


def test_the_best_crop_of_a_track_stands_for_it(indexed):
    gallery = Gallery.open(indexed, device="cpu")
    flat = gallery.query("a man in a red coat", fast=True, group=False).hits
    grouped = gallery.query("a man in a red coat", fast=True).hits
    tracks = [hit.origin and (hit.origin.source, hit.origin.track) for hit in grouped if hit.origin.track is not None]
    assert sorted(tracks) == [("/rec/cam1/0800.mp4", 0), ("/rec/cam1/0800.mp4", 1)]
    for hit in grouped:
        if hit.origin.track is not None:
            own = [each for each in flat if each.origin.track == hit.origin.track]
            assert hit.image_id == own[0].image_id  # the flat list is in order


def test_more_like_one_image_in_groups_and_filtered(indexed, crops_folder):
    gallery = Gallery.open(indexed, device="cpu")
    with Image.open(crops_folder / NAMES[0]) as picture:
        by_picture = gallery.query_image(picture)
    by_id = gallery.query_similar(image_id(NAMES[0]))
    assert by_picture.hits[0].image_id == by_id.hits[0].image_id == image_id(NAMES[0])
    assert by_id.hits[0].group is not None
    assert by_id.hits[0].group.num_images >= 2
    where = Filter(sources=("night.mp4",))
    for answer in (gallery.query_similar(image_id(NAMES[0]), where=where), gallery.query_image(picture, where=where)):
        assert {hit.origin.source for hit in answer.hits} == {NIGHT}
    assert len(gallery.query_similar(image_id(NAMES[0]), group=False).hits) == 8


def test_what_the_gallery_knows_of_origins(indexed):
    gallery = Gallery.open(indexed, device="cpu")
    assert [(info.source, info.crops) for info in gallery.sources()] == [("/rec/cam1/0800.mp4", 4), (NIGHT, 4)]
    own = gallery.origin(image_id(NAMES[3]))
    assert own == table_of()[NAMES[3]]
    assert own.clock - gallery.sources()[0].first_clock == timedelta(seconds=12)
    track = gallery.track(image_id(NAMES[3]))
    assert [crop.image_id for crop in track.crops] == [image_id(NAMES[2]), image_id(NAMES[3])]
    for call in (gallery.origin, gallery.track):
        with pytest.raises(KeyError):
            call("0" * 16)


def test_filters_that_are_refused(indexed, images, test_paths, checkpoint, tmp_path, capsys):
    query = ["query", "a man", "--index", str(indexed)]
    for options, told in {
        ("--after", "yesterday"): "'yesterday' is no time; write a date or a date and a time, such as 2026-11-20",
        ("--source", "cam7*"): "no source matches cam7*; there are 0800.mp4, night.mp4",
        ("--after", "2026-11-21", "--before", "2026-11-20"): "nothing is after",
    }.items():
        assert told in refused(search_command, [*query, *options], capsys)
    plain = IndexingRequest(images=images, checkpoint=checkpoint, index=tmp_path / "plain", paths=test_paths[:2])
    build_index(plain, CPU)
    message = refused(search_command, ["query", "a man", "--index", str(plain.index), "--source", "cam1"], capsys)
    assert "does not know where its images come from" in message


def test_what_is_older_than_a_date_is_forgotten(crops_folder, checkpoint, tmp_path, capsys):
    folder, index = Path(shutil.copytree(crops_folder, tmp_path / "crops")), tmp_path / "index"
    request = IndexingRequest(images=folder, checkpoint=checkpoint, index=index)
    build_index(request, CPU)
    forget = ["forget", "--index", str(index), "--before"]
    assert search_command([*forget, "2026-11-20T08:00:04"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{index}: 1 images forgotten; 7 are left",
        "  4 of them have no time of day, so that no date takes them out",
    ]
    assert build_index(request, CPU).total == 7  # its crop is still there and stays out of the index
    assert search_command([*forget, "2026-11-20T08:00:08", "--crops"]) == 0
    assert "1 images forgotten, 2 files deleted; 6 are left" in capsys.readouterr().out
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")}
    assert left == set(read_table(folder)) == set(NAMES[2:])
    assert build_index(request, CPU).unchanged == 6
    assert "'last week' is no time" in refused(search_command, [*forget, "last week"], capsys)


def test_recordings_that_were_cropped_anew_are_not_missed(crops_folder, checkpoint, tmp_path, capsys):
    folder, index = Path(shutil.copytree(crops_folder, tmp_path / "crops")), tmp_path / "index"
    request = IndexingRequest(images=folder, checkpoint=checkpoint, index=index)
    build_index(request, CPU)
    remove_images(index, [NAMES[0]])
    command = ["index", "--images", str(folder), "--checkpoint", str(checkpoint), "--index", str(index)]
    assert search_command(command) == 0
    assert "left out, as removed or forgotten before: 1 images; `search.py add` takes" in capsys.readouterr().out

    table = table_of()
    for name in NAMES:
        (folder / name).rename(folder / f"{name}-new.jpg")
    write_table(folder, {f"{name}-new.jpg": table[name] for name in NAMES})
    report = build_index(request, CPU)
    assert (report.encoded, report.removed, report.left_out, report.total) == (8, 7, 0, 8)

    shutil.rmtree(folder / "cam1")
    (folder / f"{NAMES[4]}-new.jpg").unlink()
    (folder / f"{NAMES[5]}-new.jpg").rename(folder / "plain.jpg")
    assert build_index(request, CPU).removed == 6  # four are missed, no more than half

    shutil.rmtree(folder / "cam2")
    with pytest.raises(UserError, match="2 of the 3 images"):
        build_index(request, CPU)
