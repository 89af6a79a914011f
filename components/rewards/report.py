"""The figures of a trained reward model on the prompts that were held out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from components.rewards.backbones import RewardModel
from components.rewards.dataset import Pairs, Preferences
from components.rewards.fit import pair_margin
from components.rewards.metrics import (
    Accuracy,
    accuracy_by_margin,
    calibration,
    pair_accuracy,
    paired_gain,
    saturation,
)
from components.rewards.states import States
from components.rewards.train import Training

SCHEMA_VERSION = 2


def measure(model: RewardModel, data: Preferences, training: Training) -> dict[str, Any]:
    """Everything that `reports/rewards.json` holds; all of it from the test split, but for the
    course of the training and what an ensemble made of its labels."""
    pairs = data.splits["test"]
    group = data.prompt_of[pairs.image_a]
    margin = pair_margin(States(model, data, cache_megabytes=0), pairs, "scoring test images")
    overall = pair_accuracy(margin, pairs.preference, group)
    bins, error = calibration(margin, pairs.preference, group)
    gain = paired_gain(margin, training.backbone_margin, pairs.preference, group)
    best, epochs = training.fitted.best, training.fitted.epochs
    return {
        "schema_version": SCHEMA_VERSION,
        "architecture": model.architecture,
        **_accuracy(overall),
        "backbone_accuracy": training.backbone_accuracy.value,
        "backbone_accuracy_low": training.backbone_accuracy.low,
        "backbone_accuracy_high": training.backbone_accuracy.high,
        # On the same pairs; much tighter than the two intervals.
        "backbone_gain": gain.value,
        "backbone_gain_low": gain.low,
        "backbone_gain_high": gain.high,
        "calibration_error": error,
        "train_pairs": len(data.splits["train"]),
        "validation_pairs": len(data.splits["validation"]),
        "test_pairs": len(pairs),
        "test_prompts": len(group.unique()),
        "test_ties": len(pairs) - overall.count,
        "best_update": best.update,
        "last_update": epochs[-1].update,
        "stopped_early": training.fitted.stopped_early,
        "validation_accuracy": best.validation_accuracy,
        # By how much the validation loss has risen since the epoch that is kept.
        "overfitting": epochs[-1].validation_loss - best.validation_loss,
        "score_mean": model.mean,
        "score_std": model.std,
        "by_category": {
            name: _accuracy(found)
            for number, name in enumerate(data.categories)
            if (found := _among(pairs.category == number, margin, pairs, group))
        },
        "by_margin": [
            {"low": found.low, "high": found.high, **_accuracy(found.accuracy)}
            for found in accuracy_by_margin(margin, pairs.preference, group)
        ],
        "calibration": [asdict(found) for found in bins],
        "saturation": asdict(saturation(margin, pairs.preference)),
        "annotators": _annotators(data, training, margin, group),
        "learning_curve": _learning_curve(data, training, group),
        "ensemble": _ensemble(training),
    }


def _learning_curve(data: Preferences, training: Training, group: Tensor) -> list[dict[str, Any]]:
    """The points, each with what the labels that it lacks have added."""
    preference, whole = data.splits["test"].preference, training.curve[-1]
    return [
        {
            "prompts": point.prompts,
            "judgements": point.judgements,
            **_accuracy(point.accuracy),
            "to_all": asdict(paired_gain(whole.margin, point.margin, preference, group)),
        }
        for point in training.curve
    ]


def _accuracy(found: Accuracy) -> dict[str, Any]:
    return {
        "accuracy": found.value,
        "accuracy_low": found.low,
        "accuracy_high": found.high,
        "pairs": found.count,
    }


def _among(
    rows: Bool[Tensor, " n"], margin: Float[Tensor, " n"], pairs: Pairs, group: Tensor
) -> Accuracy | None:
    """Accuracy of some pairs; None where none of them is decided."""
    if not (pairs.preference[rows] != 0.5).any():
        return None
    return pair_accuracy(margin[rows], pairs.preference[rows], group[rows])


def _annotators(
    data: Preferences, training: Training, margin: Float[Tensor, " n"], group: Tensor
) -> dict[str, Any]:
    """How often the model agrees with each annotator; and the reliability that was learnt."""
    pairs = data.splits["test"]
    # The backbone as it was has learnt nothing about anybody.
    learnt = training.learnt_reliability and training.fitted.best.update > 0
    reliability = training.fitted.habits.reliability().detach().cpu()
    found = {}
    for number, name in enumerate(data.annotators):
        agreed = _among(pairs.annotator == number, margin, pairs, group)
        if agreed is not None:
            found[name] = {
                **_accuracy(agreed),
                "reliability": float(reliability[number]) if learnt else None,
            }
    return found


def _ensemble(training: Training) -> dict[str, Any] | None:
    mended = training.mended
    if mended is None:
        return None
    strength = mended.strength.mean[mended.strength.mean != 0]
    edges = torch.linspace(0, 1, 11)
    return {
        # Labels of which a member has an opinion; the fractions of the settings are of these.
        "judged": len(strength),
        "flipped": mended.num_flipped,
        "softened": mended.num_softened,
        "smoothed": mended.num_smoothed,
        "contradicted": float((strength < 0).double().mean()) if len(strength) else 0.0,
        # Deciles of the strength, from the label that the ensemble contradicts most.
        "strength": [float(value) for value in strength.quantile(edges)] if len(strength) else [],
    }
