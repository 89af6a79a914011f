"""Preferences that cannot be trained on are refused with one line that says where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.errors import DataError, KonomiError, QuarantinedData
from components.rewards.dataset import read_preferences
from tests.rewards.world import rows, write_world

World = tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, torch.Tensor]]


FEW = {"train": 4, "validation": 2, "test": 2}


def keep(images: torch.Tensor) -> torch.Tensor:
    return images


def test_joined_by_id_whatever_the_order_of_rows(tmp_path: Path) -> None:
    samples, pairs, images = rows(FEW)
    pairs[1]["label"] = "tie"
    straight = read_preferences(write_world(tmp_path / "1", samples, pairs, images), keep)
    turned = read_preferences(write_world(tmp_path / "2", samples[::-1], pairs, images), keep)
    assert torch.equal(straight.pixels, turned.pixels)
    train = straight.splits["train"]
    chosen = [row for row in pairs if row["split"] == "train"]
    assert len(train) == len(chosen) == 12
    for number in (0, 1, 11):
        row = chosen[number]
        assert torch.equal(straight.pixels[train.image_a[number]], images[row["sample_id_a"]])
        assert torch.equal(straight.pixels[train.image_b[number]], images[row["sample_id_b"]])
        prompt = straight.prompts[int(straight.prompt_of[train.image_a[number]])]
        assert prompt == row["prompt"]
        share = {"a": 1.0, "b": 0.0, "tie": 0.5}[row["label"]]
        assert float(train.preference[number]) == share


def unknown_label(world: World) -> None:
    world[1][5]["label"] = "both"


def unknown_split(world: World) -> None:
    world[1][5]["split"] = "dev"


def missing_image(world: World) -> None:
    del world[2][world[1][5]["sample_id_a"]]


def missing_sample(world: World) -> None:
    world[0].remove(next(s for s in world[0] if s["sample_id"] == world[1][5]["sample_id_a"]))


def another_prompt(world: World) -> None:
    world[1][5]["sample_id_b"] = world[1][20]["sample_id_b"]


def empty_split(world: World) -> None:
    world[1][:] = [row for row in world[1] if row["split"] != "test"]


def only_ties(world: World) -> None:
    for row in world[1]:
        if row["split"] == "validation":
            row["label"] = "tie"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unknown_label, r"row 5, pair c_\w+: unknown label 'both'; allowed: a, tie, b"),
        (unknown_split, r"row 5, pair c_\w+: unknown split 'dev'; allowed: train, valid"),
        (missing_image, r"pair c_\w+: image 's_\w+' is in no shard of"),
        (missing_sample, r"row \d, pair c_\w+: 's_\w+' is not in samples.parquet"),
        (another_prompt, r"row 5, pair c_\w+: 's_\w+' was drawn for another prompt"),
        (empty_split, r"0 pairs of split 'test' and none with a winner; allowed: at least one"),
        (only_ties, r"6 pairs of split 'validation' and none with a winner"),
    ],
)
def test_refused(spoil: Callable[[World], None], message: str, tmp_path: Path) -> None:
    world = rows(FEW)
    spoil(world)
    with pytest.raises(DataError, match=message) as caught:
        read_preferences(write_world(tmp_path, *world), keep)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_prompt_in_two_splits_is_quarantined(tmp_path: Path) -> None:
    world = rows(FEW)
    world[1][0]["split"] = "test"
    with pytest.raises(QuarantinedData, match="stands in the splits 'test' and 'train'") as caught:
        read_preferences(write_world(tmp_path, *world), keep)
    assert caught.value.exit_code == 65


def test_no_preferences_at_all(tmp_path: Path) -> None:
    with pytest.raises(KonomiError, match=r"pairs.parquet: no such file"):
        read_preferences(tmp_path, keep)
