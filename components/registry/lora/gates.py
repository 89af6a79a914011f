"""What a LoRA must pass before it is registered, by the figures of its evaluation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.registry.gates import Gate, above, at_least, find, within
from components.registry.settings import GateSettings


def evaluation_gates(report: Mapping[str, Any], limits: GateSettings) -> list[Gate]:
    """The gates on `reports/evaluation.json`."""
    hacking = find(report, "reward_hacking")
    return [
        above(
            "difference_low",
            find(report, "difference", "interval", 0),
            limits.min_difference_low,
            "more prompt-correct images than the base, lower end of the 95 % interval",
        ),
        above(
            "win_rate_low",
            find(report, "win_rate", "interval", 0),
            limits.min_win_rate_low,
            "wins against the base by the held-out judge, lower end of the 95 % interval",
        ),
        Gate(
            "reward_hacking",
            hacking,
            "no or watch",
            hacking in ("no", "watch"),
            "the reward must not rise while the held-out judge falls",
        ),
        at_least(
            "diversity_ratio",
            find(report, "drift", "diversity_ratio"),
            limits.min_diversity_ratio,
            "images of one prompt must not become all alike",
        ),
        within(
            "brightness_drift",
            find(report, "drift", "brightness", "difference"),
            limits.max_brightness_drift,
            "brighter or darker is an easy way to please a reward",
        ),
        within(
            "saturation_drift",
            find(report, "drift", "saturation", "difference"),
            limits.max_saturation_drift,
            "so are louder or paler colours",
        ),
        within(
            "judge_error",
            find(report, "judge_error_rate"),
            limits.max_judge_error,
            "the judge's own error on held-out images",
        ),
    ]
