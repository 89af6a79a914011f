"""The tables of the stage `preferences` as columns of numbers, checked on the way in.

Every table names samples; here they become rows of `Samples`, which is sorted by sample id. Faults
are looked for a piece of the table at a time, and the first one is named by its row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, UInt64

from components.contracts.codes import Codes
from components.contracts.errors import DataError, QuarantinedData
from components.contracts.ids import id_numbers
from components.contracts.tables import SAMPLES, TableSchema, read_batches

SPLITS = ("train", "validation", "test")
LABELS = ("a", "tie", "b")
NO_RANKING = "r_0000000000000000"


class Samples(NamedTuple):
    """All samples of `samples.parquet`, by rising id."""

    number: UInt64[np.ndarray, " s"]
    """Of the sample id."""
    prompt: Int[np.ndarray, " s"]
    """Row of `prompt_number` and of `prompts`."""
    prompt_number: UInt64[np.ndarray, " p"]
    """Of the prompt id, rising."""
    prompts: pa.StringArray
    """The texts, [p]."""


def read_samples(path: Path) -> Samples:
    """Read which samples there are and of which prompt each is.

    Raises:
        DataError: the file is missing or damaged, or an id stands twice.
    """
    numbers, owners, texts = [], [], []
    known = np.zeros(0, np.uint64)
    for batch in read_batches(path, SAMPLES, ["sample_id", "prompt_id", "prompt"]):
        numbers.append(_numbers(path, batch.column("sample_id")))
        owners.append(_numbers(path, batch.column("prompt_id")))
        # Texts of prompts that are new only: a prompt has many samples.
        found, first = np.unique(owners[-1], return_index=True)
        place = np.searchsorted(known, found)
        new = np.append(known, np.uint64(0))[place] != found
        texts.append((found[new], batch.column("prompt").take(pa.array(first[new]))))
        known = np.insert(known, place[new], found[new])
    number, owner = _joined(numbers, np.uint64), _joined(owners, np.uint64)
    order = np.argsort(number)
    number = number[order]
    twice = np.flatnonzero(number[1:] == number[:-1])
    if len(twice):
        raise DataError(f"sample 's_{number[twice[0]]:016x}' stands twice", file=path)
    arrived = _joined([found for found, _ in texts], np.uint64)
    prompts = pa.concat_arrays([text for _, text in texts] or [pa.array([], pa.string())])
    return Samples(
        number,
        np.searchsorted(known, owner[order]).astype(np.int32),
        known,
        prompts.take(pa.array(np.argsort(arrived))),
    )


@dataclass(frozen=True)
class Piece:
    """Some rows of a table, and how to say which one is meant."""

    path: Path
    first: int
    """Number of the first row in the table."""
    batch: pa.RecordBatch

    def place(self, row: int) -> str:
        """`row 7, pair c_...`: the first column names the row."""
        name = self.batch.schema.names[0]
        return f"row {self.first + row}, {name.removesuffix('_id')} {self.batch.column(0)[row]}"

    def refuse(
        self, wrong: Bool[np.ndarray, " n"], what: Callable[[int], str], allowed: str = ""
    ) -> None:
        """Name the first row that is wrong.

        Raises:
            DataError: there is one.
        """
        rows = np.flatnonzero(wrong)
        if len(rows):
            row = int(rows[0])
            raise DataError(what(row), file=self.path, place=self.place(row), allowed=allowed)

    def one_of(self, name: str, allowed: tuple[str, ...]) -> Int[np.ndarray, " n"]:
        """Place of each text of a column in `allowed`."""
        column = self.batch.column(name)
        codes = pc.fill_null(pc.index_in(column, pa.array(allowed)), -1).to_numpy()
        self.refuse(codes < 0, lambda row: f"unknown {name} '{column[row]}'", ", ".join(allowed))
        return codes.astype(np.int8)


@dataclass
class TableReader:
    """Reads tables that name samples; what it learns of one table it holds the next ones to."""

    folder: Path
    samples: Samples
    annotators: Codes = field(default_factory=Codes)
    categories: Codes = field(default_factory=Codes)
    questions: Codes = field(default_factory=Codes)

    def __post_init__(self) -> None:
        self._split_of = np.full(len(self.samples.prompt_number), -1, np.int8)

    def read(
        self,
        schema: TableSchema,
        sides: tuple[str, ...],
        columns: tuple[str, ...],
        check: Callable[[Piece, dict[str, np.ndarray]], None] = lambda piece, found: None,
    ) -> dict[str, np.ndarray]:
        """Columns of a table by name; those in `sides` as rows of `samples`.

        Raises:
            DataError: a split, a label or a sample is unknown, a sample is of another prompt, a
                number is none, or what `check` raises.
            QuarantinedData: a prompt stands in two splits.
        """
        path = self.folder / f"{schema.name}.parquet"
        wanted = [schema.columns.names[0], "prompt_id", "split", *sides, *columns]
        pieces: list[dict[str, np.ndarray]] = []
        first = 0
        for batch in read_batches(path, schema, list(dict.fromkeys(wanted))):
            piece = Piece(path, first, batch)
            pieces.append(self._columns(piece, sides, columns))
            check(piece, pieces[-1])
            first += batch.num_rows
        names = ("split", *sides, *columns)
        return {
            name: np.concatenate([piece[name] for piece in pieces])
            if pieces
            else np.zeros(0, np.int32)
            for name in names
        }

    def _columns(
        self, piece: Piece, sides: tuple[str, ...], columns: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        found = {"split": piece.one_of("split", SPLITS)}
        owner = _numbers(piece.path, piece.batch.column("prompt_id"))
        for side in sides:
            found[side] = self._rows_of(piece, side, owner)
        self._check_splits(piece, found[sides[0]], found["split"])
        for name in columns:
            found[name] = self._column(piece, name)
        return found

    def _column(self, piece: Piece, name: str) -> np.ndarray:
        column = piece.batch.column(name)
        codes: Mapping[str, Codes] = {
            "annotator": self.annotators,
            "category": self.categories,
            "question": self.questions,
        }
        if name in codes:
            return codes[name].encode(column)
        if name == "label":
            return piece.one_of("label", LABELS)
        if name == "ranking_id":
            # An empty one is 0, which no hash is.
            return _numbers(piece.path, pc.if_else(pc.equal(column, ""), NO_RANKING, column))
        values: np.ndarray = column.to_numpy()
        piece.refuse(~np.isfinite(values), lambda row: f"{name} is {values[row]}", "a number")
        return values

    def _rows_of(
        self, piece: Piece, side: str, owner: UInt64[np.ndarray, " n"]
    ) -> Int[np.ndarray, " n"]:
        numbers, samples = _numbers(piece.path, piece.batch.column(side)), self.samples
        if not len(samples.number):
            raise DataError("holds no sample", file=self.folder / "samples.parquet")
        rows = np.searchsorted(samples.number, numbers).clip(max=len(samples.number) - 1)
        name = piece.batch.column(side)
        piece.refuse(
            samples.number[rows] != numbers, lambda row: f"'{name[row]}' is not in samples.parquet"
        )
        piece.refuse(
            samples.prompt_number[samples.prompt[rows]] != owner,
            lambda row: f"'{name[row]}' was drawn for another prompt",
        )
        return rows.astype(np.int32)

    def _check_splits(
        self, piece: Piece, rows: Int[np.ndarray, " n"], split: Int[np.ndarray, " n"]
    ) -> None:
        prompt = self.samples.prompt[rows]
        unique, first = np.unique(prompt, return_index=True)
        new = self._split_of[unique] < 0
        self._split_of[unique[new]] = split[first[new]]
        wrong = np.flatnonzero(self._split_of[prompt] != split)
        if len(wrong):
            row = wrong[0]
            raise QuarantinedData(
                f"{piece.path}: {piece.place(row)}: prompt {piece.batch.column('prompt_id')[row]} "
                f"stands in the splits '{SPLITS[self._split_of[prompt[row]]]}' and "
                f"'{SPLITS[split[row]]}'; allowed: one split a prompt"
            )


def _numbers(path: Path, column: pa.StringArray) -> UInt64[np.ndarray, " n"]:
    try:
        return id_numbers(column)
    except DataError as error:
        raise DataError(str(error), file=path) from None


def _joined(pieces: Sequence[np.ndarray], kind: type[np.generic]) -> np.ndarray:
    return np.concatenate(pieces) if pieces else np.zeros(0, kind)
