"""The tables between stages: their columns, their version, and how they are written and read.

A writer refuses a table that lacks a column; a reader refuses a version that it does not know.
Tables are joined by id (see `ids.py`), never by row order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.contracts.artifacts import atomic_path
from components.contracts.errors import DataError


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

PAIRS = TableSchema(
    "pairs",
    1,
    pa.schema(
        [
            pa.field("pair_id", pa.string(), nullable=False),
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("prompt", pa.string(), nullable=False),
            pa.field("category", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("sample_id_a", pa.string(), nullable=False),
            pa.field("sample_id_b", pa.string(), nullable=False),
            pa.field("annotator", pa.string(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
        ]
    ),
)
"""One row a judgement: `label` is `a`, `b` or `tie`. Several annotators of a pair are several
rows, each with the sides on which that annotator saw the images: compare chosen ids, not labels,
across rows."""


def write_table(path: Path, table: pa.Table, schema: TableSchema) -> None:
    """Write a parquet file with exactly the schema's columns.

    Raises:
        DataError: a column is missing, of another type, or holds a null.
    """
    try:
        table = table.select(schema.columns.names).cast(schema.stamped)
        table.validate(full=True)
    except (KeyError, pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        raise DataError(
            f"table does not fit schema '{schema.name}' ({error})",
            file=path,
            allowed=", ".join(schema.columns.names),
        ) from None
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(path: Path, schema: TableSchema) -> pa.Table:
    """Read a parquet file that `write_table` wrote.

    Raises:
        DataError: the file is missing or truncated, is another table, or has an unknown version.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"is truncated or not a parquet file ({error})", file=path) from None
    metadata = table.schema.metadata or {}
    name = metadata.get(b"konomi_table", b"?").decode()
    version = metadata.get(b"schema_version", b"?").decode()
    if (name, version) != (schema.name, str(schema.version)):
        raise DataError(
            f"holds table '{name}' version {version}",
            file=path,
            allowed=f"'{schema.name}' version {schema.version}",
        )
    return table
