"""The other crops of an image's track."""

from typing import NamedTuple

from gallery.footage.origin import Origin
from gallery.search.live import View
from gallery.store.origins import TrackKey
from gallery.store.segments import image_id


class TrackCrop(NamedTuple):
    """One crop of a track."""

    image_id: str
    origin: Origin


class Track(NamedTuple):
    """Crops of one person in one source, by time."""

    crops: list[TrackCrop]  # those around one of them
    position: int  # of that one in `crops`
    total: int  # crops of the track in the index


def track_around(view: View, key: int, limit: int) -> Track | None:
    """At most `limit` crops of the row's track, as many before it as after it where there are so many.

    Returns: None for a row without an origin; the row alone if it has no track.
    """
    origin = view.store.origin(key)
    if origin is None:
        return None
    keys = [key] if origin.track is None else view.store.track(TrackKey(origin.source, origin.track)).tolist()
    place = keys.index(key)
    first = max(0, min(place - limit // 2, len(keys) - limit))
    crops = [_crop(view, each) for each in keys[first : first + limit]]
    return Track(crops, place - first, len(keys))


def _crop(view: View, key: int) -> TrackCrop:
    origin = view.store.origin(key)
    assert origin is not None
    return TrackCrop(image_id(view.store.image(key).path), origin)
