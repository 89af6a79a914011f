"""The layout `table`: pairs with soft labels, rankings and ratings in a file of one's own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.preferences.brought import COLOURS, Tables, import_, picture, write_pictures
from tests.support.rooms import Project

PAIRS: list[dict[str, Any]] = [
    {"caption": "a cat", "image_a": "red.png", "image_b": "blue.png", "preference": 0.7},
    {"caption": "a dog", "image_a": "red.png", "image_b": "grey.png", "preference": 0.0},
]
RANKINGS: list[dict[str, Any]] = [
    {"ranking": "one", "caption": "a cat", "image": "red.png", "rank": 1},
    {"ranking": "one", "caption": "a cat", "image": "blue.png", "rank": 2},
    {"ranking": "one", "caption": "a cat", "image": "grey.png", "rank": 2},
    {"ranking": "two", "caption": "a cat", "image": "blue.png", "rank": 3},
    {"ranking": "two", "caption": "a cat", "image": "red.png", "rank": 8},
]
RATINGS: list[dict[str, Any]] = [
    {"caption": "a cat", "image": "red.png", "value": 1},
    {"caption": "a cat", "image": "blue.png", "value": 0},
]
ROWS = {"pairs": PAIRS, "rankings": RANKINGS, "ratings": RATINGS}


def write_rows(project: Project, rows: list[dict[str, Any]], kind: str = "csv") -> Path:
    folder = project.root / "own"
    write_pictures(folder, *(f"{colour}.png" for colour in COLOURS))
    path = folder / f"labels.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def source(kind: str, suffix: str = "csv", **more: Any) -> dict[str, Any]:
    return {"layout": "table", "path": f"own/labels.{suffix}", "kind": kind, **more}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_pairs_with_soft_labels(project: Project, suffix: str) -> None:
    rows = [{**row, "annotator": "ann", "category": "pets"} for row in PAIRS]
    write_rows(project, rows, suffix)
    assert import_(project, source("pairs", suffix)) == 0
    found = Tables(project)
    assert found.said() == [
        ("red", "blue", pytest.approx(0.7), "ann"),
        ("red", "grey", 0.0, "ann"),
    ]
    assert [row["label"] for row in found.pairs] == ["a", "b"]
    assert {row["prompt"]: row["category"] for row in found.pairs} == {
        "a cat": "plain",
        "a dog": "pets",
    }


def test_a_share_that_is_a_half_where_it_is_stored_is_a_tie(project: Project) -> None:
    write_rows(project, [{**PAIRS[0], "preference": 0.5 + 1e-9}])
    assert import_(project, source("pairs")) == 0
    (row,) = Tables(project).pairs
    assert (row["preference"], row["label"]) == (0.5, "tie")


def test_rankings(project: Project) -> None:
    write_rows(project, [{**row, "annotator": "bob"} for row in RANKINGS])
    assert import_(project, source("rankings")) == 0
    found = Tables(project)
    colours = found.colours()
    assert [(colours[row["sample_id"]], row["rank"]) for row in found.rankings] == [
        ("red", 1),
        ("blue", 2),
        ("grey", 2),
        ("blue", 3),
        ("red", 8),
    ]
    assert [len({row["ranking_id"] for row in rows}) for rows in (found.rankings, found.pairs)] == [
        2,
        2,
    ]
    assert found.said() == [
        ("red", "blue", 1.0, "bob"),
        ("red", "grey", 1.0, "bob"),
        ("blue", "grey", 0.5, "bob"),
        ("blue", "red", 1.0, "bob"),
    ]


@pytest.mark.parametrize(
    ("scale", "values"),
    [
        ({}, [0, 1]),
        ({"low": 1.0, "high": 5.0, "steps": 5}, [1, 4]),
        ({"low": -3.0, "high": 3.0, "steps": 7}, [-3, 2]),
        ({"low": 0.0, "high": 10.0, "steps": 0}, [0.123, 10.0]),
    ],
)
def test_ratings(project: Project, scale: dict[str, Any], values: list[float]) -> None:
    rows = [{**row, "value": value} for row, value in zip(RATINGS, values, strict=True)]
    rows[0]["question"] = "alignment"
    write_rows(project, rows, "jsonl")
    assert import_(project, source("ratings", "jsonl", **scale)) == 0
    found = Tables(project).ratings
    assert [row["value"] for row in found] == pytest.approx(values)
    assert [row["question"] for row in found] == ["alignment", "good"]
    assert {(row["low"], row["high"], row["steps"]) for row in found} == {
        (scale.get("low", 0.0), scale.get("high", 1.0), scale.get("steps", 2))
    }


def test_ratings_alone_have_no_figures_of_pairs(project: Project) -> None:
    write_rows(project, RATINGS)
    assert import_(project, source("ratings")) == 0
    report = Tables(project).report
    assert (report["ratings"], report["judgements"], report["pairs"]) == (2, 0, 0)
    assert report["decided_fraction"] is report["agreement"] is None


FAULTS: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "above": ("pairs", 1, {"preference": 1.01}, "line 3: preference is '1.01'; allowed: a share"),
    "below": ("pairs", 1, {"preference": -0.1}, "line 3: preference is '-0.1'"),
    "NaN": ("pairs", 0, {"preference": "nan"}, "line 2: preference is 'nan'"),
    "no share": ("pairs", 0, {"preference": ""}, "line 2: preference is ''"),
    "no picture": ("pairs", 0, {"image_b": ""}, "line 2: image_b is empty"),
    "itself": ("pairs", 0, {"image_b": "red.png"}, "line 2: compares a picture with itself"),
    "half a rank": ("rankings", 1, {"rank": 1.5}, "line 3: rank is '1.5'; allowed: a whole number"),
    "no name": ("rankings", 0, {"ranking": ""}, "line 2: ranking is ''"),
    "alone": ("rankings", 4, {"ranking": "three"}, "line 5: ranking is 'two'; allowed: two pict"),
    "twice": ("rankings", 2, {"image": "blue.png"}, "line 2: ranks a picture twice"),
    "apart": ("rankings", 3, {"ranking": "one", "image": "white.png"}, "line 6: ranking is"),
    "two captions": (
        "rankings",
        1,
        {"caption": "a dog"},
        "line 3: caption is 'a dog'",
    ),
    "off scale": (
        "ratings",
        1,
        {"value": 2},
        "line 3: value is '2'; allowed: a number from",
    ),
    "between": (
        "ratings",
        1,
        {"value": 0.5},
        "line 3: value is '0.5'; allowed: a number",
    ),
    "no value": ("ratings", 1, {"value": "x"}, "line 3: value is 'x'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_its_line(
    project: Project, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    kind, row, change, expected = FAULTS[name]
    rows = [dict(found) for found in ROWS[kind]]
    rows[row] |= change
    write_rows(project, rows)
    assert import_(project, source(kind)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"own/labels.csv: {expected}" in error


def test_a_ranking_that_stands_twice(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(project, [*RANKINGS, *RANKINGS[:3]])
    assert import_(project, source("rankings")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "line 7: ranking 'one' stands twice; allowed: all rows of a ranking one after" in error


@pytest.mark.parametrize("kind", ROWS)
def test_columns_are_exactly_these(
    project: Project, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    write_rows(project, [{**row, "anotator": "ann"} for row in ROWS[kind]])
    assert import_(project, source(kind)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "line 1: unknown column 'anotator'; allowed: " in error
    assert "annotator, category" in error
    rows = [{key: value for key, value in row.items() if key != "caption"} for row in ROWS[kind]]
    write_rows(project, rows)
    assert import_(project, source(kind)) == 2
    assert "no column 'caption'" in capsys.readouterr().err.splitlines()[-1]


def test_pictures_as_bytes(project: Project) -> None:
    rows = [{**row, "image": picture(row["image"][:-4], "WEBP")} for row in RATINGS]
    write_rows(project, rows, "parquet")
    assert import_(project, source("ratings", "parquet")) == 0
    assert sorted(Tables(project).colours().values()) == ["blue", "red"]
