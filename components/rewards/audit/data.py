"""The images that an audit looks at: several of each prompt that nothing was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from components.contracts.artifacts import read_image_shard
from components.contracts.errors import DataError
from components.contracts.seeds import derive_seed
from components.contracts.tables import SAMPLES, read_table

SPLIT = "test"


@dataclass(frozen=True)
class Candidates:
    """m images of p prompts, at least `num_images` of each; images of one prompt follow each
    other."""

    images: Sequence[UInt8[Tensor, "3 _ _"]]
    """They may differ in size."""
    prompts: Sequence[str]
    prompt_of: Int[NDArray[np.int64], " m"]
    """Row of `prompts` of each image."""
    num_images: int
    """The largest n of best-of-n: what at least half of the prompts have."""

    @property
    def texts(self) -> list[str]:
        """The prompt of each image."""
        return [self.prompts[prompt] for prompt in self.prompt_of]

    def first(self, per_prompt: int) -> Int[NDArray[np.int64], " n"]:
        """Rows of the first images of every prompt."""
        starts = np.searchsorted(self.prompt_of, np.arange(len(self.prompts)))
        place = np.arange(len(self.prompt_of)) - starts[self.prompt_of]
        return np.flatnonzero(place < per_prompt)


def read_candidates(folder: Path, max_prompts: int, seed: int) -> Candidates:
    """Images of held-out prompts from what the stage `preferences` wrote.

    Where there are more prompts than `max_prompts`, each category gives about the same number,
    drawn by hash of the prompt's id.

    Raises:
        DataError: a file is missing or damaged, an image is in no shard, or no held-out prompt has
            two images.
    """
    path = folder / "samples.parquet"
    rows = [row for row in read_table(path, SAMPLES).to_pylist() if row["split"] == SPLIT]
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["sample_id"]):
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    counts = sorted(map(len, by_prompt.values()))
    num_images = counts[len(counts) // 2] if counts else 0
    if num_images < 2:
        raise DataError(
            f"holds no two images of most prompts of the split '{SPLIT}' ({len(counts)} prompts)",
            file=path,
            allowed="at least two images of each held-out prompt, to choose between",
        )
    enough = [rows for rows in by_prompt.values() if len(rows) >= num_images]
    chosen = _balanced(enough, max_prompts, seed)
    images = _read_images(folder / "images", [row for rows in chosen for row in rows], path)
    return Candidates(
        images=images,
        prompts=[rows[0]["prompt"] for rows in chosen],
        prompt_of=np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen]),
        num_images=num_images,
    )


def _balanced(
    prompts: Sequence[list[dict[str, Any]]], count: int, seed: int
) -> list[list[dict[str, Any]]]:
    """`count` of the prompts, one of each category in turn."""
    turns = []
    by_category: dict[str, int] = {}
    for rows in sorted(prompts, key=lambda rows: derive_seed(seed, "audit", rows[0]["prompt_id"])):
        category = rows[0]["category"]
        turn = by_category.get(category, 0)
        by_category[category] = turn + 1
        turns.append((turn, category, rows))
    turns.sort(key=lambda found: found[:2])
    return [rows for _, _, rows in turns[:count]]


def _read_images(folder: Path, rows: Sequence[dict[str, Any]], path: Path) -> list[Tensor]:
    wanted = {row["sample_id"] for row in rows}
    found: dict[str, Tensor] = {}
    for shard in sorted({row["shard"] for row in rows}):
        read = read_image_shard(folder / f"images-{shard}.tar")
        found |= {name: image for name, image in read.items() if name in wanted}
    for row in rows:
        if row["sample_id"] not in found:
            raise DataError(
                f"image '{row['sample_id']}' is in no shard of {folder}",
                file=path,
                place=f"prompt {row['prompt_id']}",
            )
    return [found[row["sample_id"]] for row in rows]
