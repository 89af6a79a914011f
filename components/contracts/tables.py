"""The tables between stages: their columns, their version, and how they are written and read.

A writer refuses a table that lacks a column; a reader refuses a version that it does not know.
Tables are joined by id (see `ids.py`), never by row order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.contracts.artifacts import atomic_path
from components.contracts.errors import DataError
from components.contracts.streams import open_parquet

GROUP_ROWS = 4096
"""Rows that are written, or read in one piece."""


@dataclass(frozen=True)
class TableSchema:
    """A named, versioned set of columns."""

    name: str
    version: int
    columns: pa.Schema

    @property
    def stamped(self) -> pa.Schema:
        """The columns with name and version in the file's own metadata."""
        return self.columns.with_metadata(
            {"konomi_table": self.name, "schema_version": str(self.version)}
        )


PROMPTS = TableSchema(
    "prompts",
    1,
    pa.schema(
        [
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("prompt", pa.string(), nullable=False),
            pa.field("category", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("num_tokens", pa.int32(), nullable=False),
        ]
    ),
)
"""One row a prompt, in `data/prompts/{train,validation,test}.parquet`."""

SAMPLES = TableSchema(
    "samples",
    1,
    pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("prompt", pa.string(), nullable=False),
            pa.field("category", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("seed", pa.int64(), nullable=False),
            pa.field("shard", pa.string(), nullable=False),
        ]
    ),
)
"""One row an image. `shard` 00000 is in `images/images-00000.tar` and, where the image was drawn
here, `latents/latents-00000.safetensors`; the key in both is the sample id."""

_OF_PROMPT = [
    pa.field("prompt_id", pa.string(), nullable=False),
    pa.field("prompt", pa.string(), nullable=False),
    pa.field("category", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
]
PAIRS = TableSchema(
    "pairs",
    2,
    pa.schema(
        [
            pa.field("pair_id", pa.string(), nullable=False),
            *_OF_PROMPT,
            pa.field("sample_id_a", pa.string(), nullable=False),
            pa.field("sample_id_b", pa.string(), nullable=False),
            pa.field("annotator", pa.string(), nullable=False),
            pa.field("preference", pa.float32(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
            pa.field("ranking_id", pa.string(), nullable=False),
        ]
    ),
)
"""One row a judgement. `preference` is the share of a win that it gives to a, in [0, 1]: 1, 0, 0.5
for a tie, anything between for a soft label; `label` says the same in a word (`label_of`).
`ranking_id` is empty where two samples were judged by themselves, else the row of `RANKINGS` that
the judgement was read off. Several annotators of a pair are several rows, each with the sides on
which that annotator saw the images: compare chosen ids, not labels, across rows."""

RANKINGS = TableSchema(
    "rankings",
    1,
    pa.schema(
        [
            pa.field("ranking_id", pa.string(), nullable=False),
            *_OF_PROMPT,
            pa.field("annotator", pa.string(), nullable=False),
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("rank", pa.int32(), nullable=False),
        ]
    ),
)
"""One row a sample of a ranking: lower is better, equal ranks are a tie. The rows of one
`ranking_id` are one annotator's order of two or more samples of one prompt, each once."""

RATINGS = TableSchema(
    "ratings",
    1,
    pa.schema(
        [
            *_OF_PROMPT,
            pa.field("annotator", pa.string(), nullable=False),
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("question", pa.string(), nullable=False),
            pa.field("value", pa.float32(), nullable=False),
            pa.field("low", pa.float32(), nullable=False),
            pa.field("high", pa.float32(), nullable=False),
            pa.field("steps", pa.int32(), nullable=False),
        ]
    ),
)
"""One row an answer about one sample: `value` in [low, high], higher is better. `question` is what
was asked (`good`, `alignment`, `quality`); `steps` is how many answers there were to choose from, 2
for yes and no, 5 or 7 for a Likert scale, 0 where every number in between was allowed."""


def label_of(preference: float) -> str:
    """`a`, `b` or `tie`: which side has more than half of the win."""
    return "a" if preference > 0.5 else "b" if preference < 0.5 else "tie"


def write_table(path: Path, table: pa.Table, schema: TableSchema) -> None:
    """Write a parquet file with exactly the schema's columns.

    Raises:
        DataError: a column is missing, of another type, or holds a null.
    """
    with atomic_path(path) as temporary:
        table = _fitted(path, table, schema)
        pq.write_table(table, temporary, compression="zstd")


class TableWriter:
    """Writes a table row by row; what is in memory does not grow with it.

    The file is not atomic by itself: write it inside a folder that is. Where rows come from one
    call of `append` or from many makes no difference to the bytes.
    """

    def __init__(self, path: Path, schema: TableSchema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.num_rows = 0
        self._path, self._schema = path, schema
        self._rows: list[Mapping[str, Any]] = []
        self._file = pq.ParquetWriter(path, schema.stamped, compression="zstd")

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, each with every column of the schema.

        Raises:
            DataError: as `write_table`.
        """
        for row in rows:
            self._rows.append(row)
            self.num_rows += 1
            if len(self._rows) == GROUP_ROWS:
                self._flush()

    def close(self) -> None:
        """Write what is left and the end of the file."""
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._rows:
            try:
                table = pa.Table.from_pylist(self._rows, schema=self._schema.columns)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                raise _does_not_fit(self._path, self._schema, error) from None
            self._file.write_table(_fitted(self._path, table, self._schema))
            self._rows = []


def _fitted(path: Path, table: pa.Table, schema: TableSchema) -> pa.Table:
    try:
        table = table.select(schema.columns.names).cast(schema.stamped)
        table.validate(full=True)
    except (KeyError, pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        raise _does_not_fit(path, schema, error) from None
    return table


def _does_not_fit(path: Path, schema: TableSchema, error: Exception) -> DataError:
    return DataError(
        f"table does not fit schema '{schema.name}' ({error})",
        file=path,
        allowed=", ".join(schema.columns.names),
    )


def read_table(path: Path, schema: TableSchema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a parquet file of the project, or only some of its columns.

    Raises:
        DataError: the file is missing or truncated, is another table, or has an unknown version.
    """
    with open_parquet(path) as file:
        _check_kind(path, file, schema)
        return file.read(columns=None if columns is None else list(columns))


def read_batches(
    path: Path, schema: TableSchema, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The same in pieces, whose texts that repeat can be read as numbers (`pa.dictionary`).

    Raises:
        DataError: as `read_table`.
    """
    with open_parquet(path) as file:
        _check_kind(path, file, schema)
        yield from file.iter_batches(batch_size=GROUP_ROWS, columns=list(columns))


def _check_kind(path: Path, file: pq.ParquetFile, schema: TableSchema) -> None:
    metadata = file.schema_arrow.metadata or {}
    name = metadata.get(b"konomi_table", b"?").decode()
    version = metadata.get(b"schema_version", b"?").decode()
    if (name, version) != (schema.name, str(schema.version)):
        raise DataError(
            f"holds table '{name}' version {version}",
            file=path,
            allowed=f"'{schema.name}' version {schema.version}",
        )
