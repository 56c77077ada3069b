"""One result for each person rather than for each picture: crops of a track, and near-identical ones, are one group.

Going through the rows from the nearest on, a row joins the group of its track, or the group whose best row it is nearly
identical to; otherwise it begins a group. E width of a vector.
"""

from typing import NamedTuple

import numpy as np

from gallery.answers import Group
from gallery.footage.origin import Origin
from gallery.search.filters import Filter
from gallery.search.live import View
from gallery.search.nearest import nearest
from gallery.store.origins import TrackKey
from gallery.store.segments import image_id
from gallery.store.store import KEYS_PER_SEGMENT, Store

# Cosine from which two images are near copies. With the demo's model, the most alike images of two people in its index
# reach 0.976 (all pairs of output/demo/index), and no pair of two people in footage reaches 0.95, while 29 % of one
# person's crops 0.1 s apart are beyond 0.98 (python -m bench.near_copies).
NEAR_COPY = 0.98
LOOK_FIRST = 2  # rows per wanted group; then LOOK_FURTHER times as many
LOOK_FURTHER = 16
MOST_LOOKED_AT = 16_384  # rows; no more than Milvus gives at once


class FoundGroup(NamedTuple):
    """Rows that are one result."""

    key: int  # of its nearest row
    similarity: float  # of that row and the query
    tracks: list[TrackKey]
    copies: list[int]  # keys of near copies of the nearest row that have no track in common with it


def nearest_groups(view: View, vector: np.ndarray, count: int, where: Filter | None = None) -> list[FoundGroup]:
    """The nearest groups of the rows that pass the filter, by their nearest rows, best first.

    There may be fewer than `count`, if that is all there is among the MOST_LOOKED_AT nearest rows.
    """
    k = LOOK_FIRST * count
    while True:
        found = nearest(view, vector, min(k, MOST_LOOKED_AT), where)
        groups = fold(view.store, found, count)
        if len(groups) == count or len(found) < k:
            return groups
        k *= LOOK_FURTHER


def fold(store: Store, found: dict[int, float], count: int) -> list[FoundGroup]:
    """The first groups among rows. found: similarities by key, best first."""
    keys = np.fromiter(found, np.int64, len(found))
    groups: list[FoundGroup] = []
    vectors = np.zeros((count, store.manifest.width), np.float32)  # of the groups' nearest rows
    for place in _first_of_each_track(store, keys):
        key = int(keys[place])
        vector, track = store.vector(key), track_of(store.origin(key))
        alike = vectors[: len(groups)] @ vector
        if len(alike) and alike.max() >= NEAR_COPY:
            group = groups[int(alike.argmax())]
            group.copies.append(key)
            group.tracks.extend([track] if track else [])
        elif len(groups) == count:
            break
        else:
            vectors[len(groups)] = vector
            groups.append(FoundGroup(key, found[key], [track] if track else [], []))
    return groups


def describe_groups(store: Store, groups: list[FoundGroup], where: Filter | None = None) -> list[Group]:
    """What is said of groups, among the rows that pass the filter."""
    passing = None if where is None else {serial: where.rows(segment) for serial, segment in store.segments.items()}
    return [_described(store, group, passing) for group in groups]


def _described(store: Store, group: FoundGroup, passing: dict[int, np.ndarray] | None) -> Group:
    """passing: whether each row passes (n,), by segment; None = all do."""
    crops = {track: _those(store.track(track), passing) for track in group.tracks}
    alone = sum(track_of(store.origin(key)) is None for key in (group.key, *group.copies))
    count = alone + sum(map(len, crops.values()))
    copies = tuple(image_id(store.image(key).path) for key in group.copies)
    own = store.origin(group.key)
    if own is None:
        return Group(count, None, None, None, None, copies)
    track = track_of(own)
    start, end = (own, own) if track is None else (store.origin(int(crops[track][place])) for place in (0, -1))
    assert start is not None
    assert end is not None
    return Group(count, start.time_s, end.time_s, start.clock, end.clock, copies)


def _those(keys: np.ndarray, passing: dict[int, np.ndarray] | None) -> np.ndarray:
    """The keys of rows that pass."""
    if passing is None:
        return keys
    serials, rows = np.divmod(keys, KEYS_PER_SEGMENT)
    passes = np.zeros(len(keys), bool)
    for serial in np.unique(serials).tolist():
        passes[serials == serial] = passing[serial][rows[serials == serial]]
    return keys[passes]


def track_of(origin: Origin | None) -> TrackKey | None:
    """The track of a row; None = it has none."""
    return None if origin is None or origin.track is None else TrackKey(origin.source, origin.track)


def _first_of_each_track(store: Store, keys: np.ndarray) -> list[int]:
    """Places of the rows (n,) that have no track, or are the first of theirs; ascending."""
    codes = -1 - np.arange(len(keys))  # of its own: a row without a track
    numbers: dict[TrackKey, int] = {}
    serials, rows = np.divmod(keys, KEYS_PER_SEGMENT)
    for serial in np.unique(serials).tolist():
        origins = store.segments[serial].origins
        if origins is not None:
            places = np.flatnonzero(serials == serial)
            own, inverse = origins.tracks(rows[places])
            known = np.array([-1 if track is None else numbers.setdefault(track, len(numbers)) for track in own])
            codes[places] = np.where(known[inverse] >= 0, known[inverse], codes[places])
    return np.sort(np.unique(codes, return_index=True)[1]).tolist()
