"""What a search gives back. Plain values, so that a page or another program can use them without torch."""

from pathlib import Path
from typing import Literal, NamedTuple

from utils.errors import UserError

Mode = Literal["exact", "fast", "image"]


class CannotAnswer(UserError):
    """What was asked is no question; the message names nothing of this machine, so that anybody may read it."""


class ChunkScore(NamedTuple):
    """How well one attribute chunk of the sentence ("black coat") fits an image."""

    text: str  # as it stands in the cleaned sentence
    score: float  # probability of the matching head, in [0, 1]


class Hit(NamedTuple):
    """One image found."""

    image_id: str  # 16 hexadecimal digits, made from the path; the same after indexing again
    path: Path  # of the file
    score: float  # what the order is by: the matching head's logit in mode exact, else the similarity
    similarity: float  # cosine of the two embeddings, in [-1, 1]
    chunks: tuple[ChunkScore, ...]  # in the sentence's order; empty in modes fast and image


class Answer(NamedTuple):
    """The images found for one query, best first."""

    query: str  # the sentence as given; "" for an image
    hits: tuple[Hit, ...]
    nothing_matches: bool | None  # the person is likely not in the gallery; None: not calibrated
    confidence: float | None  # calibrated probability that the person is in the gallery; None: not calibrated
    seconds: float
    mode: Mode  # the order that the hits are in: "fast" also where the index has no second stage


class WordHeat(NamedTuple):
    """Where in an image the model looks for one word."""

    word: str  # of the cleaned sentence
    chunk: int  # 1 = in the first of an exact hit's chunks for the sentence, ...; 0 = in none
    heat: list[list[float]]  # rows x columns of patches, in [0, 1]; 1 = the word's hottest patch
