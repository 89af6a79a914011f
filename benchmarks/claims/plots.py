"""One picture a claim, drawn from its json alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from components.contracts.artifacts import atomic_path

Figures = Mapping[str, Any]
BLUE, ORANGE, GREY, RED = "#2563a8", "#d97706", "#8a8f98", "#b91c1c"
WIDTH = 9.0


def draw(figures: Figures, path: Path) -> None:
    """Draw a claim's picture: gains of its arms, beside what else decides it."""
    other = _other_panel(figures)
    num_arms = max(len(figures["arms"]), 1)
    height = max(2.6, 0.32 * num_arms + 1.2)
    if figures["claim"] == "9":
        _draw_curves(figures, path)
        return
    drawn, axes = plt.subplots(
        1, 2 if other else 1, figsize=(WIDTH, height), layout="constrained", squeeze=False
    )
    if "best_of_n" in figures:
        _against_best_of_n(axes[0][0], figures["against_best_of_n"])
    else:
        _gains(axes[0][0], figures["arms"])
    if other:
        other(axes[0][1])
    drawn.suptitle(f"{figures['claim']}. {figures['title']}", x=0.01, ha="left", fontsize=11)
    save(drawn, path)


def _gains(axes: Axes, arms: Figures) -> None:
    _dots(
        axes,
        {name: arm["gain"] for name, arm in arms.items()},
        "prompt-correct images, points over the base\n(unseen prompts; 95 %, ticks: seeds)",
    )


def _against_best_of_n(axes: Axes, arms: Figures) -> None:
    _dots(
        axes,
        {name: arm["minus best of 4"] for name, arm in arms.items()},
        "one image of the method minus the base's best of 4,\npoints (95 %, ticks: seeds)",
    )


def _dots(axes: Axes, estimates: Figures, label: str) -> None:
    names = list(estimates)[::-1]
    for place, name in enumerate(names):
        gain = estimates[name]
        low, high = (100 * value for value in gain["interval"])
        axes.plot([low, high], [place, place], color=BLUE, linewidth=2, solid_capstyle="round")
        axes.plot(100 * gain["value"], place, "o", color=BLUE, markersize=6)
        by_seed = [100 * value for value in gain["by_seed"]]
        axes.plot(by_seed, [place - 0.22] * len(by_seed), "|", color=GREY, markersize=6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(label)
    _bare(axes)


def _other_panel(figures: Figures) -> Callable[[Axes], None] | None:
    if "pairs" in figures:
        return lambda axes: _win_rates(axes, figures["pairs"])
    if "cost" in figures:
        return lambda axes: _costs(axes, figures["cost"], figures["to"])
    if "labels" in figures:
        return lambda axes: _labels(axes, figures["labels"])
    if "best_of_n" in figures:
        return lambda axes: _best_of_n(axes, figures["best_of_n"])
    return lambda axes: _diversities(axes, figures["arms"])


def _best_of_n(axes: Axes, models: Figures) -> None:
    for number, (model, shown) in enumerate(models.items()):
        counts = [int(n) for n in shown]
        color = (BLUE, ORANGE, RED, GREY, "black")[number % 5]
        levels = [100 * shown[str(n)]["value"] for n in counts]
        axes.plot(counts, levels, "o-", markersize=4, linewidth=1.5, color=color, label=model)
    axes.legend(frameon=False, fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.set_xlabel("n, of which the highest reward is shown")
    axes.set_ylabel("prompt-correct, %")
    _bare(axes)


def _win_rates(axes: Axes, pairs: Figures) -> None:
    names = list(pairs)[::-1]
    for place, name in enumerate(names):
        rate = pairs[name]["win_rate"]
        axes.plot([100 * value for value in rate["interval"]], [place] * 2, color=ORANGE, lw=2)
        axes.plot(100 * rate["value"], place, "o", color=ORANGE, markersize=6)
    axes.axvline(50, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), [name.replace(" against ", "\nagainst ") for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("win rate by the\njudge's score, %")
    _bare(axes)


def _costs(axes: Axes, costs: Figures, to: str) -> None:
    names = list(costs)[::-1]
    what = next(iter(next(iter(costs.values()))))
    for place, name in enumerate(names):
        _bar(axes, place, costs[name][what], ORANGE, 0.55)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{what} to the same {to} (ticks: seeds)")
    _bare(axes)


def _labels(axes: Axes, arms: Figures) -> None:
    names = list(arms)[::-1]
    kinds = {"in its rounds": (ORANGE, 0.2), "from N(0, I)": (GREY, -0.2)}
    for place, name in enumerate(names):
        for kind, (colour, above) in kinds.items():
            if kind in arms[name]:
                _bar(axes, place + above, arms[name][kind], colour, 0.36)
    handles = [Patch(color=colour, label=kind) for kind, (colour, _) in kinds.items()]
    axes.legend(handles=handles, frameon=False, fontsize=8, ncols=2, loc="lower right")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-1.2, len(names) - 0.4)
    axes.set_xlim(0, 1.15 * axes.get_xlim()[1])
    axes.set_xlabel("labels to the same rise\n(of the fixed reward: images; ticks: seeds)")
    _bare(axes)


def _bar(axes: Axes, place: float, found: Figures, colour: str, height: float) -> None:
    """What a target cost on average, with a tick for each seed that reached it."""
    reached = [value for value in found["by_seed"] if value is not None]
    if not reached:
        words = f" not reached with {found['spent']:,.0f}"
        axes.text(0, place, words, va="center", fontsize=8, color=GREY)
        return
    axes.barh(place, found["value"], color=colour, height=height)
    axes.plot(reached, [place] * len(reached), "|", color="black", markersize=9)
    if len(reached) < len(found["by_seed"]):
        words = f"  {found['reached']} seeds"
        axes.text(max(reached), place, words, va="center", fontsize=8)


def _diversities(axes: Axes, arms: Figures) -> None:
    names = list(arms)[::-1]
    shares = [
        100 * arms[name]["diversity"]["value"] / arms[name]["base_diversity"]["value"]
        for name in names
    ]
    axes.barh(range(len(names)), shares, color=ORANGE, height=0.55)
    axes.axvline(100, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("diversity within a prompt, % of the base's")
    _bare(axes)


def _draw_curves(figures: Figures, path: Path) -> None:
    """A small panel for each method: judge and diversity against the reward."""
    curves = figures["curves"]
    columns = 6
    rows = -(-len(curves) // columns)
    drawn, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.1 * columns, 1.9 * rows + 0.8),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for panel in axes.flat[len(curves) :]:
        panel.set_visible(False)
    for panel, (name, seeds) in zip(axes.flat, curves.items(), strict=False):
        for looks in seeds:
            start = looks[0]
            reward = [look["validation_reward"] - start["validation_reward"] for look in looks]
            judge = [100 * (look["judge"] - start["judge"]) for look in looks]
            spread = [
                100 * (look["validation_diversity"] / start["validation_diversity"] - 1)
                for look in looks
            ]
            panel.plot(reward, judge, "-", color=BLUE, linewidth=1.2)
            panel.plot(reward, spread, "-", color=ORANGE, linewidth=1.0, alpha=0.8)
            panel.plot(reward[-1], judge[-1], "o", color=BLUE, markersize=3)
            panel.plot(reward[-1], spread[-1], "o", color=ORANGE, markersize=3)
        panel.axhline(0, color=GREY, linewidth=0.6)
        panel.set_title(name, fontsize=9, loc="left")
        panel.tick_params(labelsize=7)
        _bare(panel)
    drawn.supxlabel(
        "reward on validation prompts, gain over the start (standard deviations)", fontsize=9
    )
    drawn.supylabel("change since the start", fontsize=9)
    drawn.suptitle(
        "9. Who hacks the reward first: judge (blue, points of correct images) and diversity "
        "(orange, %) as the reward rises; one line a seed",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    save(drawn, path)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.6)
    axes.set_axisbelow(True)


def save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
