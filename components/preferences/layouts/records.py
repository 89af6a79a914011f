"""What a layout yields: pictures of one prompt, and what people said about them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from components.contracts.errors import DataError

UNKNOWN = "unknown"
"""The annotator where a source does not say who it was."""
NO_LABEL, SAME_PICTURE, REPEATED = "no_label", "same_picture", "repeated_ranking"
UNREADABLE, BAD_LABEL = "unreadable_picture", "bad_label"
FAULTS = (UNREADABLE, BAD_LABEL)
"""Reasons to leave something out that are faults of the data; the others are no fault."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Encoded bytes, or the file that holds them, and what to call it in a message."""

    content: bytes | Path
    name: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two pictures, by their place in `Labelled.pictures`, and the share of a win for the first."""

    a: int
    b: int
    preference: float
    annotator: str = UNKNOWN


@dataclass(frozen=True, slots=True)
class Ranking:
    """One annotator's order of pictures: a rank for each, lower is better, None leaves one out."""

    ranks: tuple[int | None, ...]
    annotator: str = UNKNOWN
    name: str = ""
    """What tells two rankings of one annotator and prompt apart."""


@dataclass(frozen=True, slots=True)
class Rating:
    """An answer about one picture, as in `components.contracts.tables.RATINGS`."""

    picture: int
    question: str
    value: float
    low: float
    high: float
    steps: int
    annotator: str = UNKNOWN


@dataclass(frozen=True, slots=True)
class Labelled:
    """Pictures of one prompt and everything that was said about them in one place of a source."""

    file: Path
    place: str
    caption: Any
    """Text; what else stands there is refused later, in one place for all layouts."""
    pictures: tuple[Picture, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    ratings: tuple[Rating, ...] = ()
    category: str = ""
    """Empty where the source knows none."""
    skipped: tuple[str, ...] = ()
    """Why labels of this place were left out: one of the reasons above for each."""
    published: bool = True
    """Nobody can mend published data: what cannot be used is left out and counted. In data of your
    own it is an error."""

    def fault(self, what: str, allowed: str = "") -> DataError:
        """An error at this place."""
        return DataError(what, file=self.file, place=self.place, allowed=allowed)


def as_number(value: Any) -> float:
    """A finite number from a cell of any format, or NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def as_rank(value: Any) -> int | None:
    """A whole number that fits 32 bits, or None."""
    number = as_number(value)
    return int(number) if number.is_integer() and abs(number) < 2**31 else None


def picture_of(value: Any, name: str, folder: Path) -> Picture | None:
    """A cell that holds bytes, a path, or both as the `datasets` library stores them."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return Picture(value, name)
    return Picture(folder / value, name) if isinstance(value, str) and value else None


def text_or(value: Any, default: str) -> str:
    """A cell as text, or `default` for one that is empty."""
    return default if value is None or value == "" else str(value)


def is_list_of(
    value: Any, kind: type | tuple[type, ...], length: int | None = None
) -> TypeGuard[list[Any]]:
    """Whether a json value is a list of such values, of that length where one is given."""
    return (
        isinstance(value, list)
        and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)
        and length in (None, len(value))
    )
