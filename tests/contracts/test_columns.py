"""Tables that are written row by row, and texts and ids as numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.contracts.codes import Codes
from components.contracts.errors import DataError
from components.contracts.ids import id_number, id_numbers, pair_id, ranking_id, sample_id
from components.contracts.tables import (
    GROUP_ROWS,
    PAIRS,
    PROMPTS,
    RATINGS,
    TableWriter,
    label_of,
    read_batches,
    read_table,
    write_table,
)


def prompt(number: int) -> dict[str, Any]:
    return {
        "prompt_id": f"p_{number:016x}",
        "prompt": f"number {number}",
        "category": "a",
        "source": "b",
        "num_tokens": number,
    }


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    rows = [prompt(number) for number in range(2 * GROUP_ROWS + 3)]
    for name, size in (("at_once", len(rows)), ("in_pieces", 777)):
        writer = TableWriter(tmp_path / name, PROMPTS)
        for start in range(0, len(rows), size):
            writer.append(rows[start : start + size])
        writer.close()
        assert writer.num_rows == len(rows)
    assert (tmp_path / "at_once").read_bytes() == (tmp_path / "in_pieces").read_bytes()
    assert pq.ParquetFile(tmp_path / "at_once").num_row_groups == 3
    table = read_table(tmp_path / "at_once", PROMPTS)
    assert table.to_pylist() == rows
    assert read_table(tmp_path / "at_once", PROMPTS, ["prompt"]).column_names == ["prompt"]
    pieces = list(read_batches(tmp_path / "at_once", PROMPTS, ["num_tokens"]))
    assert len(pieces) == 3
    assert sum(piece.num_rows for piece in pieces) == len(rows)


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    TableWriter(tmp_path / "a.parquet", RATINGS).close()
    assert read_table(tmp_path / "a.parquet", RATINGS).num_rows == 0
    assert list(read_batches(tmp_path / "a.parquet", RATINGS, ["value"])) == []


@pytest.mark.parametrize(
    "row",
    [
        {"prompt_id": "p"},
        {**prompt(1), "prompt": None},
        {**prompt(1), "num_tokens": 2**40},
        {**prompt(1), "num_tokens": "many"},
    ],
)
def test_a_row_that_does_not_fit_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    writer = TableWriter(tmp_path / "a.parquet", PROMPTS)
    writer.append([prompt(0), row])
    with pytest.raises(DataError, match=r"does not fit schema 'prompts' .*; allowed: prompt_id"):
        writer.close()


def test_an_older_version_is_refused_with_the_one_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    older = pa.schema([("pair_id", pa.string())], {"konomi_table": "pairs", "schema_version": "1"})
    pq.write_table(pa.Table.from_pylist([], schema=older), path)
    with pytest.raises(DataError, match=r"table 'pairs' version 1; allowed: 'pairs' version 2"):
        read_table(path, PAIRS)
    with pytest.raises(DataError, match=r"allowed: 'pairs' version 2"):
        next(read_batches(path, PAIRS, ["pair_id"]))
    write_table(path, pa.Table.from_pylist([prompt(1)]), PROMPTS)
    with pytest.raises(DataError, match=r"table 'prompts' version 1"):
        read_table(path, PAIRS)


def test_a_label_is_the_side_with_more_than_half() -> None:
    shares = (0.0, 0.49, 0.5, 0.51, 1.0)
    assert [label_of(share) for share in shares] == ["b", "b", "tie", "a", "a"]


def test_ids_as_numbers_sort_as_their_texts_do() -> None:
    names = [sample_id("p", "model", seed) for seed in range(500)]
    column = pa.array(names)
    numbers = id_numbers(column)
    assert numbers.dtype == np.uint64
    assert numbers.tolist() == [int(name[2:], 16) for name in names]
    assert numbers.tolist() == [id_number(name) for name in names]
    assert [names[row] for row in np.argsort(numbers)] == sorted(names)
    assert id_numbers(column.slice(7, 50)).tolist() == numbers[7:57].tolist()
    assert id_numbers(pa.array([], pa.string())).tolist() == []
    assert id_numbers(pa.array(["c_0000000000000000", "c_ffffffffffffffff"])).tolist() == [
        0,
        2**64 - 1,
    ]


@pytest.mark.parametrize(
    "name", ["s_12", "s_0123456789ABCDEF", "0123456789abcdef12", "é_123456789abcdef", "", None]
)
def test_what_is_no_id_is_named(name: str | None) -> None:
    good = pair_id("a", "b")
    with pytest.raises(DataError, match="is no id; allowed: a letter, _ and 16 hexadecimal digits"):
        id_numbers(pa.array([good, name, good], pa.string()))


def test_a_ranking_has_an_id_of_its_own() -> None:
    names = {
        ranking_id(prompt, person, name)
        for prompt in ("p_1", "p_2")
        for person in ("ann", "ben")
        for name in ("", "1")
    }
    assert len(names) == 8
    assert all(name.startswith("r_") and id_number(name) for name in names)


def test_codes_number_texts_as_they_are_met() -> None:
    codes = Codes(("train",))
    assert codes.encode(pa.array(["b", "a", "b", "train"])).tolist() == [1, 2, 1, 0]
    assert codes.encode(pa.array(["c", "a"])).tolist() == [3, 2]
    assert codes.encode(pa.array([], pa.string())).tolist() == []
    assert codes.names == ("train", "b", "a", "c")
