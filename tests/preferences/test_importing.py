"""Pairs that somebody brings in Pick-a-Pic's column names, and what all sources have in common."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from components.preferences.importing import fit_square
from tests.preferences.brought import COLOURS, Tables, import_, picture, write_pictures
from tests.support.rooms import Project

ROWS: list[dict[str, Any]] = [
    {"caption": "a cat", "image_0": "red", "image_1": "green", "label_0": 1, "label_1": 0},
    {"caption": " A  Cat", "image_0": "green", "image_1": "blue", "label_0": 0, "label_1": 1},
    {"caption": "a cat", "image_0": "green", "image_1": "red", "label_0": 0.5, "label_1": 0.5},
    {"caption": "a new one", "image_0": "red", "image_1": "blue", "label_0": 0.25, "label_1": 0.75},
]


def write_labels(folder: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    write_pictures(folder / "pictures", *(f"{colour}.png" for colour in COLOURS))
    if kind == "parquet":
        content = [
            {**row, "image_0": picture(row["image_0"]), "image_1": picture(row["image_1"])}
            for row in rows
        ]
        content = [
            {**row, "label_0": float(row["label_0"]), "label_1": float(row["label_1"])}
            for row in content
        ]
        pq.write_table(pa.Table.from_pylist(content), folder / "labels.parquet")
        return
    paths = [
        {
            **row,
            "image_0": f"pictures/{row['image_0']}.png",
            "image_1": f"pictures/{row['image_1']}.png",
        }
        for row in rows
    ]
    with (folder / f"labels.{kind}").open("w", newline="") as file:
        if kind == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in paths)
        else:
            writer = csv.DictWriter(file, list(paths[0]))
            writer.writeheader()
            writer.writerows(paths)


def source(kind: str, **more: Any) -> dict[str, Any]:
    return {"layout": "pick_a_pic", "path": f"brought/labels.{kind}", **more}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_brought_pairs_become_samples_and_judgements(project: Project, kind: str) -> None:
    people = ["ann", "bob", "bob", "ann"]
    rows = [{**row, "user_id": name} for row, name in zip(ROWS, people, strict=True)]
    write_labels(project.root / "brought", kind, rows)
    assert import_(project, source(kind)) == 0
    found = Tables(project)
    # Three pictures of the known prompt, two of the new one; a picture belongs to its prompt.
    assert Counter(row["prompt"] for row in found.samples) == {"a cat": 3, "a new one": 2}
    assert found.said() == [
        ("red", "green", 1.0, "ann"),
        ("green", "blue", 0.0, "bob"),
        ("green", "red", 0.5, "bob"),
        ("red", "blue", 0.25, "ann"),
    ]
    # A soft label keeps its share; its word is the side with more than half.
    assert [row["label"] for row in found.pairs] == ["a", "b", "tie", "b"]
    assert found.pairs[0]["pair_id"] == found.pairs[2]["pair_id"]
    # The known caption keeps its category and its split, so that nothing leaks.
    places = {row["prompt"]: (row["category"], row["split"]) for row in found.pairs}
    assert places["a cat"] == ("plain", "test")
    assert places["a new one"][0] == "imported"
    assert found.colours().keys() == {row["sample_id"] for row in found.samples}
    assert Counter(row["shard"] for row in found.samples) == {"00000": 2, "00001": 2, "00002": 1}
    assert not (found.folder / "latents").exists()
    report = found.report
    assert (report["pairs"], report["judgements"], report["tie_fraction"]) == (3, 4, 0.25)
    assert report["agreement"] == 0.0
    assert "skipped" not in report


def test_pictures_stay_the_bytes_that_they_are_or_are_cut_to_a_square(
    new_project: Callable[[str], Project],
) -> None:
    from components.contracts.artifacts import read_image_shard

    for size, expected in ((None, (3, 24, 40)), (16, (3, 16, 16))):
        project = new_project(str(size))
        write_labels(project.root / "brought", "csv", ROWS)
        assert import_(project, source("csv", image_size=size), images_per_shard=9) == 0
        path = project.root / "data/preferences/images/images-00000.tar"
        assert {image.shape for image in read_image_shard(path).values()} == {expected}
        assert (picture("red") in path.read_bytes()) == (size is None)


def test_two_imports_give_the_same_bytes(new_project: Callable[[str], Project]) -> None:
    contents = []
    for name in ("first", "second"):
        project = new_project(name)
        write_labels(project.root / "brought", "csv", ROWS)
        assert import_(project, source("csv")) == 0
        contents.append(project.files("data/preferences", "reports"))
    assert contents[0] == contents[1]


def test_new_captions_are_spread_over_the_splits_whatever_their_spelling(project: Project) -> None:
    rows = [{**ROWS[0], "caption": f"caption {number}"} for number in range(300)]
    rows += [{**ROWS[0], "caption": f"  Caption   {number}"} for number in range(300)]
    write_labels(project.root / "brought", "parquet", rows)
    fractions = {"validation_fraction": 0.2, "test_fraction": 0.3}
    assert import_(project, source("parquet"), **fractions, images_per_shard=1000) == 0
    pairs = Tables(project).pairs
    found = Counter(row["split"] for row in pairs[:300])
    assert found["validation"] / 300 == pytest.approx(0.2, abs=0.08)
    assert found["test"] / 300 == pytest.approx(0.3, abs=0.09)
    assert [row["split"] for row in pairs[300:]] == [row["split"] for row in pairs[:300]]


def test_several_sources_share_their_prompts_and_pictures(project: Project) -> None:
    root = project.root / "brought"
    write_labels(root, "csv", ROWS)
    rows = [
        {"caption": "a cat", "image": f"pictures/{colour}.png", "value": value}
        for colour, value in (("red", 5), ("grey", 2))
    ]
    (root / "ratings.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rating = {"layout": "table", "path": "brought/ratings.jsonl", "kind": "ratings"}
    rating |= {"question": "quality", "low": 1.0, "high": 5.0, "steps": 5}
    assert import_(project, [source("csv"), rating]) == 0
    found = Tables(project)
    assert Counter(row["prompt"] for row in found.samples) == {"a cat": 4, "a new one": 2}
    colours = found.colours()
    assert [(colours[row["sample_id"]], row["value"]) for row in found.ratings] == [
        ("red", 5.0),
        ("grey", 2.0),
    ]
    assert found.report["annotators"] == 1


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({"image_0": "pictures/gone.png"}, "gone.png' cannot be read"),
    "no picture": ({"image_1": "pictures/text.png"}, "line 2, image_1: image does not decode"),
    "half a picture": ({"image_1": "pictures/half.png"}, "line 2, image_1: image does not decode"),
    "no path": ({"image_0": ""}, "image_0 is empty"),
    "folder": ({"image_0": "pictures"}, "pictures' cannot be read"),
    "both win": ({"label_1": 1}, "label_0 and label_1 are 1 and 1; allowed: 1 and 0"),
    "no label": ({"label_0": None}, "label_0 and label_1 are None and 0"),
    "a word": ({"label_0": "left"}, "label_0 and label_1 are left and 0"),
    "no number": ({"label_0": float("nan")}, "label_0 and label_1 are nan and 0"),
    "too much": ({"label_0": 1.5, "label_1": -0.5}, "label_0 and label_1 are 1.5 and -0.5"),
    "no caption": ({"caption": " \u200b"}, "caption is empty"),
    "itself": ({"image_1": "pictures/red.png"}, "compares a picture with itself"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_file_and_row_and_earlier_outputs_stay(
    project: Project, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, expected = FAULTS[name]
    folder = project.root / "brought"
    write_labels(folder, "csv", ROWS)
    (folder / "pictures/text.png").write_text("no picture")
    (folder / "pictures/half.png").write_bytes(picture("red")[:60])
    good = {**ROWS[0], "image_0": "pictures/red.png", "image_1": "pictures/green.png"}
    rows = [good, {**good, **change}]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    earlier = project.root / "data/preferences/pairs.parquet"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"earlier")
    assert import_(project, source("jsonl")) == 2
    *above, error = capsys.readouterr().err.splitlines()
    assert all(line.startswith("importing labels of ") for line in above)
    assert error.startswith("error: preferences: ")
    assert "labels.jsonl: line 2" in error
    assert expected in error
    assert project.files("data/preferences") == {"data/preferences/pairs.parquet": b"earlier"}


def test_a_truncated_parquet_file_leaves_earlier_outputs(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels(project.root / "brought", "parquet", ROWS * 40)
    path = project.root / "brought/labels.parquet"
    content = path.read_bytes()
    for keep in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        assert import_(project, source("parquet")) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "labels.parquet: is truncated or not a parquet file" in error
    assert not (project.root / "data/preferences").exists()
    assert not list((project.root / "data").glob(".*"))


def test_damage_in_the_middle_of_a_parquet_file(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels(project.root / "brought", "parquet", ROWS * 40)
    path = project.root / "brought/labels.parquet"
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    assert import_(project, source("parquet")) == 2
    assert "labels.parquet" in capsys.readouterr().err.splitlines()[-1]
    assert not (project.root / "data/preferences").exists()


def test_pictures_as_the_datasets_library_stores_them(project: Project) -> None:
    (project.root / "brought").mkdir()
    images = [{"bytes": picture(colour), "path": None} for colour in ("red", "green")]
    row = {**ROWS[0], "image_0": images[0], "image_1": images[1]}
    pq.write_table(pa.Table.from_pylist([row]), project.root / "brought/labels.parquet")
    assert import_(project, source("parquet")) == 0
    assert [pair["annotator"] for pair in Tables(project).pairs] == ["unknown"]


SETTINGS_FAULTS: dict[str, tuple[Any, str]] = {
    "layout": ({"layout": "coco", "path": "x"}, "label_source: input tag 'coco' found"),
    "no layout": ({"path": "x"}, "label_source: unable to extract tag using discriminator"),
    "key": (
        {"layout": "hpd", "path": "x", "imges": "y"},
        "imges: unknown key; allowed: image",
    ),
    "no source": ([], "label_source: tuple should have at least 1 item"),
    "twice": ([source("csv")] * 2, "two sources are the same"),
    "scale": (
        {"layout": "table", "path": "x", "kind": "ratings", "low": 2.0},
        "low must be below high",
    ),
    "kind": ({"layout": "table", "path": "x", "kind": "votes"}, "kind: input should be 'pairs'"),
}


@pytest.mark.parametrize("name", SETTINGS_FAULTS)
def test_a_source_that_is_none_is_refused(
    project: Project, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    given, expected = SETTINGS_FAULTS[name]
    assert import_(project, given) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "params.yaml: line " in error
    assert f"preferences.{expected}" in error or expected in error


def test_the_central_square_is_kept_and_scaled() -> None:
    wide = torch.zeros(3, 8, 24, dtype=torch.uint8)
    wide[:, :, 8:16] = 200
    assert torch.equal(fit_square(wide, 8), torch.full((3, 8, 8), 200, dtype=torch.uint8))
    assert torch.equal(fit_square(wide, 4), torch.full((3, 4, 4), 200, dtype=torch.uint8))
    tall = wide.transpose(1, 2)
    assert torch.equal(fit_square(tall, 16), torch.full((3, 16, 16), 200, dtype=torch.uint8))
