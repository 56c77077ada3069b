"""Requests and answers of the JSON interface; FastAPI makes the OpenAPI description from these classes.

The values mean what they mean in gallery/answers.py. A "part" is an attribute chunk of the sentence.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gallery.answers import Answer, Mode, WordHeat
from gallery.search.filters import Filter
from gallery.service.origin_schemas import GroupInfo, NameOf, OriginInfo

MAX_QUERY_CHARACTERS = 500  # the model reads at most some 90 words
MAX_TOP = 200
MAX_PATTERNS, MAX_PATTERN_CHARACTERS = 20, 300
MAX_MARKS = 50
HEAT_DIGITS = 3

Query = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUERY_CHARACTERS),
    Field(description="A sentence that describes a person.", examples=["a man with a red backpack and blue jeans"]),
]
ImageId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100),
    Field(description="`image_id` of a hit.", examples=["9f2c4e1a7b3d5068"]),
]
Top = Annotated[int, Field(ge=1, le=MAX_TOP, description="How many hits to return.", examples=[20])]
Group = Annotated[bool, Field(description="One hit for each person's track and for near-identical images.")]
Sources = Annotated[
    list[Annotated[str, StringConstraints(max_length=MAX_PATTERN_CHARACTERS)]],
    Field(max_length=MAX_PATTERNS, description="Patterns of which the source must match one.", examples=[["cam1*"]]),
]
Time = Annotated[
    str | None,
    Field(max_length=40, description="The camera's local time: from then on (`after`), until then (`before`)."),
]
MinHeight = Annotated[float | None, Field(ge=0, description="Of the person's box in the full frame, in pixels.")]

Liked = Annotated[
    list[ImageId],
    Field(max_length=MAX_MARKS, description="Images marked as right: the query moves towards them.", examples=[[]]),
]
Disliked = Annotated[
    list[ImageId],
    Field(max_length=MAX_MARKS, description="Images marked as wrong: they leave with their tracks.", examples=[[]]),
]


class Strict(BaseModel):
    """A request: unknown keys are refused, so that a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid")


class Narrowed(Strict):
    """Which images take part in a search, and how its hits are counted."""

    top: Top = 20
    group: Group = True
    source: Sources = []
    after: Time = None
    before: Time = None
    min_height: MinHeight = None
    liked: Liked = []
    disliked: Disliked = []

    @property
    def where(self) -> Filter:
        """Raises: CannotAnswer."""
        return Filter.parse(source=self.source, after=self.after, before=self.before, min_height=self.min_height)


class SearchRequest(Narrowed):
    """Search with a sentence."""

    query: Query
    fast: bool = Field(False, description="Order by similarity alone, without the matching head.")


class SimilarRequest(Narrowed):
    """Search for people who look like the one in an indexed image."""

    image_id: ImageId


class ExplainRequest(Strict):
    """Ask where in an indexed image the model looks for each word."""

    query: Query
    image_id: ImageId


class Part(BaseModel):
    """How well the image shows one part (an adjective and its noun) of the sentence."""

    text: str = Field(examples=["red backpack"])
    score: float = Field(examples=[0.94], description="Probability in [0, 1] by the matching head.")


class SearchHit(BaseModel):
    """One image of the answer."""

    rank: int = Field(examples=[1], description="From 1.")
    image_id: str = Field(examples=["9f2c4e1a7b3d5068"])
    file: str = Field(
        examples=["/data/crops/cam_a/0017_3.jpg"], description="Its path; the name alone where the service has a token."
    )
    score: float = Field(
        examples=[3.71],
        description="What the hits are ordered by: the matching head's logit in mode exact, else the similarity.",
    )
    similarity: float = Field(examples=[0.62], description="Cosine of the two embeddings, in [-1, 1].")
    parts: list[Part] = Field(description="In the order of the sentence; empty where the matching head was not asked.")
    origin: OriginInfo | None = Field(description="Where it was cut from; null for a plain picture.")
    group: GroupInfo | None = Field(description="What it stands for; null where the answer is not in groups.")


class SearchAnswer(BaseModel):
    """The best images, and whether the model thinks that any of them matches."""

    query: str = Field(examples=["a man with a red backpack and blue jeans"])
    mode: Mode
    nothing_matches: bool | None = Field(
        examples=[False],
        description="The person is likely not in the gallery; null without a calibration, and with marks.",
    )
    confidence: float | None = Field(
        examples=[0.87],
        description="Calibrated probability in [0, 1] that the person is in the gallery; null like `nothing_matches`.",
    )
    seconds: float = Field(examples=[0.31])
    num_pieces: int = Field(
        examples=[9], description="Word pieces of the sentence that the model read; 0 for an image."
    )
    unknown_pieces: list[str] = Field(
        examples=[["\u8863"]],
        description="Those among them that are not in the model's vocabulary, in order; it reads each as [UNK].",
    )
    unknown_words: list[str] = Field(
        examples=[["asdf"]],
        description="Words of the sentence that the model cannot have understood: misspelt, made up, not English.",
    )
    negated: list[str] = Field(
        examples=[["hat"]],
        description='What the sentence says that the person does not have: "hat" of "without a hat". It is cut out.',
    )
    hits: list[SearchHit]

    @classmethod
    def of(cls, answer: Answer, *, whole_paths: bool, source_name: NameOf) -> "SearchAnswer":
        hits = [
            SearchHit(
                rank=rank,
                image_id=hit.image_id,
                file=str(hit.path) if whole_paths else hit.path.name,
                score=hit.score,
                similarity=hit.similarity,
                parts=[Part(text=chunk.text, score=chunk.score) for chunk in hit.chunks],
                origin=None if hit.origin is None else OriginInfo.of(hit.origin, source_name),
                group=None if hit.group is None else GroupInfo.of(hit.group),
            )
            for rank, hit in enumerate(answer.hits, start=1)
        ]
        return cls(
            query=answer.query,
            mode=answer.mode,
            nothing_matches=answer.nothing_matches,
            confidence=answer.confidence,
            seconds=answer.seconds,
            num_pieces=answer.num_pieces,
            unknown_pieces=list(answer.unknown_pieces),
            unknown_words=list(answer.unknown_words),
            negated=list(answer.negated),
            hits=hits,
        )


class Word(BaseModel):
    """One word of the sentence and where in the image the model looks for it."""

    word: str = Field(examples=["backpack"])
    part: int = Field(
        examples=[1], description="Its place, from 1, in the `parts` of an exact answer's hits; 0 = in none."
    )
    heat: list[list[float]] = Field(
        examples=[[[0.0, 0.1], [0.8, 1.0], [0.2, 0.1]]],
        description="Rows of a grid that covers the whole image, from its upper left corner, each value in [0, 1].",
    )

    @classmethod
    def of(cls, word: WordHeat) -> "Word":
        heat = [[round(value, HEAT_DIGITS) for value in row] for row in word.heat]
        return cls(word=word.word, part=word.chunk, heat=heat)


class Explanation(BaseModel):
    """Every word of the sentence, in its order."""

    words: list[Word]


class GalleryInfo(BaseModel):
    """What is searched, and what the service accepts."""

    images: int = Field(examples=[20505])
    calibrated: bool = Field(description="Whether an answer can say that nothing matches.")
    details: dict[str, Any] = Field(
        description="Model, checkpoint and embedding of the index; where the service has a token, without what names "
        "its files and hosts."
    )
    max_query_characters: int = MAX_QUERY_CHARACTERS
    max_top: int = MAX_TOP
    max_upload_bytes: int
    signed_in: bool = Field(description="Whether a token was needed to read this.")
    origins: bool = Field(description="Whether it is known of any image where it comes from, so that filters apply.")
    blur_others: bool = Field(description="Whether frames show one person only, and videos are not given out.")


class Health(BaseModel):
    """The service answers."""

    status: Literal["ok"] = "ok"


class Problem(BaseModel):
    """Why a request was not answered, in one sentence."""

    detail: str = Field(examples=["top: Input should be less than or equal to 200"])
