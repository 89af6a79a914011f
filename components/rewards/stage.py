"""The body of stage 3: read the labels, train, measure on prompts that were held out, write."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.artifacts import write_csv, write_json, write_text
from components.contracts.stage import StageContext, log_inputs, write_manifest
from components.rewards.settings import Settings

if TYPE_CHECKING:
    from components.rewards.backbones import RewardModel
    from components.rewards.dataset import Preferences
    from components.rewards.fit import Epoch

PREFERENCES = Path("data/preferences")
MODEL = Path("models/reward")
REPORT = Path("reports/rewards.json")
PAGE = Path("reports/rewards.html")
CURVE = Path("reports/rewards_curve.csv")
CALIBRATION = Path("reports/rewards_calibration.csv")
LEARNING = Path("reports/rewards_learning.csv")


def run(settings: Settings, context: StageContext) -> dict[str, float]:
    """Train the reward model and report how often it agrees with people on unseen prompts.

    Raises:
        DataError, QuarantinedData: the preferences cannot be trained on, or the audit refuses the
            reward; earlier outputs stay.
        ModelError: the backbone cannot be used.
        GuardError: training met a number that is not finite, or ended with a constant score.
    """
    from components.contracts.device import find_device
    from components.rewards.audit.run import run_audit, write_unaudited
    from components.rewards.backbones import open_backbone
    from components.rewards.dataset import read_preferences
    from components.rewards.page import Names, render_report
    from components.rewards.report import measure
    from components.rewards.scorers.model import ModelScorer
    from components.rewards.train import train

    started = time.monotonic()
    root = context.root
    source = settings.backbone.source
    local = (root / source).is_dir()
    inputs = {"preferences": PREFERENCES} | ({"backbone": Path(source)} if local else {})
    model = open_backbone(
        settings.backbone.architecture,
        root / source if local else source,
        context.generator("backbone"),
    )
    data = read_preferences(
        root / PREFERENCES, model.preprocessing.resize, settings.cache_megabytes
    )
    digests = log_inputs(context, **inputs)
    model.symmetric = settings.horizontal_flip
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

    training = train(model, data, settings, context.generator("training"), report_epoch)
    _standardise(model, data)
    report = measure(model, data, training)
    lineage = [(name, path.as_posix(), digests[name]) for name, path in inputs.items()]
    page = render_report(
        report, training.fitted.epochs, Names(settings, context.seed, tuple(lineage))
    )
    audited = None
    if settings.audit is not None:
        # Before the model takes the place of the one before it.
        audited = run_audit(ModelScorer(model), settings.audit, context, MODEL.as_posix())

    model.save(root / MODEL)
    _write_report(root, report, training.fitted.epochs)
    write_text(root / PAGE, page)
    pages = (
        audited.write(root / REPORT.parent) if audited else write_unaudited(root / REPORT.parent)
    )
    for path in (*(root / name for name in (REPORT, PAGE, CURVE, CALIBRATION, LEARNING)), *pages):
        context.tracker.log_artifact(path)
    write_manifest(context, settings, digests, time.monotonic() - started)
    return {
        **{name: value for name, value in report.items() if isinstance(value, int | float)},
        **{f"accuracy_{name}": found["accuracy"] for name, found in report["by_category"].items()},
        **(audited.metrics if audited else {}),
    }


def _standardise(model: RewardModel, data: Preferences) -> None:
    """Set mean and std of the reward to those of the scores of the training images."""
    import torch

    from components.contracts.errors import GuardError
    from components.rewards.states import States

    images = torch.cat(
        [
            data.splits["train"].image_a,
            data.splits["train"].image_b,
            data.rankings["train"].image,
            data.ratings["train"].image,
        ]
    ).unique()
    states = States(model, data, cache_megabytes=0)
    scores = states.scores(images, "measuring the scale of the reward").double()
    mean, std = float(scores.mean()), float(scores.std(correction=0))
    if not std > 1e-6:
        raise GuardError(
            f"the reward is the same for all {len(images)} training images (std {std})"
        )
    model.mean, model.std = mean, std


def _write_report(root: Path, report: dict[str, Any], epochs: Sequence[Epoch]) -> None:
    write_json(root / REPORT, report)
    write_csv(
        root / CURVE,
        ("update", "train_loss", "validation_loss", "validation_accuracy"),
        [
            (e.update, *_rounded(e.train_loss, e.validation_loss, e.validation_accuracy))
            for e in epochs
        ],
    )
    write_csv(
        root / CALIBRATION,
        ("predicted", "observed", "count"),
        [
            (*_rounded(found["predicted"], found["observed"]), found["count"])
            for found in report["calibration"]
        ],
    )
    write_csv(
        root / LEARNING,
        ("judgements", "accuracy", "accuracy_low", "accuracy_high"),
        [
            (
                point["judgements"],
                *_rounded(point["accuracy"], point["accuracy_low"], point["accuracy_high"]),
            )
            for point in report["learning_curve"]
        ],
    )


def _rounded(*values: float) -> list[str]:
    return [f"{value:.6f}" for value in values]
