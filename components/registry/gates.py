"""What a LoRA must pass before it is registered. Pure: figures in, verdicts out.

Each gate keeps its figure, its limit and a reason, passed or not: the receipt, the model card and
the version's tags show all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.registry.settings import GateSettings


@dataclass(frozen=True)
class Gate:
    """One verdict."""

    name: str
    figure: float | str | None
    """What was found; None where the report does not know it, which never passes."""
    limit: str
    """What is demanded, readable: `> 0`."""
    passed: bool
    why: str
    """What the gate guards against, in one clause."""

    def line(self) -> str:
        """The verdict in one line."""
        found = "unknown" if self.figure is None else self.figure
        return f"{self.name} is {found}, demanded {self.limit} ({self.why})"


def evaluation_gates(report: Mapping[str, Any], limits: GateSettings) -> list[Gate]:
    """The gates on `reports/evaluation.json`."""
    hacking = _find(report, "reward_hacking")
    return [
        _above(
            "difference_low",
            _find(report, "difference", "interval", 0),
            limits.min_difference_low,
            "more prompt-correct images than the base, lower end of the 95 % interval",
        ),
        _above(
            "win_rate_low",
            _find(report, "win_rate", "interval", 0),
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
        _at_least(
            "diversity_ratio",
            _find(report, "drift", "diversity_ratio"),
            limits.min_diversity_ratio,
            "images of one prompt must not become all alike",
        ),
        _within(
            "brightness_drift",
            _find(report, "drift", "brightness", "difference"),
            limits.max_brightness_drift,
            "brighter or darker is an easy way to please a reward",
        ),
        _within(
            "saturation_drift",
            _find(report, "drift", "saturation", "difference"),
            limits.max_saturation_drift,
            "so are louder or paler colours",
        ),
        _within(
            "judge_error",
            _find(report, "judge_error_rate"),
            limits.max_judge_error,
            "the judge's own error on held-out images",
        ),
    ]


def failed(gates: Sequence[Gate]) -> list[Gate]:
    """The gates that were not passed."""
    return [gate for gate in gates if not gate.passed]


def _find(report: Any, *path: str | int) -> Any:
    for step in path:
        try:
            report = report[step]
        except (KeyError, IndexError, TypeError):
            return None
    return report


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # NaN is no figure: it compares false with everything, which a negated comparison would pass.
    return float(value) if is_number and value == value else None


def _above(name: str, value: Any, limit: float, why: str) -> Gate:
    figure = _number(value)
    return Gate(name, figure, f"> {limit:g}", figure is not None and figure > limit, why)


def _at_least(name: str, value: Any, limit: float, why: str) -> Gate:
    figure = _number(value)
    return Gate(name, figure, f"≥ {limit:g}", figure is not None and figure >= limit, why)


def _within(name: str, value: Any, limit: float, why: str) -> Gate:
    figure = _number(value)
    passed = figure is not None and abs(figure) <= limit
    return Gate(name, figure, f"within ± {limit:g}", passed, why)
