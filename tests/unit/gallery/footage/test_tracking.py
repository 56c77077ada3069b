"""Tracks of people in drawn footage, against who they are."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from dataset.synthpedes.footage import compose, draw_frame
from gallery.footage.tracking import LOST_S, Sighting, tracks

pytest.importorskip("trackers", reason="requirements-video.txt not installed")


def walk(start_x: float, times: list[float], speed: float = 60.0) -> list[Sighting]:
    """One person, 30 px wide, who walks twice their width in a second."""
    boxes = [np.array([[start_x + speed * t, 10, start_x + speed * t + 30, 100]], np.float32) for t in times]
    return [Sighting(t, box, np.array([0.5], np.float32)) for t, box in zip(times, boxes, strict=True)]


def test_one_person_who_walks_on_is_one_track():
    times = [0.5 * n for n in range(8)]
    assert list(tracks(walk(0, times), 0.5)) == [[0]] * 8
    del times[3]  # not seen for once
    assert list(tracks(walk(0, times), 0.5)) == [[0]] * 7


def test_somebody_who_comes_back_late_is_a_new_track():
    assert list(tracks(walk(0, [0.0, 0.5, 0.5 + LOST_S + 1.0], speed=0), 0.5)) == [[0], [0], [1]]


def test_a_person_far_away_is_another():
    assert list(tracks([*walk(0, [0.0]), *walk(400, [0.5])], 0.5)) == [[0], [1]]


def test_two_people_who_pass_one_another():
    times = [0.25 * n for n in range(9)]
    there, back = walk(0, times), walk(300, times, speed=-60)
    both = [
        Sighting(a.time_s, np.concatenate([a.boxes, b.boxes + 5]), np.array([0.5, 0.4], np.float32))
        for a, b in zip(there, back, strict=True)
    ]
    assert list(tracks(both, 0.25)) == [[0, 1]] * 9


def test_faint_detections_have_tracks_too():
    faint = [each._replace(scores=np.array([0.06], np.float32)) for each in walk(0, [0.0, 0.5, 1.0])]
    assert list(tracks(faint, 0.5)) == [[0]] * 3


def test_each_video_begins_at_zero():
    assert list(tracks(walk(0, [0.0]), 0.5)) == list(tracks(walk(0, [0.0]), 0.5)) == [[0]]


def test_tracks_of_drawn_people_are_pure():
    """The truth's boxes, every half second: most of a track is one person, and a person has few tracks."""
    most, total, tracks_of = 0, 0, defaultdict(set)
    for seed in range(3):
        footage = compose(size=(320, 180), fps=2, seconds=12, people=3, scene="plain", seed=seed)
        shown = [[box for box in draw_frame(footage, n)[1] if box.in_view > 0.4] for n in range(footage.frames)]
        frames = [(n / 2, boxes) for n, boxes in enumerate(shown) if boxes]
        sightings = [
            Sighting(t, np.array([box.box for box in boxes], np.float32), np.full(len(boxes), 0.9, np.float32))
            for t, boxes in frames
        ]
        people = defaultdict(Counter)
        for (_, boxes), numbers in zip(frames, tracks(sightings, 0.5), strict=True):
            for box, number in zip(boxes, numbers, strict=True):
                people[number][box.person] += 1
                tracks_of[seed, box.person].add(number)
        most += sum(max(counts.values()) for counts in people.values())
        total += sum(sum(counts.values()) for counts in people.values())
    assert most / total > 0.9
    assert sum(map(len, tracks_of.values())) < 1.7 * len(tracks_of)
