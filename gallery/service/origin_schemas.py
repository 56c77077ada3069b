"""Answers of the JSON interface about where images come from; the values are those of gallery/footage/origin.py.

Times of day are the camera's local time in ISO 8601, without a time zone.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from gallery.answers import Group
from gallery.footage.origin import Origin
from gallery.search.tracks import Track
from gallery.store.sources import SourceInfo

Kind = Literal["video", "picture"]
NameOf = Callable[[str], str]  # what a client is told of a source's path

Clock = Annotated[
    datetime | None, Field(examples=["2026-11-20T08:00:04"], description="Null where the recording does not tell it.")
]
Seconds = Annotated[float | None, Field(examples=[4.0], description="In the video; null where there is none.")]
Box = Annotated[
    tuple[float, float, float, float],
    Field(examples=[[310.0, 92.5, 371.0, 274.0]], description="x0, y0, x1, y1 in pixels of the full frame."),
]


class OriginInfo(BaseModel):
    """Where an image was cut from."""

    source: str = Field(
        examples=["cam1/0800.mp4"],
        description="Its path; where the service has a token, only the part below the folder that all sources share.",
    )
    kind: Kind
    frame: int = Field(examples=[120], description="Its number in the video, from 0; 0 for a picture.")
    time_s: Seconds
    clock: Clock
    box: Box
    frame_size: tuple[int, int] = Field(examples=[[1920, 1080]], description="Width and height in pixels.")
    score: float | None = Field(examples=[0.93], description="The detector's, in [0, 1].")
    track: int | None = Field(examples=[7], description="The same for one person's crops of this source.")

    @classmethod
    def of(cls, origin: Origin, name_of: NameOf) -> "OriginInfo":
        kind: Kind = "picture" if origin.time_s is None else "video"
        return cls(**{**origin._asdict(), "source": name_of(origin.source)}, kind=kind)


class GroupInfo(BaseModel):
    """What a hit stands for: the crops of its track that pass the filter, and near-identical images."""

    count: int = Field(examples=[31], description="Images in it, the hit among them.")
    start_s: Annotated[Seconds, Field(description="Of the first crop of the hit's track.")]
    end_s: Annotated[Seconds, Field(description="Of the last one.")]
    start_clock: Clock
    end_clock: Clock
    near_copies: list[str] = Field(
        description="`image_id`s of images of other tracks, or of none, that are near-identical to the hit."
    )

    @classmethod
    def of(cls, group: Group) -> "GroupInfo":
        values = group._asdict()
        return cls(count=values.pop("num_images"), **values)


class TrackCropInfo(BaseModel):
    """One crop of a track."""

    image_id: str = Field(examples=["9f2c4e1a7b3d5068"])
    frame: int
    time_s: Seconds
    clock: Clock
    box: Box


class TrackInfo(BaseModel):
    """Crops of one person in one source, by time."""

    crops: list[TrackCropInfo] = Field(description="Those around the image that was asked for.")
    position: int = Field(description="Its place in `crops`, from 0.")
    total: int = Field(description="Crops of the track in the index.")

    @classmethod
    def of(cls, track: Track) -> "TrackInfo":
        crops = [
            TrackCropInfo(
                image_id=crop.image_id,
                frame=crop.origin.frame,
                time_s=crop.origin.time_s,
                clock=crop.origin.clock,
                box=crop.origin.box,
            )
            for crop in track.crops
        ]
        return cls(crops=crops, position=track.position, total=track.total)


class SourceSummary(BaseModel):
    """A picture or a video, and what the index has of it."""

    source: str = Field(examples=["cam1/0800.mp4"], description="As in `origin`.")
    kind: Kind
    crops: int = Field(examples=[412])
    first_clock: Clock
    last_clock: Clock


class SourceList(BaseModel):
    """The pictures and videos that the images come from; empty where the index does not know it."""

    sources: list[SourceSummary] = Field(description="By name, at most as many as were asked for.")
    total: int = Field(examples=[3], description="How many there are.")

    @classmethod
    def of(cls, sources: list[SourceInfo], name_of: NameOf, limit: int) -> "SourceList":
        return cls(
            total=len(sources),
            sources=[
                SourceSummary(
                    source=name_of(info.source),
                    kind="video" if info.is_video else "picture",
                    crops=info.crops,
                    first_clock=info.first_clock,
                    last_clock=info.last_clock,
                )
                for info in sources[:limit]
            ],
        )
