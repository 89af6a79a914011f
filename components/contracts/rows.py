"""Rows of a file that a person brings: text, csv, tsv, json lines or parquet, told by extension.

A file is read as it is asked for, never as a whole: its size does not matter. A fault of the file's
form (not UTF-8, a column that is missing, a broken line) raises `DataError` with file, line and
what is allowed; what the values mean is for the caller to judge, row by row.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.contracts.errors import DataError
from components.contracts.streams import open_parquet, read_lines

BATCH_ROWS = 64
"""Rows of a parquet file that are turned into objects at a time; a row may hold pictures."""


@dataclass(frozen=True)
class Row:
    """Values by column, and where they stand: `line 7` of a text format, `row 7` of parquet."""

    place: str
    values: dict[str, Any]


def read_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), *, closed: bool = False
) -> Iterator[Row]:
    """Read the named columns; `optional` ones are read where the file has them.

    A plain text file has one column, whatever its name: the first of `columns`.

    Args:
        path: the file.
        columns: that the file must have.
        optional: that it may have.
        closed: refuse a file with other columns, so that a misspelt one is not overlooked.

    Raises:
        DataError: the file is missing, empty, of an unknown extension or broken, lacks a column, or
            has one too many.
    """
    reader = _reader(path)
    empty = True
    for row in reader(path, columns, optional, closed):
        empty = False
        yield row
    if empty:
        raise DataError("holds no rows", file=path, allowed="at least one row of data")


def column_names(path: Path) -> list[str]:
    """Names of the columns: the header of a csv file, the keys of the first line of json lines.

    Raises:
        DataError: as `read_rows`.
    """
    if path.suffix.lower() == ".parquet":
        with open_parquet(path) as file:
            return list(file.schema_arrow.names)
    if path.suffix.lower() == ".jsonl":
        return list(next(_read_objects(path), (0, {}))[1])
    _reader(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    return next(csv.reader(read_lines(path, newline=""), delimiter=delimiter), [])


def _reader(path: Path) -> Reader:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"has the extension '{path.suffix}'", file=path, allowed=", ".join(_READERS)
        )
    return reader


def _read_text(
    path: Path, columns: Sequence[str], optional: Sequence[str], closed: bool
) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), start=1):
        yield Row(f"line {number}", {columns[0]: line})


def _read_separated(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str],
    closed: bool,
    *,
    delimiter: str = ",",
) -> Iterator[Row]:
    # A long field is for the caller to judge; the module's default limit of 128 KB would stop here.
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(read_lines(path, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        wanted = _check_columns(path, "line 1", header, columns, optional, closed)
        for fields in reader:
            if not fields:
                continue
            place = f"line {reader.line_num}"
            if len(fields) != len(header):
                raise DataError(
                    f"has {len(fields)} fields and the header {len(header)}",
                    file=path,
                    place=place,
                    allowed='one field a column; "quotes" around a field that holds the separator',
                )
            values = dict(zip(header, fields, strict=True))
            yield Row(place, {name: values[name] for name in wanted})
    except csv.Error as error:
        raise DataError(
            f"is broken: {error}",
            file=path,
            place=f"line {reader.line_num}",
            allowed='fields with both "quotes" or none',
        ) from None


def _read_json_lines(
    path: Path, columns: Sequence[str], optional: Sequence[str], closed: bool
) -> Iterator[Row]:
    for number, values in _read_objects(path):
        place = f"line {number}"
        _check_columns(path, place, list(values), columns, optional, closed)
        yield Row(place, {name: values.get(name) for name in (*columns, *optional)})


def _read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply")
            raise DataError(
                f"is not json: {reason}", file=path, place=place, allowed="one json object a line"
            ) from None
        if not isinstance(values, dict):
            raise DataError(
                "is no json object", file=path, place=place, allowed='{"column": value, ...}'
            )
        yield number, values


def _read_parquet(
    path: Path, columns: Sequence[str], optional: Sequence[str], closed: bool
) -> Iterator[Row]:
    number = 0
    with open_parquet(path) as file:
        wanted = _check_columns(path, "", file.schema_arrow.names, columns, optional, closed)
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"row {number}", values)


def _check_columns(
    path: Path,
    place: str,
    found: Sequence[str],
    wanted: Sequence[str],
    optional: Sequence[str],
    closed: bool,
) -> list[str]:
    """The columns to read."""
    missing = [name for name in wanted if name not in found]
    if missing and found:
        shown = ", ".join(str(name)[:40] for name in found[:20])
        raise DataError(f"no column '{missing[0]}'", file=path, place=place, allowed=shown)
    if len(set(found)) != len(found):
        raise DataError("a column stands twice", file=path, place=place, allowed="unique names")
    foreign = [name for name in found if name not in (*wanted, *optional)]
    if closed and foreign:
        raise DataError(
            f"unknown column '{str(foreign[0])[:40]}'",
            file=path,
            place=place,
            allowed=", ".join((*wanted, *optional)),
        )
    return [name for name in (*wanted, *optional) if name in found]


def _read_csv(
    path: Path, columns: Sequence[str], optional: Sequence[str], closed: bool
) -> Iterator[Row]:
    return _read_separated(path, columns, optional, closed, delimiter=",")


def _read_tsv(
    path: Path, columns: Sequence[str], optional: Sequence[str], closed: bool
) -> Iterator[Row]:
    return _read_separated(path, columns, optional, closed, delimiter="\t")


Reader = Callable[[Path, Sequence[str], Sequence[str], bool], Iterator[Row]]
_READERS: dict[str, Reader] = {
    ".txt": _read_text,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
