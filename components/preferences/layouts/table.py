"""Labels of your own in one table: pairs, rankings or ratings, as parquet, csv, tsv or jsonl.

    pairs       caption, image_a, image_b, preference     the share of a win for a, in [0, 1]
    rankings    ranking, caption, image, rank             a row a picture; equal ranks tie
    ratings     caption, image, value                     on the scale of the settings

All may have `annotator` and `category`, ratings also `question`. A picture is a path beside the
table, or its bytes in parquet. The rows of one ranking stand together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from components.contracts.errors import DataError
from components.contracts.rows import Row, read_rows
from components.preferences.layouts.records import (
    UNKNOWN,
    Comparison,
    Labelled,
    Picture,
    Ranking,
    Rating,
    as_number,
    as_rank,
    picture_of,
    text_or,
)
from components.preferences.settings import TableSettings

COLUMNS = {
    "pairs": ("caption", "image_a", "image_b", "preference"),
    "rankings": ("ranking", "caption", "image", "rank"),
    "ratings": ("caption", "image", "value"),
}
OPTIONAL = {
    "pairs": ("annotator", "category"),
    "rankings": ("annotator", "category"),
    "ratings": ("question", "annotator", "category"),
}


def read(settings: TableSettings, root: Path) -> Iterator[Labelled]:
    """One row, or the rows of one ranking, at a time."""
    path = root / settings.path
    rows = read_rows(path, COLUMNS[settings.kind], OPTIONAL[settings.kind], closed=True)
    yield from _READERS[settings.kind](rows, path, settings)


def _pairs(rows: Iterator[Row], path: Path, settings: TableSettings) -> Iterator[Labelled]:
    for row in rows:
        preference = as_number(row.values["preference"])
        if not 0 <= preference <= 1:
            raise _fault(row, path, "preference", "a share of a win for image_a, from 0 to 1")
        pictures = tuple(_picture(row, name, path) for name in ("image_a", "image_b"))
        yield _labelled(
            row, path, pictures, comparisons=(Comparison(0, 1, preference, _person(row)),)
        )


def _rankings(rows: Iterator[Row], path: Path, settings: TableSettings) -> Iterator[Labelled]:
    for name, group in groupby(rows, key=lambda row: text_or(row.values["ranking"], "")):
        members = list(group)
        first = members[0]
        if not name:
            raise _fault(first, path, "ranking", "the name of a ranking")
        for row in members[1:]:
            for column in ("caption", "annotator", "category"):
                if row.values.get(column) != first.values.get(column):
                    raise _fault(row, path, column, f"one {column} in a ranking")
        ranks = [as_rank(row.values["rank"]) for row in members]
        if None in ranks:
            raise _fault(members[ranks.index(None)], path, "rank", "a whole number, 1 for the best")
        if len(members) < 2:
            raise _fault(first, path, "ranking", "two pictures or more in a ranking")
        yield _labelled(
            first,
            path,
            tuple(_picture(row, "image", path) for row in members),
            rankings=(Ranking(tuple(ranks), _person(first), name),),
        )


def _ratings(rows: Iterator[Row], path: Path, settings: TableSettings) -> Iterator[Labelled]:
    low, high, steps = settings.low, settings.high, settings.steps
    for row in rows:
        value = as_number(row.values["value"])
        if not low <= value <= high or not _is_answer((value - low) / (high - low), steps):
            answers = f", one of {steps} in equal steps" if steps else ""
            raise _fault(row, path, "value", f"a number from {low:g} to {high:g}{answers}")
        question = text_or(row.values.get("question"), settings.question)
        yield _labelled(
            row,
            path,
            (_picture(row, "image", path),),
            ratings=(Rating(0, question, value, low, high, steps, _person(row)),),
        )


def _is_answer(share: float, steps: int) -> bool:
    """Whether a part of the scale, in [0, 1], is one of its equal steps; 0 steps allow all."""
    step = share * (steps - 1)
    return steps == 0 or abs(step - round(step)) < 1e-6


def _labelled(row: Row, path: Path, pictures: tuple[Picture, ...], **labels: object) -> Labelled:
    return Labelled(
        path,
        row.place,
        row.values["caption"],
        pictures=pictures,
        category=text_or(row.values.get("category"), ""),
        published=False,
        **labels,  # type: ignore[arg-type]
    )


def _picture(row: Row, column: str, path: Path) -> Picture:
    picture = picture_of(row.values[column], column, path.parent)
    if picture is None:
        raise DataError(
            f"{column} is empty",
            file=path,
            place=row.place,
            allowed="a path, or the picture's bytes",
        )
    return picture


def _person(row: Row) -> str:
    return text_or(row.values.get("annotator"), UNKNOWN)


def _fault(row: Row, path: Path, column: str, allowed: str) -> DataError:
    return DataError(
        f"{column} is '{str(row.values[column])[:40]}'",
        file=path,
        place=row.place,
        allowed=allowed,
    )


_READERS: dict[str, Callable[[Iterator[Row], Path, TableSettings], Iterator[Labelled]]] = {
    "pairs": _pairs,
    "rankings": _rankings,
    "ratings": _ratings,
}
