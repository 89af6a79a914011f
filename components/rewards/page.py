"""`reports/rewards.html`: one page that a person reads before a reward model stands in for people.

Made of the dict of `report.measure`, the epochs of the training and where both come from; nothing
is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from components.pages.charts import Line, lines_chart
from components.pages.dot_charts import Dot, dots_chart, reliability_chart
from components.pages.frame import Point, nice_ticks, short, short_percent
from components.pages.numbers import count, decimal, flattened, listed, percent, percent_interval
from components.pages.page import render_page
from components.rewards import wording
from components.rewards.fit import Epoch
from components.rewards.settings import Settings

TEMPLATE = Path(__file__).with_name("page.html.j2")
MAX_ANNOTATORS = 20
"""Shown, those with most judgements; a public data set has thousands."""
MAX_TICKS = 7
"""Epochs that are each named under the axis; of more, round numbers of updates are."""


@dataclass(frozen=True)
class Names:
    """What the page says of where its figures come from."""

    settings: Settings
    seed: int
    lineage: Sequence[tuple[str, str, str]]
    """What, path, and DVC digest of each input."""


def render_report(report: Mapping[str, Any], epochs: Sequence[Epoch], names: Names) -> str:
    """The page as HTML; the same arguments give the same text.

    Args:
        report: of `report.measure`.
        epochs: of the model that is kept, the backbone first.
        names: where both come from.
    """
    shown = most_active(report["annotators"])
    return render_page(
        TEMPLATE,
        report=report,
        names=names,
        verdict=wording.verdict(report),
        headline=wording.headline(report),
        named=wording.named,
        categories=wording.weak_categories(report),
        certainty=wording.certainty(report),
        reliability=wording.reliability(report),
        quarters=_quarters(report),
        margin_chart=_margin_chart(report),
        reliability_chart=_reliability_chart(report),
        annotators=shown,
        learnt=any(found["reliability"] is not None for found in shown.values()),
        people=wording.people(shown),
        more_labels=wording.more_labels(report["learning_curve"]),
        learning_chart=_learning_chart(report),
        course=wording.course(report, epochs, names.settings.patience),
        training=_training_charts(report, epochs),
        mended=wording.mended(report) if report["ensemble"] else None,
        strength_chart=_strength_chart(report),
        settings=list(flattened(names.settings.model_dump(mode="json"), "")),
    )


def most_active(annotators: Mapping[str, Any]) -> dict[str, Any]:
    """At most `MAX_ANNOTATORS`, those with most decided pairs, in the order of their names."""
    order = sorted(annotators, key=lambda name: (-annotators[name]["pairs"], name))
    return {name: annotators[name] for name in sorted(order[:MAX_ANNOTATORS])}


def _quarters(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The bins of margin with a name and the probabilities that they stand for."""
    bins = report["by_margin"]
    names = {0: "least sure", len(bins) - 1: "surest"}
    return [
        {
            **found,
            "name": names.get(place, f"{place + 1} of {len(bins)}"),
            "ends": [_probability(found["low"]), _probability(found["high"])],
        }
        for place, found in enumerate(bins)
    ]


def _probability(margin: float) -> float:
    """Of the picture with the higher score, by Bradley-Terry."""
    return 1 / (1 + math.exp(-margin))


def _margin_chart(report: Mapping[str, Any]) -> Markup:
    quarters = _quarters(report)
    found = [
        Dot(place, one["accuracy"], one["accuracy_low"], one["accuracy_high"])
        for place, one in enumerate(quarters)
    ]
    said = listed([f"{one['name']} {percent(one['accuracy'])}" for one in quarters])
    return Markup(
        dots_chart(
            found,
            {place: one["name"] for place, one in enumerate(quarters)},
            description=f"Accuracy from the least sure to the surest pairs: {said}",
            x_label="how sure the model is",
            level=0.5,
        )
    )


def _reliability_chart(report: Mapping[str, Any]) -> Markup:
    found = [
        Dot(one["predicted"], one["observed"], one["low"], one["high"], one["count"])
        for one in report["calibration"]
    ]
    said = listed([f"{percent(dot.y)} where {percent(dot.x)} was predicted" for dot in found])
    return Markup(
        reliability_chart(
            found,
            description=f"How often the first picture was preferred: {said}",
            x_label="predicted",
        )
    )


def _learning_chart(report: Mapping[str, Any]) -> Markup | None:
    curve = report["learning_curve"]
    if len(curve) < 2:
        return None
    # Each doubling of the labels is as wide as the one before.
    at = [math.log2(max(1, point["judgements"])) for point in curve]
    ends = [(point["accuracy_low"], point["accuracy_high"]) for point in curve]
    accuracy = [point["accuracy"] for point in curve]
    backbone = report["backbone_accuracy"]
    return Markup(
        lines_chart(
            [
                Line("line", list(zip(at, accuracy, strict=True)), ends),
                Line("plain", [(at[0], backbone), (at[-1], backbone)]),
            ],
            _apart({x: count(point["judgements"]) for x, point in zip(at, curve, strict=True)}),
            description=(
                f"Accuracy over judgements: from {percent(accuracy[0])} with "
                f"{curve[0]['judgements']} to {percent(accuracy[-1])} "
                f"{percent_interval(ends[-1])} with {curve[-1]['judgements']}; the backbone "
                f"{percent(backbone)}"
            ),
            x_label="judgements learnt from",
            y_form=short_percent,
        )
    )


def _apart(ticks: Mapping[float, str]) -> dict[float, str]:
    """Without those that would be written over the next one; the last is always there."""
    kept: dict[float, str] = {}
    room = (max(ticks) - min(ticks)) / (MAX_TICKS + 1)
    for x in sorted(ticks, reverse=True):
        if not kept or min(kept) - x >= room:
            kept[x] = ticks[x]
    return dict(sorted(kept.items()))


def _training_charts(report: Mapping[str, Any], epochs: Sequence[Epoch]) -> list[dict[str, Any]]:
    """The course of both losses and of the accuracy, the kept epoch marked where it was chosen."""
    kept = next(epoch for epoch in epochs if epoch.update == report["best_update"])
    validation = [(float(epoch.update), epoch.validation_loss) for epoch in epochs]
    # What stands at update 0 is of another kind: the backbone at its own scale.
    training = [(float(epoch.update), epoch.train_loss) for epoch in epochs[1:]]
    accuracy = [(float(epoch.update), epoch.validation_accuracy) for epoch in epochs]
    return [
        {
            "title": "Validation loss",
            "meaning": "in nats, of prompts that were not trained on; who knows nothing has 0.693",
            "svg": _course(
                "Validation loss",
                validation,
                ((float(kept.update), kept.validation_loss), "kept"),
            ),
        },
        {
            "title": "Training loss",
            "meaning": "in nats, mean of each epoch; what the optimizer saw, terms beside the pairs"
            " included",
            "svg": _course("Training loss", training),
        },
        {
            "title": "Validation accuracy",
            "meaning": "share of validation pairs; it does not choose, being noisier than the loss",
            "svg": _course(
                "Validation accuracy",
                accuracy,
                ((float(kept.update), kept.validation_accuracy), "kept"),
                percents=True,
            ),
        },
    ]


def _course(
    title: str,
    points: Sequence[Point],
    mark: tuple[Point, str] | None = None,
    *,
    percents: bool = False,
) -> Markup:
    form = short_percent if percents else _nats
    text = f"{title} over updates: from {form(points[0][1])} to {form(points[-1][1])}"
    if mark:
        text += f", the kept epoch at update {short(mark[0][0])} with {form(mark[0][1])}"
    first, last = points[0][0], points[-1][0]
    updates = [x for x, _ in points] if len(points) <= MAX_TICKS else nice_ticks(first, last)
    return Markup(
        lines_chart(
            [Line("line", points)],
            {x: count(x) for x in updates},
            description=text,
            x_label="updates",
            y_form=form,
            mark=mark,
        )
    )


def _nats(loss: float) -> str:
    """A loss as an axis shows it: its changes are small beside itself."""
    return f"{loss:.5g}"


def _strength_chart(report: Mapping[str, Any]) -> Markup | None:
    """The deciles of strength, from the label that the ensemble contradicts most."""
    strength = report["ensemble"]["strength"] if report["ensemble"] else []
    if not strength:
        return None
    at = [index / (len(strength) - 1) for index in range(len(strength))]
    said = f"from {decimal(strength[0])} by {decimal(strength[len(strength) // 2])} in the middle"
    return Markup(
        lines_chart(
            [Line("line", list(zip(at, strength, strict=True)))],
            {share: percent(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)},
            description=f"Strength of the labels, in log-odds: {said} to {decimal(strength[-1])}",
            x_label="labels, from the most contradicted one",
        )
    )
