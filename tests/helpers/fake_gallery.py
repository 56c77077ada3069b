"""A gallery without a model, for tests of the service: the interface of gallery.Gallery with fixed answers."""

import hashlib
import io
import re
from collections import Counter
from pathlib import Path

from fastapi.testclient import TestClient
from PIL import Image

from gallery.answers import Answer, CannotAnswer, ChunkScore, Group, Hit, WordHeat
from gallery.encoding.pictures import IndexedImage
from gallery.footage.origin import Origin
from gallery.search.filters import Filter
from gallery.search.tracks import Track, TrackCrop
from gallery.service.app import create_app
from gallery.store.sources import SourceInfo
from gallery.store.store import UnknownImage
from utils.errors import UserError

ROWS, COLUMNS = 16, 8


class FakeGallery:
    """Serves image files under the ids "id0", "id1", ... The sentences "nobody", "crash" and "bad" steer it.

    origins: by the ids; the images of a track are one hit if groups are asked for.
    """

    def __init__(
        self,
        paths: list[Path],
        *,
        calibrated: bool = True,
        second_stage: bool = True,
        origins: dict[str, Origin] | None = None,
    ) -> None:
        self.paths = {f"id{index}": path for index, path in enumerate(paths)}
        self.indexed = {image_id: indexed(path) for image_id, path in self.paths.items()}
        self.calibrated, self.second_stage = calibrated, second_stage
        self.origins = origins or {}
        self.asked: list[tuple] = []

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self) -> dict:
        return {"images": len(self), "root": "/srv", "model": "fake", "calibrated": self.calibrated}

    def image(self, image_id: str) -> IndexedImage:
        if image_id not in self.indexed:
            raise UnknownImage(image_id)
        return self.indexed[image_id]

    def origin(self, image_id: str) -> Origin | None:
        self.image(image_id)
        return self.origins.get(image_id)

    def track(self, image_id: str, *, limit: int = 100) -> Track | None:
        own = self.origin(image_id)
        if own is None:
            return None
        crops = [
            TrackCrop(other, origin) for other, origin in self.origins.items() if track_of(origin) == track_of(own)
        ]
        crops = (
            sorted(crops, key=lambda crop: crop.origin.frame) if own.track is not None else [TrackCrop(image_id, own)]
        )
        place = [crop.image_id for crop in crops].index(image_id)
        first = max(0, min(place - limit // 2, len(crops) - limit))
        return Track(crops[first : first + limit], place - first, len(crops))

    def sources(self) -> list[SourceInfo]:
        names = Counter(origin.source for origin in self.origins.values())
        by_name = {name: [own for own in self.origins.values() if own.source == name] for name in sorted(names)}
        clocks = {name: [own.clock for own in part if own.clock] for name, part in by_name.items()}
        return [
            SourceInfo(
                name,
                names[name],
                by_name[name][0].time_s is not None,
                min(clocks[name], default=None),
                max(clocks[name], default=None),
            )
            for name in by_name
        ]

    def query(
        self,
        sentence: str,
        *,
        top: int = 20,
        fast: bool = False,
        where: Filter | None = None,
        group: bool = True,
        **marks: list[str],
    ) -> Answer:
        self._ask("query", sentence, top, fast, where=where, group=group, **marks)
        if not re.search(r"\w", sentence):
            raise CannotAnswer("the query is empty")
        if sentence == "bad":
            raise UserError("the sentence has no word that the model knows")
        if sentence == "crash":
            raise RuntimeError("secret detail")
        fast = fast or not self.second_stage
        texts = [] if fast else [" ".join(words) for words in chunks_of(sentence)]
        mode = "fast" if fast else "exact"
        answer = self._answer(sentence, mode, texts, top, where, group, nobody="nobody" in sentence)
        words = sentence.split()  # it knows the ASCII ones
        unknown = tuple(word for word in words if not word.isascii())
        denied = tuple(re.findall(r"without (\w+)", sentence))
        return _without(
            answer._replace(num_pieces=len(words), unknown_pieces=unknown, unknown_words=unknown, negated=denied), marks
        )

    def query_image(
        self, image: Image.Image, *, top: int = 20, where: Filter | None = None, group: bool = True, **marks: list[str]
    ) -> Answer:
        self._ask("query_image", image.mode, image.size, top, where=where, group=group, **marks)
        return _without(self._answer("", "image", [], top, where, group), marks)

    def query_similar(
        self, image_id: str, *, top: int = 20, where: Filter | None = None, group: bool = True, **marks: list[str]
    ) -> Answer:
        self.image(image_id)
        self._ask("query_similar", image_id, top, where=where, group=group, **marks)
        return _without(self._answer("", "image", [], top, where, group), marks)

    def explain(self, sentence: str, image_id: str) -> list[WordHeat]:
        self.image(image_id).read()
        self.asked.append(("explain", sentence, image_id))
        words = sentence.split()
        chunks = chunks_of(sentence) if self.second_stage else []
        part_of = {word: part for part, chunk in enumerate(chunks, start=1) for word in chunk}
        return [WordHeat(word, part_of.get(word, 0), heat_at(at / len(words))) for at, word in enumerate(words)]

    def _ask(self, *question, where: Filter | None, group: bool, **marks: list[str]) -> None:
        """Note a question; of filter, groups and marks only what is not the default."""
        if where and not any(map(where.passes_source, {own.source for own in self.origins.values()})):
            raise CannotAnswer("no source matches")
        options = [*([where.described()] if where else []), *([] if group else ["flat"]), *([marks] if marks else [])]
        self.asked.append((*question, *options))

    def _answer(
        self,
        sentence: str,
        mode: str,
        texts: list[str],
        top: int,
        where: Filter | None,
        group: bool,
        *,
        nobody: bool = False,
    ) -> Answer:
        """Images in the order of their ids. Of the filter, only the sources count."""
        hits: list[Hit] = []
        tracks: dict[tuple, list[Origin]] = {}
        for image_id, path in self.paths.items():
            own = self.origins.get(image_id)
            if where and (own is None or not where.passes_source(own.source)):
                continue
            seen = tracks.setdefault(track_of(own) if own and own.track is not None else (image_id,), [])
            seen += [own] if own else []
            if len(seen) > 1 and group:
                continue
            rank = len(hits)
            chunks = tuple(ChunkScore(text, 0.97 / (1 + (rank * (at + 1)) % 5)) for at, text in enumerate(texts))
            hits.append(Hit(image_id, path, 4.2 - 0.3 * rank, 0.71 - 0.02 * rank, chunks, own))
        if group:
            hits = [hit._replace(group=group_of(tracks, hit)) for hit in hits]
        surety = 0.07 if nobody else 0.93
        answer = (nobody, surety) if self.calibrated and mode != "image" else (None, None)
        return Answer(sentence, tuple(hits[:top]), *answer, 0.012, mode)  # type: ignore[arg-type]


def _without(answer: Answer, marks: dict[str, list[str]]) -> Answer:
    """The answer without the images that the user disliked."""
    kept = [hit for hit in answer.hits if hit.image_id not in marks.get("disliked", [])]
    return answer._replace(hits=tuple(kept))


def track_of(origin: Origin) -> tuple:
    return origin.source, origin.track


def group_of(tracks: dict[tuple, list[Origin]], hit: Hit) -> Group:
    own = [] if hit.origin is None else tracks.get(track_of(hit.origin), [hit.origin])
    if not own:
        return Group(1, None, None, None, None, ())
    first, last = min(own, key=lambda each: each.frame), max(own, key=lambda each: each.frame)
    return Group(len(own), first.time_s, last.time_s, first.clock, last.clock, ())


def indexed(path: Path) -> IndexedImage:
    """The record of a file that an index would keep."""
    data = path.read_bytes()
    return IndexedImage(path, len(data), hashlib.sha256(data).digest())


def chunks_of(sentence: str) -> list[list[str]]:
    """The two words after each "a" or "and"."""
    return [found.split() for found in re.findall(r"\b(?:a|and) (?!a )(\w+ \w+)", sentence)]


def heat_at(height: float) -> list[list[float]]:
    """1 in the middle of the row at this share of the height, less on all sides."""
    hot = round(height * (ROWS - 1))
    return [
        [1 / (1 + (row - hot) ** 2 + (column - 3.5) ** 2 - 0.25) for column in range(COLUMNS)] for row in range(ROWS)
    ]


def fake_gallery(folder: Path) -> FakeGallery:
    """Five JPEG crops of 40 x 80 px."""
    paths = [folder / f"person {index}.jpg" for index in range(5)]
    for index, path in enumerate(paths):
        exif = Image.Exif()
        exif[0x010E] = "taken at home"
        Image.new("RGB", (40, 80), (40 * index, 90, 150)).save(path, exif=exif)
    return FakeGallery(paths)


def client_for(gallery: FakeGallery, **options) -> TestClient:
    return TestClient(create_app(gallery, **options), base_url="http://localhost", raise_server_exceptions=False)


def picture(size: tuple[int, int] = (30, 60), kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(buffer, kind, **options)
    return buffer.getvalue()


def upload(client: TestClient, data: bytes, **form):
    return client.post("/api/search/image", files={"image": ("me.png", data)}, data=form)
