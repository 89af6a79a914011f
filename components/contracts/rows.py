"""Rows of a file that a person brings: text, csv, tsv, json lines or parquet, told by extension.

A fault of the file's form (not UTF-8, a column that is missing, a broken line) raises `DataError`
with file, line and what is allowed; what the values mean is for the caller to judge, row by row.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.contracts.errors import DataError


@dataclass(frozen=True)
class Row:
    """Values by column, and where they stand: `line 7` of a text format, `row 7` of parquet."""

    place: str
    values: dict[str, Any]


def read_rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
    """Read the named columns; `optional` ones are read where the file has them.

    A plain text file has one column, whatever its name: the first of `columns`.

    Raises:
        DataError: the file is missing, empty, of an unknown extension or broken, or lacks a column.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"has the extension '{path.suffix}'", file=path, allowed=", ".join(_READERS)
        )
    empty = True
    for row in reader(path, columns, optional):
        empty = False
        yield row
    if empty:
        raise DataError("holds no rows", file=path, allowed="at least one row of data")


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("no such file", file=path) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"byte 0x{content[error.start]:02x} is not UTF-8",
            file=path,
            place=f"line {line}",
            allowed="UTF-8 text",
        ) from None
    # Not splitlines(): a line separator inside a prompt must not shift the line numbers.
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _read_text(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        yield Row(f"line {number}", {columns[0]: line})


def _read_separated(
    path: Path, columns: Sequence[str], optional: Sequence[str], *, delimiter: str = ","
) -> Iterator[Row]:
    # A long field is for the caller to judge; the module's default limit of 128 KB would stop here.
    csv.field_size_limit(sys.maxsize)
    text = io.StringIO("\n".join(_lines(path)), newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        _check_columns(path, "line 1", header, columns)
        wanted = [name for name in (*columns, *optional) if name in header]
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


def _read_json_lines(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
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
        _check_columns(path, place, list(values), columns)
        yield Row(place, {name: values.get(name) for name in (*columns, *optional)})


def _read_parquet(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_columns(path, "", names, columns)
            wanted = [name for name in (*columns, *optional) if name in names]
            for batch in file.iter_batches(batch_size=256, columns=wanted):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"row {number}", values)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("no such file", file=path) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"is truncated or not a parquet file ({error})",
            file=path,
            place=f"after row {number}" if number else "",
        ) from None


def _check_columns(path: Path, place: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing and found:
        shown = ", ".join(str(name)[:40] for name in found[:20])
        raise DataError(f"no column '{missing[0]}'", file=path, place=place, allowed=shown)
    if len(set(found)) != len(found):
        raise DataError("a column stands twice", file=path, place=place, allowed="unique names")


def _read_csv(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    return _read_separated(path, columns, optional, delimiter=",")


def _read_tsv(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    return _read_separated(path, columns, optional, delimiter="\t")


_READERS: dict[str, Callable[[Path, Sequence[str], Sequence[str]], Iterator[Row]]] = {
    ".txt": _read_text,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
