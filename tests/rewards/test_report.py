"""Every figure of the report, held against the data and the trained model themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.seeds import torch_generator
from components.rewards.backbones import RewardModel, open_backbone
from components.rewards.dataset import Preferences, read_preferences
from components.rewards.fit import pair_margin
from components.rewards.metrics import pair_accuracy
from components.rewards.report import measure
from components.rewards.settings import EnsembleSettings, LearningCurveSettings, ObjectiveSettings
from components.rewards.states import States
from components.rewards.train import Training, train
from tests.rewards.conftest import SETTINGS
from tests.rewards.world import rows, write_world
from tests.support.tiny_clip import tiny_clip

OBJECTIVE = ObjectiveSettings(
    annotators="reliability", ensemble=EnsembleSettings(members=2, share=0.5)
)
FULL = SETTINGS.model_copy(
    update={
        "objective": OBJECTIVE,
        "learning_curve": LearningCurveSettings(shares=(0.5,)),
        "epochs": 3,
    }
)
ACCURACY = {"accuracy", "accuracy_low", "accuracy_high", "pairs"}


@dataclass(frozen=True)
class Run:
    model: RewardModel
    data: Preferences
    training: Training
    report: dict[str, Any]

    def margin(self, split: str) -> torch.Tensor:
        return pair_margin(States(self.model, self.data, 0), self.data.splits[split], "scoring")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two people who judged in turn, and one of whom the data knows no judgement."""
    folder = tmp_path_factory.mktemp("report")
    tiny_clip(folder / "clip")
    data = read_preferences(write_world(folder / "preferences", *rows()), lambda images: images)
    splits = {}
    for name, pairs in data.splits.items():
        annotator = (torch.arange(len(pairs)) % 2).to(torch.int32)
        splits[name] = replace(pairs, annotator=annotator)
    data = replace(data, splits=splits, annotators=("ann", "ben", "nobody"))
    model = open_backbone("two_towers", folder / "clip", torch_generator(0)).eval()
    training = train(model, data, FULL, torch_generator(7, "train"))
    return Run(model, data, training, measure(model, data, training))


def test_the_report_has_these_keys_and_no_others(found: Run) -> None:
    assert found.report.keys() == {
        "schema_version",
        "architecture",
        *ACCURACY,
        "backbone_accuracy",
        "backbone_accuracy_low",
        "backbone_accuracy_high",
        "backbone_gain",
        "backbone_gain_low",
        "backbone_gain_high",
        "calibration_error",
        "train_pairs",
        "validation_pairs",
        "test_pairs",
        "test_prompts",
        "test_ties",
        "best_update",
        "last_update",
        "stopped_early",
        "validation_accuracy",
        "overfitting",
        "score_mean",
        "score_std",
        "by_category",
        "by_margin",
        "calibration",
        "saturation",
        "annotators",
        "learning_curve",
        "ensemble",
    }
    report = found.report
    for row in report["by_category"].values():
        assert row.keys() == ACCURACY
    for row in report["by_margin"]:
        assert row.keys() == {"low", "high", *ACCURACY}
    for row in report["calibration"]:
        assert row.keys() == {"predicted", "observed", "low", "high", "count"}
    assert report["saturation"].keys() == {"share", "accuracy"}
    for row in report["annotators"].values():
        assert row.keys() == {"reliability", *ACCURACY}
    for row in report["learning_curve"]:
        assert row.keys() == {"prompts", "judgements", "to_all", *ACCURACY}
        assert row["to_all"].keys() == {"value", "low", "high"}
    counts = {"judged", "flipped", "softened", "smoothed"}
    assert report["ensemble"].keys() == {*counts, "contradicted", "strength"}


def test_it_is_json_without_a_number_that_is_none(found: Run) -> None:
    text = json.dumps(found.report, allow_nan=False)
    assert json.loads(text) == found.report


def test_accuracy_is_that_of_the_kept_model_on_the_test_split(found: Run) -> None:
    report, pairs = found.report, found.data.splits["test"]
    margin = found.margin("test")
    decided = pairs.preference != 0.5
    right = (margin > 0) == (pairs.preference > 0.5)
    assert report["accuracy"] == pytest.approx(float(right[decided].float().mean()))
    assert report["pairs"] == int(decided.sum())
    assert report["pairs"] + report["test_ties"] == report["test_pairs"] == len(pairs) == 72
    assert report["test_prompts"] == 24
    assert (report["train_pairs"], report["validation_pairs"]) == (144, 36)
    for name in ("accuracy", "backbone_accuracy"):
        assert 0 <= report[f"{name}_low"] < report[name] < report[f"{name}_high"] <= 1
    assert report["backbone_accuracy"] == found.training.backbone_accuracy.value


def test_the_gain_over_the_backbone_is_that_of_the_same_pairs(found: Run) -> None:
    report = found.report
    difference = report["accuracy"] - report["backbone_accuracy"]
    assert report["backbone_gain"] == pytest.approx(difference)
    assert report["backbone_gain_low"] < difference < report["backbone_gain_high"]
    # As wide as the two intervals together it would tell nothing new.
    width = report["backbone_gain_high"] - report["backbone_gain_low"]
    both = sum(
        report[f"{name}_high"] - report[f"{name}_low"] for name in ("accuracy", "backbone_accuracy")
    )
    assert width < both


PARTS: dict[str, Callable[[dict[str, Any]], list[dict[str, Any]]]] = {
    "categories": lambda report: list(report["by_category"].values()),
    "margins": lambda report: report["by_margin"],
    "annotators": lambda report: list(report["annotators"].values()),
}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_makes_up_the_whole(part: str, found: Run) -> None:
    report, parts = found.report, PARTS[part](found.report)
    assert len(parts) > 1
    assert sum(one["pairs"] for one in parts) == report["pairs"]
    right = sum(one["accuracy"] * one["pairs"] for one in parts)
    assert right == pytest.approx(report["accuracy"] * report["pairs"])
    for one in parts:
        assert one["accuracy_low"] <= one["accuracy"] <= one["accuracy_high"]


def test_a_part_is_measured_on_its_own_pairs(found: Run) -> None:
    pairs, margin = found.data.splits["test"], found.margin("test")
    group = found.data.prompt_of[pairs.image_a]
    for names, codes, part in (
        (found.data.categories, pairs.category, found.report["by_category"]),
        (found.data.annotators, pairs.annotator, found.report["annotators"]),
    ):
        for number, name in enumerate(names):
            rows = codes == number
            if not rows.any():
                assert name not in part
                continue
            expected = pair_accuracy(margin[rows], pairs.preference[rows], group[rows])
            assert part[name]["accuracy"] == expected.value
            assert part[name]["accuracy_high"] == expected.high


def test_margins_rise_and_touch_the_smallest_and_the_largest(found: Run) -> None:
    bins = found.report["by_margin"]
    margin = found.margin("test")[found.data.splits["test"].preference != 0.5].abs()
    assert len(bins) == 4
    ends = [end for one in bins for end in (one["low"], one["high"])]
    assert ends == sorted(ends)
    assert (ends[0], ends[-1]) == pytest.approx((float(margin.min()), float(margin.max())))
    assert max(one["pairs"] for one in bins) - min(one["pairs"] for one in bins) <= 1


def test_calibration_counts_every_pair_and_weighs_its_error(found: Run) -> None:
    report = found.report
    assert sum(one["count"] for one in report["calibration"]) == report["test_pairs"]
    error = sum(
        abs(one["predicted"] - one["observed"]) * one["count"] for one in report["calibration"]
    )
    assert report["calibration_error"] == pytest.approx(error / report["test_pairs"])
    for one in report["calibration"]:
        # Of a share of 0 or 1 the interval's end is that share, to the last digit but one.
        assert 0 <= one["low"] <= one["observed"] + 1e-9
        assert one["observed"] - 1e-9 <= one["high"] <= 1
    predicted = [one["predicted"] for one in report["calibration"]]
    assert predicted == sorted(predicted)


def test_saturation_is_that_of_the_kept_scale(found: Run) -> None:
    sure = torch.sigmoid(found.margin("test").double().abs()) > 0.99
    assert found.report["saturation"]["share"] == pytest.approx(float(sure.double().mean()))


def test_the_course_of_the_training(found: Run) -> None:
    report, epochs = found.report, found.training.fitted.epochs
    losses = {epoch.update: epoch.validation_loss for epoch in epochs}
    assert report["best_update"] == min(losses, key=lambda update: losses[update])
    assert report["last_update"] == epochs[-1].update
    rise = losses[report["last_update"]] - losses[report["best_update"]]
    assert report["overfitting"] == pytest.approx(rise) and rise >= 0
    assert report["stopped_early"] == (len(epochs) <= FULL.epochs)


def test_the_learning_curve_ends_at_the_report_itself(found: Run) -> None:
    curve = found.report["learning_curve"]
    assert [(point["prompts"], point["judgements"]) for point in curve] == [(24, 72), (48, 144)]
    assert {name: curve[-1][name] for name in ACCURACY} == {
        name: found.report[name] for name in ACCURACY
    }
    for point in curve:
        assert point["to_all"]["value"] == pytest.approx(curve[-1]["accuracy"] - point["accuracy"])
    assert set(curve[-1]["to_all"].values()) == {0.0}
    assert curve[0]["to_all"]["low"] <= curve[0]["to_all"]["value"] <= curve[0]["to_all"]["high"]


def test_a_learnt_reliability_stands_beside_its_annotator(found: Run) -> None:
    learnt = found.training.fitted.habits.reliability().tolist()
    for number, name in enumerate(found.data.annotators[:2]):
        assert found.report["annotators"][name]["reliability"] == pytest.approx(learnt[number])
        assert 0 < learnt[number] < 1
    fitted = replace(found.training.fitted, best=found.training.fitted.epochs[0])
    for training in (
        replace(found.training, learnt_reliability=False),
        replace(found.training, fitted=fitted),
    ):
        report = measure(found.model, found.data, training)
        assert {one["reliability"] for one in report["annotators"].values()} == {None}


def test_the_ensemble_is_told_by_counts_and_deciles(found: Run) -> None:
    told, mended = found.report["ensemble"], found.training.mended
    assert mended is not None
    known = mended.strength.mean[mended.strength.mean != 0]
    decided = found.data.splits["train"].preference != 0.5
    assert 0 < told["judged"] == len(known) < int(decided.sum())
    assert told["strength"] == sorted(told["strength"]) and len(told["strength"]) == 11
    assert told["strength"][0] == pytest.approx(float(known.min()))
    assert told["strength"][5] == pytest.approx(float(known.quantile(0.5)))
    assert told["strength"][-1] == pytest.approx(float(known.max()))
    assert told["contradicted"] == pytest.approx(float((known < 0).double().mean()))
    changed = mended.targets.preference != found.data.splits["train"].preference
    assert told["flipped"] + told["softened"] + told["smoothed"] == int(changed.sum())
    assert (
        measure(found.model, found.data, replace(found.training, mended=None))["ensemble"] is None
    )


def test_a_category_of_ties_alone_is_left_out(found: Run) -> None:
    pairs = found.data.splits["test"]
    tied = torch.where(pairs.category == 0, 0.5, pairs.preference)
    splits = {**found.data.splits, "test": replace(pairs, preference=tied)}
    report = measure(found.model, replace(found.data, splits=splits), found.training)
    assert set(report["by_category"]) == {found.data.categories[1]}
    assert report["pairs"] == report["by_category"][found.data.categories[1]]["pairs"]


def test_the_stage_writes_what_was_measured(trained: tuple[Path, dict[str, float]]) -> None:
    root, metrics = trained
    report = json.loads((root / "reports/rewards.json").read_text())
    for name in ("accuracy", "calibration_error", "test_ties", "overfitting", "score_std"):
        assert metrics[name] == report[name]
    constants = json.loads((root / "models/reward/reward.json").read_text())
    assert (constants["mean"], constants["std"]) == (report["score_mean"], report["score_std"])
