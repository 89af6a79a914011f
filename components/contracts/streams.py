"""Files that a person brings, read piece by piece: lines, the items of a json list, parquet.

Nothing here holds a file as a whole, so that its size does not matter. A fault of the form is one
line that names the file and the place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from components.contracts.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BUFFER_BYTES = 1 << 20
"""Of a parquet column or of a json file, read at a time."""
_BETWEEN_ITEMS = re.compile(r"[\s,]*")


@contextmanager
def open_text(path: Path, newline: str) -> Iterator[IO[str]]:
    """UTF-8 text, with or without its mark; `newline` as in `open`.

    Raises:
        DataError: the file is missing, or a line holds bytes that are not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("no such file", file=path) from None
    except UnicodeDecodeError:
        # The error knows its place in a buffer only; the line is looked for again.
        number, byte = _first_foreign_byte(path)
        raise DataError(
            f"byte 0x{byte:02x} is not UTF-8",
            file=path,
            place=f"line {number}",
            allowed="UTF-8 text",
        ) from None


def _first_foreign_byte(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return number, line[error.start]
    return 0, 0


def read_lines(path: Path, newline: str = "\n") -> Iterator[str]:
    """The lines of a text file.

    Only a line feed ends one: a line separator inside a prompt must not shift the line numbers.
    With `newline=""` the lines keep their ends, as `csv.reader` wants them.

    Raises:
        DataError: as `open_text`.
    """
    with open_text(path, newline) as file:
        for line in file:
            yield line.removesuffix("\n") if newline else line


def read_json_items(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """`item 7` and the object, for each object of a file that is one json list.

    Raises:
        DataError: the file is missing, is no list of objects, holds none, or is broken.
    """
    decoder, number, start = json.JSONDecoder(), 0, 0
    with open_text(path, "\n") as file:
        text = file.read(BUFFER_BYTES).lstrip()
        if not text.startswith("["):
            raise DataError("is no json list", file=path, allowed="[{...}, {...}]")
        text = text[1:]
        while True:
            start = _BETWEEN_ITEMS.match(text, start).end()  # type: ignore[union-attr]
            if text.startswith("]", start):
                break
            place = f"item {number + 1}"
            try:
                item, start = decoder.raw_decode(text, start)
            except (json.JSONDecodeError, RecursionError) as error:
                reason = getattr(error, "msg", "nested too deeply")
                # What does not parse may go on behind what has been read so far.
                more = file.read(BUFFER_BYTES)
                if not more or isinstance(error, RecursionError):
                    raise DataError(
                        f"is not json: {reason}", file=path, place=place, allowed="a whole list"
                    ) from None
                text, start = text[start:] + more, 0
                continue
            if not isinstance(item, dict):
                raise DataError(
                    "is no json object", file=path, place=place, allowed='{"key": value, ...}'
                )
            number += 1
            yield place, item
    if not number:
        raise DataError("holds no items", file=path, allowed="at least one item")


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A parquet file of any origin, read in small pieces.

    Raises:
        DataError: the file is missing, truncated, or none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without these two a whole row group, a gigabyte of pictures, is read ahead.
        with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            yield file
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("no such file", file=path) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"is truncated or not a parquet file ({error})", file=path) from None
