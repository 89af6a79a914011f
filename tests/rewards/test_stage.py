"""The whole stage on a tiny CLIP that has a simple preference to learn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.contracts.errors import GuardError, ModelError
from components.rewards.settings import BackboneSettings
from components.rewards.stage import run
from tests.rewards.conftest import SETTINGS, project

OUTS = ("models/reward", "reports")


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in OUTS
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }


def test_learns_what_people_prefer(trained: tuple[Path, dict[str, float]]) -> None:
    _, metrics = trained
    assert metrics["accuracy"] > 0.9
    assert metrics["backbone_accuracy"] < 0.75
    assert metrics["accuracy_low"] > 0.8
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"] <= 1
    assert metrics["calibration_error"] < 0.2


def test_report_counts_what_was_measured(trained: tuple[Path, dict[str, float]]) -> None:
    root, metrics = trained
    report = json.loads((root / "reports/rewards.json").read_text())
    assert report["test_pairs"] == 72
    assert set(report["by_category"]) == {"day", "night"}
    decided = sum(found["pairs"] for found in report["by_category"].values())
    assert decided == report["test_pairs"] - report["test_ties"]
    mean = sum(found["accuracy"] * found["pairs"] for found in report["by_category"].values())
    assert mean / decided == pytest.approx(report["accuracy"])
    assert metrics["accuracy_day"] == report["by_category"]["day"]["accuracy"]

    curve = (root / "reports/rewards_curve.csv").read_text().splitlines()
    assert curve[0].split(",") == [
        "update",
        "train_loss",
        "validation_loss",
        "validation_accuracy",
    ]
    # The backbone and every epoch until the validation loss had not fallen for `patience` of them.
    assert len(curve) - 2 == report["last_update"] / 6 <= SETTINGS.epochs
    assert report["stopped_early"] == (len(curve) - 2 < SETTINGS.epochs)
    assert report["last_update"] - report["best_update"] <= 6 * SETTINGS.patience
    assert curve[1].startswith("0,")
    losses = [float(line.split(",")[1]) for line in curve[1:]]
    assert losses[-1] < losses[0] / 2
    bins = (root / "reports/rewards_calibration.csv").read_text().splitlines()
    assert bins[0] == "predicted,observed,count"
    assert sum(int(line.split(",")[2]) for line in bins[1:]) == report["test_pairs"]


def test_two_runs_give_the_same_bytes(
    trained: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    run(SETTINGS, project(tmp_path))
    again, first = contents(tmp_path), contents(trained[0])
    assert "models/reward/model.safetensors" in first
    assert "reports/rewards.json" in first
    assert again.keys() == first.keys()
    assert [name for name in first if first[name] != again[name]] == []


def test_manifest_ties_the_model_to_its_inputs(trained: tuple[Path, dict[str, float]]) -> None:
    manifest = json.loads((trained[0] / ".work/rewards/manifest.json").read_text())
    assert set(manifest["inputs"]) == {"preferences", "backbone"}
    assert manifest["settings"]["batch_size"] == SETTINGS.batch_size


def test_a_weight_that_is_not_a_number_stops_before_any_output(tmp_path: Path) -> None:
    context = project(tmp_path)
    path = tmp_path / "clip/model.safetensors"
    weights = load_file(path)
    weights["visual_projection.weight"] = torch.full_like(
        weights["visual_projection.weight"], torch.nan
    )
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(GuardError, match=r"update 0: loss nan.*stopped before the step"):
        run(SETTINGS, context)
    assert contents(tmp_path) == {}


def test_a_backbone_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    context = project(tmp_path)
    backbone = BackboneSettings(source="no/such-clip")
    with pytest.raises(ModelError, match="no/such-clip"):
        run(SETTINGS.model_copy(update={"backbone": backbone}), context)
