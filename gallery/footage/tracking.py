"""Which detections of a video are of one person: ByteTrack, as the library `trackers` has it."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from utils.extras import optional

LOST_S = 1.0  # a person who was not seen for longer, and not in two looks, is a new track
# Boxes are compared enlarged by this share of their size per second on each side: people walk about two of their widths
# in a second. On drawn footage, at two frames per second, that makes 1.4 tracks of a person instead of 6.5.
BUFFER_PER_S = 2.0
LEAST_IOU = 0.2  # of enlarged boxes
LONGEST_STEP_S = 2.0  # between frames; over more, place and motion tell nothing
AGAIN_S = 1e-3


class Sighting(NamedTuple):
    """The people in a frame."""

    time_s: float
    boxes: np.ndarray  # (n, 4)
    scores: np.ndarray  # (n,)


def tracks(sightings: Iterable[Sighting], every_s: float) -> Iterator[list[int]]:
    """Number the tracks from 0 in the order in which they begin; for each frame, the tracks of its people.

    sightings: in the order of time, without frames that show nobody.
    every_s: usual time between frames.
    """
    supervision, trackers = optional("supervision", "tracking"), optional("trackers", "tracking")
    tracker = trackers.ByteTrackTracker(
        frame_rate=1 / every_s,
        lost_track_buffer=round(30 * max(LOST_S, 2 * every_s)),  # in frames of 1/30 s, whatever the rate
        track_activation_threshold=0.0,  # the detector's threshold has chosen already
        high_conf_det_threshold=0.0,
        minimum_consecutive_frames=1,
        minimum_iou_threshold=LEAST_IOU,
        iou=trackers.utils.iou.BIoU(BUFFER_PER_S * every_s),
    )
    numbers: dict[int, int] = {}
    for sighting in sightings:
        order = np.arange(len(sighting.boxes))
        given = supervision.Detections(xyxy=sighting.boxes, confidence=sighting.scores, data={"order": order})
        found = tracker.update(given, timestamp=sighting.time_s)
        if (found.tracker_id < 0).any():  # a track is numbered when it is seen again: show the frame twice
            found = tracker.update(given, timestamp=sighting.time_s + AGAIN_S)
        ids = dict(zip(found.data["order"].tolist(), found.tracker_id.tolist(), strict=True))
        yield [numbers.setdefault(ids[place], len(numbers)) for place in order.tolist()]
