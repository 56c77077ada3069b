"""Kinds of values that configuration keys may hold, and checks that several sections share."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic_core import PydanticCustomError

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

PositiveInt = Annotated[int, Field(gt=0)]
NaturalInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonZeroFraction = Annotated[float, Field(gt=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
NonEmptyStr = Annotated[str, Field(min_length=1)]


class ImpossibleValueError(ValueError):
    """Values that cannot go together. keys: the keys involved, dotted, relative to the section that raises."""

    def __init__(self, message: str, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys


def as_height_width(value: Any) -> Any:
    """One number stands for a square; what a list holds is left to the type check."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if not isinstance(value, list | tuple):
        raise PydanticCustomError("image_size", "one number or [height, width]")
    return tuple(value)


def as_roots(value: Any) -> Any:
    """One folder, or several that differ."""
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, list | tuple) or not value or not all(isinstance(root, str) and root for root in value):
        raise PydanticCustomError("string_too_short" if value == "" else "string_type", "a folder or a list of folders")
    if len(set(value)) < len(value):
        raise PydanticCustomError("roots", "folders that differ")
    return tuple(value)


def check_divisible(width: int | None, heads: int | None, width_key: str, heads_key: str) -> None:
    if width is not None and heads is not None and width % heads:
        raise ImpossibleValueError(f"{width_key} {width} is not divisible by {heads_key} {heads}", width_key, heads_key)
