"""ImageRewardDB (2304.05977): experts' rankings and ratings of pictures from DiffusionDB.

The dataset, `THUDM/ImageRewardDB`, has a row a picture, in `metadata-train.parquet` and so on and
in a `train_1.json` beside each folder of pictures: `image_path`, `prompt_id`, `prompt`,
`classification`, `rank` (1 is the best, equal ranks tie) and three ratings from 1 to 7. The paper's
repository has a row a prompt in `test.json`: `id`, `prompt`, `generations`, `ranking`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components.contracts.errors import DataError
from components.contracts.streams import open_parquet, read_json_items
from components.preferences.layouts.records import (
    BAD_LABEL,
    Labelled,
    Picture,
    Ranking,
    Rating,
    as_rank,
    is_list_of,
    text_or,
)
from components.preferences.settings import ImageRewardDbSettings

QUESTIONS = {
    "overall_rating": "overall",
    "image_text_alignment_rating": "alignment",
    "fidelity_rating": "fidelity",
}
"""Column of a rating, and the question as `RATINGS` names it."""
LOW, HIGH = 1, 7
COLUMNS = ("image_path", "prompt_id", "prompt", "classification", "rank", *QUESTIONS)
ROWS_AT_ONCE = 1024


def read(settings: ImageRewardDbSettings, root: Path) -> Iterator[Labelled]:
    """One prompt at a time, in the order of the prompts' ids or of `test.json`."""
    path = root / settings.path
    files = sorted(path.glob("metadata-*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError("holds no metadata-*.parquet", file=path, allowed="ImageRewardDB's folder")
    for file in files:
        folder = root / settings.images if settings.images else file.parent
        if file.suffix == ".json" and "generations" in next(read_json_items(file))[1]:
            yield from _prompts(file, folder)
        else:
            yield from _pictures(file, folder)


def _prompts(file: Path, folder: Path) -> Iterator[Labelled]:
    for place, item in read_json_items(file):
        names, ranks = item.get("generations"), item.get("ranking")
        if not is_list_of(names, str) or not is_list_of(ranks, int, len(names)):
            raise DataError(
                "lacks generations, or a ranking of as many numbers",
                file=file,
                place=place,
                allowed="id, prompt, generations, ranking",
            )
        yield Labelled(
            file,
            place,
            item.get("prompt"),
            pictures=tuple(Picture(folder / name, f"picture {name[-80:]}") for name in names),
            rankings=(Ranking(tuple(map(as_rank, ranks)), name=text_or(item.get("id"), place)),),
        )


def _pictures(file: Path, folder: Path) -> Iterator[Labelled]:
    rows = _sorted_rows(file)
    for prompt_id, group in groupby(rows, key=lambda row: row["prompt_id"]):
        members = list(group)
        ratings, skipped = [], []
        for number, row in enumerate(members):
            for column, question in QUESTIONS.items():
                value = as_rank(row[column])
                if value is not None and LOW <= value <= HIGH:
                    steps = HIGH - LOW + 1
                    ratings.append(Rating(number, question, value, LOW, HIGH, steps))
                elif row[column] is not None:
                    skipped.append(BAD_LABEL)
        yield Labelled(
            file,
            f"prompt_id {str(prompt_id)[:40]}",
            members[0]["prompt"],
            pictures=tuple(_picture(row, folder) for row in members),
            rankings=(
                Ranking(tuple(as_rank(row["rank"]) for row in members), name=str(prompt_id)),
            ),
            ratings=tuple(ratings),
            category=text_or(members[0]["classification"], ""),
            skipped=tuple(skipped),
        )


def _picture(row: Mapping[str, Any], folder: Path) -> Picture:
    name = text_or(row["image_path"], "?")
    return Picture(folder / name, f"picture {name[-80:]}")


def _sorted_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Rows with those of one prompt together: the metadata alone, a few hundred bytes a picture."""
    if file.suffix == ".json":
        items = (item for _, item in read_json_items(file))
        table = pa.Table.from_pylist([{name: item.get(name) for name in COLUMNS} for item in items])
        names = [name for name in COLUMNS if table[name].null_count < len(table)]
    else:
        with open_parquet(file) as parquet:
            names = [name for name in COLUMNS if name in parquet.schema_arrow.names]
            table = parquet.read(columns=names)
    if missing := [name for name in COLUMNS if name not in names]:
        raise DataError(f"no column '{missing[0]}'", file=file, allowed=", ".join(COLUMNS))
    place = pa.array(np.arange(len(table)))
    order = [("prompt_id", "ascending"), ("place", "ascending")]
    for batch in table.append_column("place", place).sort_by(order).to_batches(ROWS_AT_ONCE):
        yield from batch.to_pylist()
