"""The answers of a search: plain values that a page or another program can use. Imports no torch."""

from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from gallery.footage.origin import Origin
from utils.errors import UserError

Mode = Literal["exact", "fast", "image"]


class CannotAnswer(UserError):
    """The query cannot be answered. The message names no file or host, so that anybody may read it."""


class ChunkScore(NamedTuple):
    """How well an image fits one attribute chunk of the sentence, such as "black coat"."""

    text: str  # as it stands in the cleaned sentence
    score: float  # probability of the matching head, in [0, 1]


class Group(NamedTuple):
    """What a hit stands for: the crops of its track that pass the query's filter, and near-identical images."""

    num_images: int  # in it, the hit among them
    start_s: float | None  # seconds in the video, of the first crop of the hit's track; None = not from a video
    end_s: float | None  # of the last one
    start_clock: datetime | None  # the same as the camera's local time; None = not known
    end_clock: datetime | None
    near_copies: tuple[str, ...]  # ids of images of other tracks, or of none, that are near-identical to the hit


class Hit(NamedTuple):
    """One image of an answer; of an answer in groups, the best image of its group."""

    image_id: str  # 16 hexadecimal digits, made from the path, so that indexing again keeps it
    path: Path  # of the file
    score: float  # what orders the hits: the matching head's logit in mode exact, else the similarity
    similarity: float  # cosine of the two embeddings, in [-1, 1]
    chunks: tuple[ChunkScore, ...]  # in the order of the sentence; empty in modes fast and image
    origin: Origin | None = None  # where it was cut from; None = a plain picture
    group: Group | None = None  # None = the answer is not in groups


class Answer(NamedTuple):
    """The images found for one query, best first."""

    query: str  # the sentence as given; "" if the query was an image
    hits: tuple[Hit, ...]
    nothing_matches: bool | None  # the person is probably not in the gallery; None = not calibrated, or marks given
    confidence: float | None  # probability that the person is in the gallery; None = not calibrated, or marks given
    seconds: float
    mode: Mode  # "fast" also if the model has no second stage
    num_pieces: int = 0  # word pieces of the sentence that the model read
    unknown_pieces: tuple[str, ...] = ()  # those among them that are not in its vocabulary, in order; it reads [UNK]
    unknown_words: tuple[str, ...] = ()  # words that the model cannot have understood; they lower the confidence
    negated: tuple[str, ...] = ()  # what the sentence says that the person has not: "hat" of "without a hat"


class WordHeat(NamedTuple):
    """Where in an image the model looks for one word."""

    word: str  # of the cleaned sentence
    chunk: int  # k = in the k-th chunk of an exact hit, from 1; 0 = in none
    heat: list[list[float]]  # rows x columns of patches, in [0, 1]; 1 = the hottest patch of this word
