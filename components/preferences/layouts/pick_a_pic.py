"""Pick-a-Pic (2305.01569), versions 1 and 2, and pairs of your own in columns of those names.

As published, `yuvalkirstain/pickapic_v1` and `_v2`: parquet with the bytes of both pictures in
`jpg_0` and `jpg_1`, `caption`, `label_0` and `label_1` (1 and 0, 0 and 1, or a half each for a
tie), `user_id`, `has_label`, `are_different`, and columns that are not kept. Of your own: `image_0`
and `image_1`, as bytes or as paths beside the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.contracts.errors import DataError
from components.contracts.rows import Row, column_names, read_rows
from components.preferences.layouts.records import (
    BAD_LABEL,
    NO_LABEL,
    SAME_PICTURE,
    UNKNOWN,
    Comparison,
    Labelled,
    as_number,
    picture_of,
    text_or,
)
from components.preferences.settings import PickAPicSettings

LABELS = ("label_0", "label_1")
PUBLISHED = ("caption", "jpg_0", "jpg_1", *LABELS)
OWN = ("caption", "image_0", "image_1", *LABELS)


def read(settings: PickAPicSettings, root: Path) -> Iterator[Labelled]:
    """One pair a row, file after file in the order of their names."""
    path = root / settings.path
    files = sorted(path.glob(settings.files)) if path.is_dir() else [path]
    if not files:
        raise DataError(f"holds no file {settings.files}", file=path, allowed="preferences files")
    for file in files:
        published = "jpg_0" in column_names(file)
        optional = ("user_id", "has_label", "are_different") if published else ("user_id",)
        for row in read_rows(file, PUBLISHED if published else OWN, optional):
            yield _published(row, file) if published else _own(row, file)


def _published(row: Row, file: Path) -> Labelled:
    values = row.values
    preference = _preference(values)
    reason = (
        NO_LABEL
        if values.get("has_label") is False
        else SAME_PICTURE
        if values.get("are_different") is False
        else BAD_LABEL
        if math.isnan(preference)
        else ""
    )
    if reason:
        return Labelled(file, row.place, values["caption"], skipped=(reason,))
    return _pair(row, file, ("jpg_0", "jpg_1"), preference, published=True)


def _own(row: Row, file: Path) -> Labelled:
    preference = _preference(row.values)
    if math.isnan(preference):
        shown = " and ".join(str(row.values[name])[:40] for name in LABELS)
        raise DataError(
            f"label_0 and label_1 are {shown}",
            file=file,
            place=row.place,
            allowed="1 and 0, 0 and 1, 0.5 and 0.5 for a tie, or other shares that make 1",
        )
    return _pair(row, file, ("image_0", "image_1"), preference, published=False)


def _pair(
    row: Row, file: Path, columns: tuple[str, str], preference: float, *, published: bool
) -> Labelled:
    pictures = [picture_of(row.values[name], name, file.parent) for name in columns]
    found = tuple(picture for picture in pictures if picture)
    person = text_or(row.values.get("user_id"), UNKNOWN)
    whole = len(found) == len(columns)
    if not whole and not published:
        missing = columns[pictures.index(None)]
        raise DataError(
            f"{missing} is empty",
            file=file,
            place=row.place,
            allowed="a path, or the picture's bytes",
        )
    return Labelled(
        file,
        row.place,
        row.values["caption"],
        pictures=found if whole else (),
        comparisons=(Comparison(0, 1, preference, person),) if whole else (),
        skipped=() if whole else (NO_LABEL,),
        published=published,
    )


def _preference(values: Mapping[str, Any]) -> float:
    """The share of a win for the first picture, or NaN."""
    first, second = (as_number(values[name]) for name in LABELS)
    return first if 0 <= first <= 1 and abs(first + second - 1) <= 1e-6 else math.nan
