"""Pairs that somebody brings, in every form that Pick-a-Pic's columns come in."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from components.contracts.artifacts import read_image_shard
from components.contracts.ids import prompt_id
from components.contracts.tables import PAIRS, PROMPTS, SAMPLES, read_table, write_table
from components.preferences.importing import fit_square
from tests.support.rooms import Project

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
ROWS: list[dict[str, Any]] = [
    {"caption": "a cat", "image_0": "red", "image_1": "green", "label_0": 1, "label_1": 0},
    {"caption": " A  Cat", "image_0": "green", "image_1": "blue", "label_0": 0, "label_1": 1},
    {"caption": "a cat", "image_0": "green", "image_1": "red", "label_0": 0.5, "label_1": 0.5},
    {"caption": "a new one", "image_0": "red", "image_1": "blue", "label_0": 0.0, "label_1": 1.0},
]


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 24), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


def write_prompts(project: Project) -> None:
    """One known prompt, in the test split."""
    for split in ("train", "validation", "test"):
        texts = ["a cat"] if split == "test" else [f"another {split}"]
        columns = {
            "prompt_id": [prompt_id(text) for text in texts],
            "prompt": texts,
            "category": ["plain"],
            "source": ["p.csv"],
            "num_tokens": [4],
        }
        path = project.root / f"data/prompts/{split}.parquet"
        write_table(path, pa.table(columns), PROMPTS)


def write_labels(folder: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for colour in COLOURS:
        (folder / f"pictures/{colour}.png").write_bytes(picture(colour))
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


def settings(kind: str, **more: Any) -> dict[str, Any]:
    source = {"path": f"brought/labels.{kind}", "image_size": 16, **more}
    return {"label_source": source, "images_per_shard": 2}


def read_all(project: Project) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    folder = project.root / "data/preferences"
    samples = read_table(folder / "samples.parquet", SAMPLES).to_pylist()
    return samples, read_table(folder / "pairs.parquet", PAIRS).to_pylist()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_brought_pairs_become_samples_and_judgements(project: Project, kind: str) -> None:
    write_prompts(project)
    people = ["ann", "bob", "bob", "ann"]
    rows = [{**row, "user_id": name} for row, name in zip(ROWS, people, strict=True)]
    write_labels(project.root / "brought", kind, rows)
    project.params(preferences=settings(kind))
    assert project.run("preferences") == 0
    samples, pairs = read_all(project)
    # Three pictures of the known prompt, two of the new one; a picture belongs to its prompt.
    assert Counter(sample["prompt"] for sample in samples) == {"a cat": 3, "a new one": 2}
    assert [row["label"] for row in pairs] == ["a", "b", "tie", "b"]
    assert [row["annotator"] for row in pairs] == people
    assert pairs[0]["pair_id"] == pairs[2]["pair_id"]
    assert (pairs[0]["sample_id_a"], pairs[0]["sample_id_b"]) == (
        pairs[2]["sample_id_b"],
        pairs[2]["sample_id_a"],
    )
    # The known caption keeps its category and its split, so that nothing leaks.
    places = {row["prompt"]: (row["category"], row["split"]) for row in pairs}
    assert places["a cat"] == ("plain", "test")
    assert places["a new one"][0] == "imported"
    colours = {}
    folder = project.root / "data/preferences"
    for shard in {sample["shard"] for sample in samples}:
        colours |= read_image_shard(folder / f"images/images-{shard}.tar")
    assert colours.keys() == {sample["sample_id"] for sample in samples}
    assert {image.shape for image in colours.values()} == {(3, 16, 16)}
    assert colours[pairs[0]["sample_id_a"]][:, 8, 8].tolist() == [250, 0, 0]
    assert colours[pairs[1]["sample_id_b"]][:, 8, 8].tolist() == [0, 0, 250]
    assert not (folder / "latents").exists()
    report = project.json("reports/preferences.json")
    assert (report["pairs"], report["judgements"], report["tie_fraction"]) == (3, 4, 0.25)
    assert report["agreement"] == 0.0


def test_two_imports_give_the_same_bytes(new_project: Callable[[str], Project]) -> None:
    contents = []
    for name in ("first", "second"):
        project = new_project(name)
        write_prompts(project)
        write_labels(project.root / "brought", "csv", ROWS)
        project.params(preferences=settings("csv"))
        assert project.run("preferences") == 0
        contents.append(project.files("data/preferences", "reports"))
    assert contents[0] == contents[1]


def test_new_captions_are_spread_over_the_splits(project: Project) -> None:
    write_prompts(project)
    rows = [{**ROWS[0], "caption": f"caption {number}"} for number in range(300)]
    write_labels(project.root / "brought", "parquet", rows)
    block = settings("parquet", validation_fraction=0.2, test_fraction=0.3)
    project.params(preferences={**block, "images_per_shard": 1000})
    assert project.run("preferences") == 0
    found = Counter(row["split"] for row in read_all(project)[1])
    assert found["validation"] / 300 == pytest.approx(0.2, abs=0.08)
    assert found["test"] / 300 == pytest.approx(0.3, abs=0.09)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({"image_0": "pictures/gone.png"}, "image_0 'pictures/gone.png' cannot be read"),
    "no picture": ({"image_1": "pictures/text.png"}, "line 2, image_1: image does not decode"),
    "half a picture": ({"image_1": "pictures/half.png"}, "line 2, image_1: image does not decode"),
    "no path": ({"image_0": ""}, "image_0 is empty"),
    "folder": ({"image_0": "pictures"}, "image_0 'pictures' cannot be read"),
    "both win": ({"label_1": 1}, "label_0 and label_1 are 1 and 1; allowed: 1 and 0"),
    "no label": ({"label_0": None}, "label_0 and label_1 are None and 0"),
    "a word": ({"label_0": "left"}, "label_0 and label_1 are left and 0"),
    "no caption": ({"caption": " \u200b"}, "caption is empty"),
    "itself": ({"image_1": "pictures/red.png"}, "compares a picture with itself"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_file_and_row_and_earlier_outputs_stay(
    project: Project, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, expected = FAULTS[name]
    write_prompts(project)
    folder = project.root / "brought"
    write_labels(folder, "csv", ROWS)
    (folder / "pictures/text.png").write_text("no picture")
    (folder / "pictures/half.png").write_bytes(picture("red")[:60])
    good = {**ROWS[0], "image_0": "pictures/red.png", "image_1": "pictures/green.png"}
    rows = [good, {**good, **change}]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    earlier = project.root / "data/preferences/pairs.parquet"
    earlier.parent.mkdir()
    earlier.write_bytes(b"earlier")
    project.params(preferences=settings("jsonl"))
    assert project.run("preferences") == 2
    *above, error = capsys.readouterr().err.splitlines()
    assert all(line.startswith("importing pairs: ") for line in above)
    assert error.startswith("error: preferences: ")
    assert "labels.jsonl: line 2" in error
    assert expected in error
    assert project.files("data/preferences") == {"data/preferences/pairs.parquet": b"earlier"}


def test_pictures_as_the_datasets_library_stores_them(project: Project) -> None:
    write_prompts(project)
    (project.root / "brought").mkdir()
    images = [{"bytes": picture(colour), "path": None} for colour in ("red", "green")]
    row = {**ROWS[0], "image_0": images[0], "image_1": images[1]}
    table = pa.Table.from_pylist([row])
    pq.write_table(table, project.root / "brought/labels.parquet")
    project.params(preferences=settings("parquet"))
    assert project.run("preferences") == 0
    assert [pair["annotator"] for pair in read_all(project)[1]] == ["unknown"]


def test_the_central_square_is_kept_and_scaled() -> None:
    wide = torch.zeros(3, 8, 24, dtype=torch.uint8)
    wide[:, :, 8:16] = 200
    assert torch.equal(fit_square(wide, 8), torch.full((3, 8, 8), 200, dtype=torch.uint8))
    assert torch.equal(fit_square(wide, 4), torch.full((3, 4, 4), 200, dtype=torch.uint8))
    tall = wide.transpose(1, 2)
    assert torch.equal(fit_square(tall, 16), torch.full((3, 16, 16), 200, dtype=torch.uint8))
