"""One picture of what a reviewer asks of a reward model first.

Is a predicted probability what it says, would more labels help, does a judge like what the reward
picks, and which edits of a picture fool it. A panel whose figures the reports lack is left out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE = 3.6
"""Inches of a panel, of 100 pixels."""
MAX_COLUMNS = 2
"""MLflow cuts off what is wider than its column of text."""
INK, GREY, BLUE, ORANGE = "#222222", "#999999", "#2a6fb0", "#d9822b"
MAX_EDITS = 8
Panel = Callable[["Axes"], None]


def review_picture(report: Mapping[str, Any], audit: Mapping[str, Any] | None) -> bytes | None:
    """The panels as a PNG; None where there is nothing to show."""
    panels = _panels(report, audit or {})
    if not panels:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(panels), MAX_COLUMNS)
    rows = -(-len(panels) // columns)
    # Without pyplot, which keeps every figure and looks for a screen.
    figure = Figure(figsize=(SIDE * columns, SIDE * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, draw in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        draw(axes)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _panels(report: Mapping[str, Any], audit: Mapping[str, Any]) -> list[Panel]:
    bins, curve = report.get("calibration") or [], report.get("learning_curve") or []
    best, edits = audit.get("best_of_n") or {}, audit.get("sensitivity") or {}
    limit = audit.get("checks", {}).get("shortcut", {}).get("limit")
    panels: list[Panel] = []
    if bins:
        panels.append(lambda axes: _calibration(axes, bins))
    if len(curve) > 1:
        panels.append(lambda axes: _learning(axes, curve))
    if best.get("score"):
        panels.append(lambda axes: _best_of_n(axes, best))
    if edits:
        panels.append(lambda axes: _shortcuts(axes, edits, limit))
    return panels


def _calibration(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    """Predicted against observed, a dot as large as its bin."""
    largest = max(found["count"] for found in bins)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    axes.scatter(
        [found["predicted"] for found in bins],
        [found["observed"] for found in bins],
        s=[10 + 110 * found["count"] / largest for found in bins],
        color=BLUE,
        zorder=3,
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    _words(axes, "Does a probability mean what it says?", "predicted", "observed")


def _learning(axes: Axes, curve: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy against the number of judgements."""
    judgements = [point["judgements"] for point in curve]
    accuracy = [point["accuracy"] for point in curve]
    axes.fill_between(
        judgements,
        [point["accuracy_low"] for point in curve],
        [point["accuracy_high"] for point in curve],
        color=BLUE,
        alpha=0.18,
        linewidth=0,
    )
    axes.plot(judgements, accuracy, color=BLUE, marker="o", markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(judgements, [f"{number:,}" for number in judgements])
    axes.minorticks_off()
    _words(axes, "Would more labels help?", "judgements", "accuracy on unseen prompts")


def _best_of_n(axes: Axes, best: Mapping[str, Any]) -> None:
    """The judge's score of what the reward picks, and of what the judge itself would pick."""
    n, score = best["n"], best["score"]
    axes.plot(n, score["oracle"], color=GREY, label="the judge picks")
    axes.fill_between(
        n, score["picked_low"], score["picked_high"], color=ORANGE, alpha=0.18, linewidth=0
    )
    axes.plot(n, score["picked"], color=ORANGE, marker="o", markersize=4, label="this reward picks")
    axes.set_xticks(n)
    axes.legend(frameon=False, fontsize=8)
    _words(axes, "Does a judge like what it picks?", "best of n images", "judge's score")


def _shortcuts(axes: Axes, edits: Mapping[str, Any], limit: float | None) -> None:
    """How far edits raise the reward beyond what the judge grants, the worst on top."""
    worst = sorted(edits.items(), key=lambda item: item[1]["shortcut"])[-MAX_EDITS:]
    found = [edit["shortcut"] for _, edit in worst]
    refused = [limit is not None and value > limit for value in found]
    axes.barh(
        [name for name, _ in worst],
        found,
        color=[ORANGE if over else BLUE for over in refused],
    )
    if limit is not None:
        axes.axvline(limit, color=INK, linewidth=1, linestyle="--")
        inside = axes.get_xaxis_transform()
        axes.text(limit, 0.98, "limit ", fontsize=8, color=INK, ha="right", transform=inside)
    axes.set_xlim(0, 1.1 * max(limit or 0.0, *found, 0.1))
    _words(axes, "Which edits fool it?", "spreads of the reward", "")


def _words(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
