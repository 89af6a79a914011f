"""Sources of labels as their publishers lay them out, small ones, with pictures of one colour."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from components.contracts.ids import prompt_id
from components.contracts.tables import (
    PAIRS,
    PROMPTS,
    RANKINGS,
    RATINGS,
    SAMPLES,
    read_table,
    write_table,
)
from tests.support.rooms import Project

COLOURS = {
    name: (red, green, blue)
    for name, red, green, blue in (
        ("red", 250, 0, 0),
        ("green", 0, 250, 0),
        ("blue", 0, 0, 250),
        ("grey", 90, 90, 90),
        ("white", 255, 255, 255),
    )
}


def picture(colour: str, kind: str = "PNG", size: tuple[int, int] = (40, 24)) -> bytes:
    """Encoded bytes of a picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(buffer, kind)
    return buffer.getvalue()


def write_pictures(folder: Path, *names: str) -> None:
    """One picture for each path; the last word of its name is its colour."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".jpg": "JPEG", ".webp": "WEBP"}.get(path.suffix, "PNG")
        path.write_bytes(picture(path.stem.split("_")[-1], kind))


def write_prompts(project: Project) -> None:
    """One known prompt, "a cat", in the test split."""
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


def import_(project: Project, source: dict[str, Any] | list[dict[str, Any]], **more: Any) -> int:
    """Run the stage with a source; its exit status."""
    write_prompts(project)
    project.params(preferences={"label_source": source, "images_per_shard": 2, **more})
    return project.run("preferences")


class Tables:
    """The rows that the stage has written, and its pictures by sample id."""

    def __init__(self, project: Project) -> None:
        folder = project.root / "data/preferences"
        self.folder = folder
        self.samples, self.pairs, self.rankings, self.ratings = (
            read_table(folder / f"{schema.name}.parquet", schema).to_pylist()
            for schema in (SAMPLES, PAIRS, RANKINGS, RATINGS)
        )
        self.report = project.json("reports/preferences.json")

    def colours(self) -> dict[str, str]:
        """The colour of each sample, read back from the shards."""
        from components.contracts.artifacts import read_image_shard

        found = {}
        for path in sorted((self.folder / "images").glob("*.tar")):
            for name, image in read_image_shard(path).items():
                pixel = image[:, image.shape[1] // 2, image.shape[2] // 2].tolist()
                found[name] = min(
                    COLOURS,
                    key=lambda colour: sum(
                        abs(one - two) for one, two in zip(COLOURS[colour], pixel, strict=True)
                    ),
                )
        return found

    def said(self) -> list[tuple[str, str, float, str]]:
        """Each judgement: colour of a, colour of b, preference, annotator."""
        colours = self.colours()
        return [
            (
                colours[row["sample_id_a"]],
                colours[row["sample_id_b"]],
                row["preference"],
                row["annotator"],
            )
            for row in self.pairs
        ]
