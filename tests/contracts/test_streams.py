"""Files of any size are read piece by piece; their faults name file and place."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.contracts import streams
from components.contracts.errors import DataError
from components.contracts.rows import column_names, read_rows
from components.contracts.streams import read_json_items


def items_of(path: Path) -> list[tuple[str, dict[str, object]]]:
    return list(read_json_items(path))


def test_items_of_a_json_list_whatever_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [{"n": n, "text": 'ä, "]" } ' + "x" * n, "list": [[n], {}]} for n in range(20)]
    path = tmp_path / "a.json"
    for indent in (None, 2):
        path.write_text(" \n" + json.dumps(items, indent=indent, ensure_ascii=False) + "\n")
        for size in (3, 7, 100, 1 << 20):
            monkeypatch.setattr(streams, "BUFFER_BYTES", size)
            assert items_of(path) == [(f"item {n + 1}", item) for n, item in enumerate(items)]


FAULTS = {
    "cut in an item": ('[{"a": 1}, {"a"', "item 2: is not json"),
    "cut behind an item": ('[{"a": 1}, ', "item 2: is not json"),
    "no list": ('{"a": 1}', "is no json list"),
    "empty file": ("", "is no json list"),
    "empty list": ("[]", "holds no items"),
    "a number": ('[{"a": 1}, 2]', "item 2: is no json object"),
    "a fault inside": ('[{"a": 1}, {"a": nul}, {"a": 2}]', "item 2: is not json"),
    "too deep": ("[" + '{"a":' * 100_000, "item 1: is not json: nested too deeply"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_a_json_list(tmp_path: Path, name: str) -> None:
    content, expected = FAULTS[name]
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=expected) as caught:
        items_of(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8_are_found_far_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\n" + b"1,2\n" * 5000 + b"3,\xff\n" + b"1,2\n" * 5000)
    with pytest.raises(DataError, match=r"line 5002: byte 0xff is not UTF-8"):
        list(read_rows(path, ("a", "b")))
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"a": "\xe4"}]')
    with pytest.raises(DataError, match=r"line 1: byte 0xe4 is not UTF-8"):
        items_of(path)


def test_other_columns_are_refused_where_the_form_is_closed(tmp_path: Path) -> None:
    for name, content in {
        "a.csv": "a,b,c\n1,2,3\n",
        "a.jsonl": '{"a": 1, "b": 2, "c": 3}\n',
    }.items():
        path = tmp_path / name
        path.write_text(content)
        assert column_names(path) == ["a", "b", "c"]
        assert len(list(read_rows(path, ("a",), ("b", "d")))) == 1
        with pytest.raises(DataError, match=r"line 1: unknown column 'c'; allowed: a, b, d"):
            list(read_rows(path, ("a",), ("b", "d"), closed=True))


def test_a_row_group_of_pictures_is_not_read_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows, size = 1000, 20_000
    noise = np.random.default_rng(0)
    table = pa.table({"n": range(rows), "jpg": [noise.bytes(size) for _ in range(rows)]})
    # One row group of small pages: no reader has to hold more than some of them.
    pq.write_table(table, path, row_group_size=rows, use_dictionary=False, write_batch_size=16)
    del table
    pool = pa.default_memory_pool()
    pool.release_unused()
    held = pool.bytes_allocated()
    seen = peak = 0
    for row in read_rows(path, ("n", "jpg")):
        assert row.values["n"] == seen
        seen, peak = seen + 1, max(peak, pool.bytes_allocated() - held)
    assert seen == rows
    assert peak < rows * size / 3


def test_lines_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text((json.dumps({"a": "x" * 1000}) + "\n") * 20_000)
    tracemalloc.start()
    assert sum(1 for _ in read_rows(path, ("a",))) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
