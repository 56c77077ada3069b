"""A gallery without a model, for tests of the service: the interface of gallery.Gallery with fixed answers."""

import hashlib
import io
import re
from pathlib import Path

from fastapi.testclient import TestClient
from PIL import Image

from gallery.answers import Answer, CannotAnswer, ChunkScore, Hit, WordHeat
from gallery.encoding.pictures import IndexedImage
from gallery.service.app import create_app
from gallery.store.store import UnknownImage
from utils.errors import UserError

ROWS, COLUMNS = 16, 8


class FakeGallery:
    """Serves image files under the ids "id0", "id1", ... The sentences "nobody", "crash" and "bad" steer it."""

    def __init__(self, paths: list[Path], *, calibrated: bool = True, second_stage: bool = True) -> None:
        self.paths = {f"id{index}": path for index, path in enumerate(paths)}
        self.indexed = {image_id: indexed(path) for image_id, path in self.paths.items()}
        self.calibrated, self.second_stage = calibrated, second_stage
        self.asked: list[tuple] = []

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self) -> dict:
        return {"images": len(self), "root": "/srv", "model": "fake", "calibrated": self.calibrated}

    def image(self, image_id: str) -> IndexedImage:
        if image_id not in self.indexed:
            raise UnknownImage(image_id)
        return self.indexed[image_id]

    def query(self, sentence: str, *, top: int = 20, fast: bool = False) -> Answer:
        self.asked.append(("query", sentence, top, fast))
        if not re.search(r"\w", sentence):
            raise CannotAnswer("the query is empty")
        if sentence == "bad":
            raise UserError("the sentence has no word that the model knows")
        if sentence == "crash":
            raise RuntimeError("secret detail")
        fast = fast or not self.second_stage
        texts = [] if fast else [" ".join(words) for words in chunks_of(sentence)]
        answer = self._answer(sentence, "fast" if fast else "exact", texts, top, nobody="nobody" in sentence)
        words = sentence.split()  # it knows the ASCII ones
        return answer._replace(
            num_pieces=len(words), unknown_pieces=tuple(word for word in words if not word.isascii())
        )

    def query_image(self, image: Image.Image, *, top: int = 20) -> Answer:
        self.asked.append(("query_image", image.mode, image.size, top))
        return self._answer("", "image", [], top, nobody=False)

    def query_similar(self, image_id: str, *, top: int = 20) -> Answer:
        self.image(image_id)
        self.asked.append(("query_similar", image_id, top))
        return self._answer("", "image", [], top, nobody=False)

    def explain(self, sentence: str, image_id: str) -> list[WordHeat]:
        self.image(image_id).read()
        self.asked.append(("explain", sentence, image_id))
        words = sentence.split()
        chunks = chunks_of(sentence) if self.second_stage else []
        part_of = {word: part for part, chunk in enumerate(chunks, start=1) for word in chunk}
        return [WordHeat(word, part_of.get(word, 0), heat_at(at / len(words))) for at, word in enumerate(words)]

    def _answer(self, sentence: str, mode: str, texts: list[str], top: int, *, nobody: bool) -> Answer:
        hits = []
        for rank, (image_id, path) in enumerate(list(self.paths.items())[:top]):
            chunks = tuple(ChunkScore(text, 0.97 / (1 + (rank * (at + 1)) % 5)) for at, text in enumerate(texts))
            hits.append(Hit(image_id, path, 4.2 - 0.3 * rank, 0.71 - 0.02 * rank, chunks))
        surety = 0.07 if nobody else 0.93
        answer = (nobody, surety) if self.calibrated and mode != "image" else (None, None)
        return Answer(sentence, tuple(hits), *answer, 0.012, mode)  # type: ignore[arg-type]


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
