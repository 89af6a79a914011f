"""The body of stage 3: read the pairs, train, measure on prompts that were held out, write."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.artifacts import write_json, write_text
from components.contracts.stage import StageContext, log_inputs, write_manifest
from components.rewards.settings import Settings

if TYPE_CHECKING:
    from components.rewards.dataset import Preferences
    from components.rewards.metrics import CalibrationBin
    from components.rewards.model import RewardModel
    from components.rewards.train import Epoch, Training

PREFERENCES = Path("data/preferences")
MODEL = Path("models/reward")
REPORT = Path("reports/rewards.json")
CURVE = Path("reports/rewards_curve.csv")
CALIBRATION = Path("reports/rewards_calibration.csv")


def run(settings: Settings, context: StageContext) -> dict[str, float]:
    """Train the reward model and report how often it agrees with people on unseen prompts.

    Raises:
        DataError, QuarantinedData: the preferences cannot be trained on.
        ModelError: the backbone cannot be used.
        GuardError: training met a number that is not finite, or ended with a constant score.
    """
    from components.contracts.device import find_device
    from components.rewards.dataset import read_preferences
    from components.rewards.model import RewardModel
    from components.rewards.train import train

    started = time.monotonic()
    root = context.root
    local = (root / settings.backbone).is_dir()
    inputs = {"preferences": PREFERENCES} | ({"backbone": Path(settings.backbone)} if local else {})
    model = RewardModel.from_clip(root / settings.backbone if local else settings.backbone)
    data = read_preferences(root / PREFERENCES, model.resize)
    digests = log_inputs(context, **inputs)
    model.to(find_device(context.compute))

    def report_epoch(epoch: Epoch) -> None:
        context.tracker.log_metrics(
            {
                "train_loss": epoch.train_loss,
                "validation_loss": epoch.validation_loss,
                "validation_accuracy": epoch.validation_accuracy,
            },
            step=epoch.update,
        )

    backbone_accuracy = _test_accuracy(model, data)
    training = train(model, data, settings, context.generator("training"), report_epoch)
    _standardise(model, data)
    report, bins = _measure(model, data, training, backbone_accuracy)

    model.save(root / MODEL)
    write_json(root / REPORT, report)
    write_text(root / CURVE, _curve(training.epochs))
    write_text(root / CALIBRATION, _calibration(bins))
    for path in (REPORT, CURVE, CALIBRATION):
        context.tracker.log_artifact(root / path)
    write_manifest(context, settings, digests, time.monotonic() - started)
    return {name: value for name, value in report.items() if isinstance(value, int | float)} | {
        f"accuracy_{category}": found["accuracy"]
        for category, found in report["by_category"].items()
    }


def _test_accuracy(model: RewardModel, data: Preferences) -> float:
    from components.rewards.metrics import pair_accuracy
    from components.rewards.train import pair_margin

    pairs = data.splits["test"]
    margin = pair_margin(model, data, pairs, "scoring test images with the backbone")
    return pair_accuracy(margin, pairs.preference, data.prompt_of[pairs.image_a]).value


def _standardise(model: RewardModel, data: Preferences) -> None:
    """Set mean and std of the reward to those of the scores of the training images."""
    import torch

    from components.contracts.errors import GuardError
    from components.rewards.train import score_images

    pairs = data.splits["train"]
    images = torch.cat([pairs.image_a, pairs.image_b]).unique()
    scores = score_images(model, data, images, "measuring the scale of the reward").double()
    mean, std = float(scores.mean()), float(scores.std(correction=0))
    if not std > 1e-6:
        raise GuardError(
            f"the reward is the same for all {len(images)} training images (std {std})"
        )
    model.mean, model.std = mean, std


def _measure(
    model: RewardModel, data: Preferences, training: Training, backbone_accuracy: float
) -> tuple[dict[str, Any], list[CalibrationBin]]:

    from components.rewards.metrics import calibration, pair_accuracy
    from components.rewards.train import pair_margin

    pairs = data.splits["test"]
    prompts = data.prompt_of[pairs.image_a]
    margin = pair_margin(model, data, pairs, "scoring test images")
    overall = pair_accuracy(margin, pairs.preference, prompts)
    by_category = {}
    for category in sorted(data.categories):
        rows = pairs.category == data.categories.index(category)
        if (pairs.preference[rows] != 0.5).any():
            found = pair_accuracy(margin[rows], pairs.preference[rows], prompts[rows])
            by_category[category] = {
                "accuracy": found.value,
                "accuracy_low": found.low,
                "accuracy_high": found.high,
                "pairs": found.count,
            }
    bins, error = calibration(margin, pairs.preference)
    report = {
        "accuracy": overall.value,
        "accuracy_low": overall.low,
        "accuracy_high": overall.high,
        "backbone_accuracy": backbone_accuracy,
        "calibration_error": error,
        "train_pairs": len(data.splits["train"]),
        "validation_pairs": len(data.splits["validation"]),
        "test_pairs": len(pairs),
        "test_ties": len(pairs) - overall.count,
        "best_update": training.best.update,
        "validation_accuracy": training.best.validation_accuracy,
        "score_mean": model.mean,
        "score_std": model.std,
        "by_category": by_category,
    }
    return report, bins


def _curve(epochs: Sequence[Epoch]) -> str:
    lines = ["update,train_loss,validation_loss,validation_accuracy"]
    lines += [
        f"{e.update},{e.train_loss:.6f},{e.validation_loss:.6f},{e.validation_accuracy:.6f}"
        for e in epochs
    ]
    return "\n".join(lines) + "\n"


def _calibration(bins: Sequence[CalibrationBin]) -> str:
    lines = ["predicted,observed,count"]
    lines += [f"{found.predicted:.6f},{found.observed:.6f},{found.count}" for found in bins]
    return "\n".join(lines) + "\n"
