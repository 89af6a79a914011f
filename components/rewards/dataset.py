"""Reads what the stage `preferences` wrote: judgements and their images, joined by id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from components.contracts.artifacts import read_image_shard
from components.contracts.errors import DataError, QuarantinedData
from components.contracts.tables import PAIRS, SAMPLES, read_table

PREFERENCE = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""Label of a judgement and the share of a win that it gives to image a."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Pairs:
    """Judgements of one split; images are rows of `Preferences.pixels`."""

    image_a: Int64[Tensor, " n"]
    image_b: Int64[Tensor, " n"]
    preference: Float[Tensor, " n"]
    """1 where a was preferred, 0 where b was, 0.5 for a tie."""
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image_a)


@dataclass(frozen=True)
class Preferences:
    """Every judged image once, its prompt, and the judgements by split."""

    pixels: UInt8[Tensor, "m 3 s s"]
    prompts: tuple[str, ...]
    prompt_of: Int64[Tensor, " m"]
    """Row of `prompts` for each image."""
    splits: Mapping[str, Pairs]


def read_preferences(
    folder: Path, resize: Callable[[UInt8[Tensor, "1 3 h w"]], UInt8[Tensor, "1 3 s s"]]
) -> Preferences:
    """Read and check `folder`; `resize` brings each image to one size as soon as it is read.

    Raises:
        DataError: a file is missing or damaged, a label or split is unknown, a pair names an image
            that is not there or is of another prompt, or a split holds no decided pair.
        QuarantinedData: a prompt stands in two splits, so that held-out figures would be too good.
    """
    path = folder / "pairs.parquet"
    rows: list[dict[str, Any]] = read_table(path, PAIRS).to_pylist()
    samples = {
        row["sample_id"]: row for row in read_table(folder / "samples.parquet", SAMPLES).to_pylist()
    }
    _check_rows(rows, samples, path)

    needed = sorted({row[side] for row in rows for side in ("sample_id_a", "sample_id_b")})
    images = _read_images(folder / "images", set(needed), resize)
    for row in rows:
        for side in ("sample_id_a", "sample_id_b"):
            if row[side] not in images:
                raise DataError(
                    f"image '{row[side]}' is in no shard of {folder / 'images'}",
                    file=path,
                    place=f"pair {row['pair_id']}",
                )
    prompts = sorted({samples[name]["prompt"] for name in needed})
    position = {name: number for number, name in enumerate(needed)}
    prompt_row = {prompt: number for number, prompt in enumerate(prompts)}
    return Preferences(
        pixels=torch.cat([images[name] for name in needed]),
        prompts=tuple(prompts),
        prompt_of=torch.tensor([prompt_row[samples[name]["prompt"]] for name in needed]),
        splits={split: _pairs(rows, split, position, path) for split in SPLITS},
    )


def _check_rows(rows: list[dict[str, Any]], samples: dict[str, Any], path: Path) -> None:
    split_of: dict[str, str] = {}
    for number, row in enumerate(rows):
        place = f"row {number}, pair {row['pair_id']}"
        for column, allowed in (("label", tuple(PREFERENCE)), ("split", SPLITS)):
            if row[column] not in allowed:
                raise DataError(
                    f"unknown {column} '{row[column]}'",
                    file=path,
                    place=place,
                    allowed=", ".join(allowed),
                )
        for side in ("sample_id_a", "sample_id_b"):
            if row[side] not in samples:
                raise DataError(f"'{row[side]}' is not in samples.parquet", file=path, place=place)
            if samples[row[side]]["prompt_id"] != row["prompt_id"]:
                raise DataError(
                    f"'{row[side]}' was drawn for another prompt", file=path, place=place
                )
        if split_of.setdefault(row["prompt_id"], row["split"]) != row["split"]:
            raise QuarantinedData(
                f"{path}: {place}: prompt {row['prompt_id']} stands in the splits "
                f"'{split_of[row['prompt_id']]}' and '{row['split']}'; allowed: one split a prompt"
            )


def _read_images(
    folder: Path, needed: set[str], resize: Callable[[Tensor], Tensor]
) -> dict[str, UInt8[Tensor, "1 3 s s"]]:
    images = {}
    for shard in sorted(folder.glob("*.tar")):
        for name, image in read_image_shard(shard).items():
            if name in needed:
                images[name] = resize(image[None])
    return images


def _pairs(
    rows: list[dict[str, Any]], split: str, position: Mapping[str, int], path: Path
) -> Pairs:
    chosen = [row for row in rows if row["split"] == split]
    if all(row["label"] == "tie" for row in chosen):
        raise DataError(
            f"holds {len(chosen)} pairs of split '{split}' and none with a winner",
            file=path,
            allowed="at least one pair with label a or b in each of " + ", ".join(SPLITS),
        )
    return Pairs(
        image_a=torch.tensor([position[row["sample_id_a"]] for row in chosen]),
        image_b=torch.tensor([position[row["sample_id_b"]] for row in chosen]),
        preference=torch.tensor([PREFERENCE[row["label"]] for row in chosen]),
        categories=tuple(row["category"] for row in chosen),
    )
