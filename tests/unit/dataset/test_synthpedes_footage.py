"""Drawn footage: the video, and the truth beside it."""

import json
from datetime import datetime

import numpy as np
import pytest

from dataset.synthpedes.footage import compose, draw_frame, main, write_footage
from utils.errors import UserError

SMALL = {"size": (192, 108), "fps": 5, "seconds": 2.0, "people": 3, "scene": "wall", "seed": 1}


@pytest.fixture(scope="module")
def footage():
    return compose(**SMALL)


def test_people_walk_and_their_boxes_move_with_them(footage):
    places: dict[int, list[float]] = {}
    for number in range(footage.frames):
        for box in draw_frame(footage, number)[1]:
            places.setdefault(box.person, []).append((box.box[0] + box.box[2]) / 2)
    moved = {person: centres[-1] - centres[0] for person, centres in places.items() if len(centres) > 4}
    assert moved
    for person, distance in moved.items():
        assert np.sign(distance) == np.sign(footage.walkers[person].speed)


def test_a_box_holds_the_person_and_little_else(footage):
    alone = footage._replace(walkers=footage.walkers[:1])
    walker = alone.walkers[0]
    number = round(walker.start_s * footage.fps)  # in the middle of the picture
    pixels, (box,) = draw_frame(alone, number)
    empty, none = draw_frame(footage._replace(walkers=[]), number)
    assert none == []
    changed = (np.abs(pixels.astype(int) - empty) > 12).any(axis=2)
    x0, y0, x1, y1 = box.box
    assert box.in_view == 1.0
    assert changed[y0:y1, x0:x1].mean() > 0.25
    inside = changed[y0:y1, x0:x1].sum() / changed.sum()  # outside is the shadow
    assert inside > 0.9
    assert (y1 - y0) == pytest.approx(walker.height, rel=0.1)


def test_who_stands_in_front_hides_who_is_behind(footage):
    walker = footage.walkers[0]
    twins = [walker, walker.__class__(**{**vars(walker), "soles": walker.soles + 1})]
    shown = draw_frame(footage._replace(walkers=twins), round(walker.start_s * footage.fps))[1]
    assert [box.person for box in shown][-1] == 1
    assert shown[-1].in_view == 1.0
    assert all(box.in_view < 0.2 for box in shown[:-1])


def test_the_same_arguments_give_the_same_frames(footage):
    again = compose(**SMALL)
    assert np.array_equal(draw_frame(footage, 3)[0], draw_frame(again, 3)[0])
    assert not np.array_equal(draw_frame(footage, 3)[0], draw_frame(compose(**SMALL | {"seed": 2}), 3)[0])


def test_video_and_truth_on_disk(footage, tmp_path):
    av = pytest.importorskip("av", reason="requirements-video.txt not installed")
    write_footage(tmp_path / "cam.mp4", footage, datetime(2026, 11, 20, 8))
    truth = json.loads((tmp_path / "cam.json").read_text())
    assert truth["frames"] == 10
    assert {box["person"] for box in truth["boxes"]} <= {person["person"] for person in truth["people"]}
    assert all(box["time_s"] == box["frame"] / 5 for box in truth["boxes"])
    with av.open(str(tmp_path / "cam.mp4")) as container:
        assert container.metadata["creation_time"] == "2026-11-20T08:00:00.000000Z"
        assert container.streams.video[0].codec_context.name == "h264"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 10
    error = np.abs(frames[4].astype(int) - draw_frame(footage, 4)[0]).mean()
    assert error < 6  # of 255: compression


@pytest.mark.parametrize(("size", "seconds"), [((191, 108), 2.0), ((64, 64), 2.0), ((192, 108), 0.0)])
def test_impossible_arguments(size, seconds):
    with pytest.raises(UserError, match=r"size must be even|needs a frame"):
        compose(**SMALL | {"size": size, "seconds": seconds})


def test_command_line_names_a_wrong_ending(tmp_path, capsys):
    pytest.importorskip("av", reason="requirements-video.txt not installed")
    assert main([str(tmp_path / "cam.xyz"), "--seconds", "1", "--size", "96x96"]) == 2
    assert "a video ends with .mp4" in capsys.readouterr().err
