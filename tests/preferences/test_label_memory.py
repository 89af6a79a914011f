"""Labels pass through: three times as many of them do not take three times the memory.

`benchmarks/label_streaming.py` measures the slope at a million pairs. Here a few thousand with
larger pictures tell in seconds whether somebody holds them: in the file a pair takes 24 KB.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.label_streaming import STEPS, measure, write_labels

SIDE = 64
FEW, MANY = 1000, 3000
"""The fewer fill one page of the file, which a reader has to hold."""
MAX_BYTES_PER_PAIR = 4000
"""A sixth of its two pictures. Rows that wait to be written take some 1500, until there are 4096 of
them; the benchmark shows what is left of the slope at a million."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    found = {rows: tmp_path_factory.mktemp(f"labels_{rows}") for rows in (FEW, MANY)}
    for rows, root in found.items():
        write_labels(root / "brought.parquet", rows, SIDE)
    return found


@pytest.mark.parametrize("step", STEPS)
def test_memory_does_not_grow_with_the_pairs(roots: dict[int, Path], step: str) -> None:
    if step == "read" and not (roots[MANY] / "data/preferences").exists():
        pytest.skip("the import failed")
    assert (roots[MANY] / "brought.parquet").stat().st_size > 24_000 * MANY
    few, many = (measure(step, root, SIDE, 1)["peak_megabytes"] for root in roots.values())
    slope = (many - few) * 2**20 / (MANY - FEW)
    assert slope < MAX_BYTES_PER_PAIR, f"{few} MB for {FEW} pairs, {many} MB for {MANY}"
