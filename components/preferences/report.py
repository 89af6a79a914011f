"""The figures of stage 2, from the tables that it has written, read in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from components.contracts.codes import Codes
from components.contracts.ids import id_numbers
from components.contracts.tables import PAIRS, RANKINGS, RATINGS, SAMPLES, TableSchema, read_batches
from components.preferences.agreement import krippendorff_alpha, label_noise, raw_agreement
from components.preferences.records import SPLITS

LOWER, HIGHER, TIE = range(3)
"""Answers in terms that all judgements of a pair share, whatever the sides on which it was shown:
the sample with the lower or the higher id, or none."""


class _Judged(NamedTuple):
    """One entry a judgement, some 20 bytes each."""

    pair: Int[np.ndarray, " n"]
    annotator: Int[np.ndarray, " n"]
    answer: Int[np.ndarray, " n"]
    category: Int[np.ndarray, " n"]
    split: Int[np.ndarray, " n"]
    shown: Bool[np.ndarray, " n"]
    """False where the judgement was read off a ranking, in which nothing is shown first."""
    first: Bool[np.ndarray, " n"]
    """Whether a was chosen."""


class _Units(NamedTuple):
    """One entry a pair of samples, whoever judged it and on which sides."""

    counts: Int[np.ndarray, "u 3"]
    category: Int[np.ndarray, " u"]
    split: Int[np.ndarray, " u"]


def summarise(folder: Path, skipped: Mapping[str, int] | None = None) -> dict[str, Any]:
    """All figures of `data/preferences`, over everything, for each split and for each category.

    `first_side_fraction` is the share of decided judgements that chose the image shown first; far
    from 0.5 it is a side bias. A figure is null where nothing can be said: those of agreement where
    no pair was judged twice.

    Args:
        folder: with the four tables.
        skipped: how many labels of a source were left out, by reason.
    """
    categories, annotators = Codes(), Codes()
    judged = _read_pairs(folder / "pairs.parquet", categories, annotators)
    units = _units(judged)
    samples = _distinct(folder / "samples.parquet", SAMPLES, "sample_id")
    for table, schema in (("rankings", RANKINGS), ("ratings", RATINGS)):
        for batch in read_batches(folder / f"{table}.parquet", schema, ["annotator"]):
            annotators.encode(batch.column("annotator"))
    return {
        "prompts": _distinct(folder / "samples.parquet", SAMPLES, "prompt_id"),
        "samples": samples,
        "annotators": len(annotators.names),
        "rankings": _distinct(folder / "rankings.parquet", RANKINGS, "ranking_id"),
        "ratings": _rows(folder / "ratings.parquet", RATINGS),
        **_figures(judged, units),
        **({"skipped": dict(skipped)} if skipped else {}),
        "splits": {
            split: figures
            for number, split in enumerate(SPLITS)
            if (figures := _part(judged, units, "split", number))
        },
        "categories": {
            category: _part(judged, units, "category", categories.names.index(category))
            for category in sorted(categories.names)
        },
    }


def _read_pairs(path: Path, categories: Codes, annotators: Codes) -> _Judged:
    columns = ["pair_id", "category", "split", "sample_id_a", "sample_id_b", "annotator"]
    splits = Codes(SPLITS)
    pieces = []
    for batch in read_batches(path, PAIRS, [*columns, "preference", "ranking_id"]):
        preference = batch.column("preference").to_numpy()
        a, b = (id_numbers(batch.column(f"sample_id_{side}")) for side in "ab")
        decided = np.where((preference > 0.5) == (a < b), LOWER, HIGHER)
        pieces.append(
            _Judged(
                id_numbers(batch.column("pair_id")),
                annotators.encode(batch.column("annotator")),
                np.where(preference == 0.5, TIE, decided).astype(np.int8),
                categories.encode(batch.column("category")),
                splits.encode(batch.column("split")).astype(np.int8),
                pc.equal(batch.column("ranking_id"), "").to_numpy(zero_copy_only=False),
                preference > 0.5,
            )
        )
    empty = np.zeros(0, np.int32)
    return (
        _Judged(*map(np.concatenate, zip(*pieces, strict=True)))
        if pieces
        else _Judged(*[empty] * 7)
    )


def _units(judged: _Judged) -> _Units:
    order = np.lexsort((judged.annotator, judged.pair))
    pair, annotator = judged.pair[order], judged.annotator[order]
    # Somebody who saw a pair twice is one annotator; the last answer counts. The sort is stable.
    last = np.ones(len(order), bool)
    last[:-1] = (pair[1:] != pair[:-1]) | (annotator[1:] != annotator[:-1])
    order, pair = order[last], pair[last]
    starts = np.ones(len(order), bool)
    starts[1:] = pair[1:] != pair[:-1]
    unit = np.cumsum(starts) - 1
    size = int(starts.sum())
    counts = np.bincount(unit * 3 + judged.answer[order], minlength=3 * size).reshape(size, 3)
    firsts = order[starts]
    return _Units(counts, judged.category[firsts], judged.split[firsts])


def _part(judged: _Judged, units: _Units, column: str, code: int) -> dict[str, Any]:
    """Figures of the rows of one split or category; empty where there are none."""
    rows, chosen = getattr(judged, column) == code, getattr(units, column) == code
    if not rows.any():
        return {}
    return _figures(
        _Judged(*(values[rows] for values in judged)), _Units(*(values[chosen] for values in units))
    )


def _figures(judged: _Judged, units: _Units) -> dict[str, Any]:
    decided = judged.answer != TIE
    shown = decided & judged.shown
    return {
        "pairs": len(units.counts),
        "judgements": len(decided),
        "decided_fraction": _share(decided),
        "tie_fraction": _share(~decided),
        "first_side_fraction": _share(judged.first[shown]),
        "pairs_with_several": int((units.counts.sum(axis=1) > 1).sum()),
        "agreement": raw_agreement(units.counts),
        "krippendorff_alpha": krippendorff_alpha(units.counts),
        "label_noise": label_noise(units.counts, TIE),
    }


def _share(found: Bool[np.ndarray, " n"]) -> float | None:
    return float(found.mean()) if len(found) else None


def _distinct(path: Path, schema: TableSchema, column: str) -> int:
    """How many different ids stand in a column."""
    pieces = [id_numbers(batch.column(column)) for batch in read_batches(path, schema, [column])]
    return len(np.unique(np.concatenate(pieces))) if pieces else 0


def _rows(path: Path, schema: TableSchema) -> int:
    return sum(batch.num_rows for batch in read_batches(path, schema, ["sample_id"]))
