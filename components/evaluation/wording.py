"""How the page says its figures: sentences, and facts of other stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from components.pages.numbers import (
    NBSP,
    count,
    flattened,
    percent,
    percent_interval,
    points,
    points_interval,
    signed,
    signed_interval,
)


def headline(evaluation: Mapping[str, Any]) -> str:
    """The verdict in one sentence; it claims a difference only where the interval excludes zero."""
    base, lora = (percent(evaluation[name]["correct"]) for name in ("base", "lora"))
    draws = f"{lora} prompt-correct images on unseen prompts, the base {base}."
    return {
        "better": f"The LoRA draws {draws}",
        "worse": f"The LoRA draws only {draws}",
        "unclear": f"No clear difference: the LoRA draws {draws}",
    }[evaluation["verdict"]]


def hacking_line(evaluation: Mapping[str, Any]) -> str:
    """Whether reward and judge parted ways, in one or two sentences."""
    reward, difference = evaluation["reward_difference"], evaluation["difference"]
    facts = (
        f"the reward changed by {signed(reward['value'])} {signed_interval(reward['interval'])}, "
        f"the judge's verdict by {points(difference['value'])} points "
        f"{points_interval(difference['interval'])}"
    )
    line = {
        "no": f"No sign of reward hacking: {facts}.",
        "watch": f"Reward and judge point apart, within the reach of chance: {facts}.",
        "yes": f"Reward hacking: the reward rose while the judge's verdict fell ({facts}).",
    }[evaluation["reward_hacking"]]
    apart = [
        name for name, task in evaluation["by_category"].items() if task["reward_hacking"] != "no"
    ]
    if apart:
        line += f" By task, the reward rose and the judge's verdict fell in: {', '.join(apart)}."
    return line


def baseline_line(evaluation: Mapping[str, Any]) -> str:
    """Whether one image of the LoRA is worth more than the best of n of the base."""
    n, found = next(iter(evaluation["baselines"]["best_of_n"].items()))
    difference = found["lora_difference"]
    low, high = difference["interval"]
    verdict = (
        "The LoRA is worth more than"
        if low is not None and low > 0
        else "The LoRA is worth less than"
        if high is not None and high < 0
        else "No clear difference between the LoRA and"
    )
    return (
        f"{verdict} drawing {n} images with the base and showing the one with the highest reward: "
        f"{points(difference['value'])} points {points_interval(difference['interval'])}."
    )


def baseline_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The base, what can be done with it untrained, and the LoRA; none where nothing was tried."""
    baselines = evaluation.get("baselines")
    if not baselines:
        return []
    base, lora = evaluation["base"], evaluation["lora"]
    rows = [
        _baseline_row(
            "base", "one image", 1, base, evaluation["difference"], evaluation["win_rate"]
        )
    ]
    for n, found in baselines["best_of_n"].items():
        rows.append(
            _baseline_row(
                f"best of {n}",
                "the highest reward",
                int(n),
                found,
                found["lora_difference"],
                found["lora_win_rate"],
            )
        )
    found = baselines["prompt_search"]
    if found:
        rows.append(
            _baseline_row(
                "other words",
                found["template"],
                1,
                found,
                found["lora_difference"],
                found["lora_win_rate"],
            )
        )
    return [*rows, _baseline_row("LoRA", "one image", 1, lora, None, None)]


def _baseline_row(
    name: str,
    note: str,
    images: int,
    figures: Mapping[str, Any],
    difference: Mapping[str, Any] | None,
    wins: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "name": name,
        "note": note,
        "images": images,
        "correct": figures["correct"],
        "interval": figures["interval"],
        "reward": figures["reward"],
        "score": figures["score"],
        "difference": difference,
        "wins": wins,
    }


def settings_rows(
    finetuning: Mapping[str, Any], adapter: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Every setting of the training and every fact that the LoRA's folder tells, one row each."""
    return [
        *flattened(finetuning.get("settings", {}), ""),
        *flattened(adapter, "adapter"),
    ]


def data_facts(reports: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the stages before this one worked with; a fact that a report lacks gives no row."""
    rows = []
    for label, stage, key, form in _FACTS:
        value = _look_up(reports.get(stage, {}), key)
        if isinstance(value, int | float):
            rows.append((label, form(value)))
    reward = reports.get("rewards", {})
    if "accuracy_low" in reward and "accuracy_high" in reward:
        ends = (reward["accuracy_low"], reward["accuracy_high"])
        rows.append(("95 % interval of that accuracy", f"{percent_interval(ends)}{NBSP}%"))
    return rows


_FACTS: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("Prompts kept", "prompts", "kept", count),
    ("Prompts for training", "prompts", "splits.train", count),
    ("Prompts held out for testing", "prompts", "splits.test", count),
    ("Prompts in two splits", "prompts", "leakage", count),
    ("Images shown to people", "preferences", "samples", count),
    ("Judgements", "preferences", "judgements", count),
    ("Annotators", "preferences", "annotators", count),
    ("Ties", "preferences", "tie_fraction", percent),
    ("Agreement between annotators", "preferences", "agreement", percent),
    ("Reward model's backbone, pair accuracy", "rewards", "backbone_accuracy", percent),
    ("Reward model, pair accuracy on held-out prompts", "rewards", "accuracy", percent),
)
"""Label, stage, dotted key in the stage's report, and how the value is written."""


def _look_up(report: Mapping[str, Any], key: str) -> Any:
    found: Any = report
    for step in key.split("."):
        if not isinstance(found, Mapping) or step not in found:
            return None
        found = found[step]
    return found
