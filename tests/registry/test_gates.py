"""Each gate by hand: the figure that passes, and one that fails alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from components.registry.gates import failed
from components.registry.lora.gates import evaluation_gates
from components.registry.settings import GateSettings, Settings
from tests.registry.world import EVALUATION

LIMITS = GateSettings()


def _with(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    report: Any = copy.deepcopy(EVALUATION)
    here = report
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = value
    return report  # type: ignore[no-any-return]


def test_a_good_report_passes_every_gate() -> None:
    gates = evaluation_gates(EVALUATION, LIMITS)
    assert failed(gates) == [] and len(gates) == 7


@pytest.mark.parametrize(
    ("gate", "path", "value"),
    [
        ("difference_low", ("difference", "interval", 0), 0.0),
        ("difference_low", ("difference", "interval", 0), -0.01),
        ("win_rate_low", ("win_rate", "interval", 0), 0.5),
        ("reward_hacking", ("reward_hacking",), "yes"),
        ("diversity_ratio", ("drift", "diversity_ratio"), 0.69),
        ("brightness_drift", ("drift", "brightness", "difference"), -0.11),
        ("brightness_drift", ("drift", "brightness", "difference"), 0.11),
        ("saturation_drift", ("drift", "saturation", "difference"), 0.16),
        ("judge_error", ("judge_error_rate",), 0.051),
    ],
)
def test_each_gate_fails_alone_and_says_why(gate: str, path: Any, value: Any) -> None:
    (broken,) = failed(evaluation_gates(_with(path, value), LIMITS))
    assert broken.name == gate and broken.figure == value
    assert gate in broken.line() and broken.limit in broken.line() and broken.why in broken.line()


@pytest.mark.parametrize(
    ("gate", "path", "value"),
    [
        ("difference_low", ("difference", "interval", 0), 0.001),
        ("win_rate_low", ("win_rate", "interval", 0), 0.501),
        ("reward_hacking", ("reward_hacking",), "watch"),
        ("diversity_ratio", ("drift", "diversity_ratio"), 0.7),
        ("brightness_drift", ("drift", "brightness", "difference"), -0.1),
        ("judge_error", ("judge_error_rate",), 0.05),
    ],
)
def test_the_limit_itself(gate: str, path: Any, value: Any) -> None:
    assert failed(evaluation_gates(_with(path, value), LIMITS)) == []


@pytest.mark.parametrize("unknown", [None, float("nan"), "0.9", True, {}])
def test_a_figure_that_is_not_known_never_passes(unknown: Any) -> None:
    report = _with(("win_rate", "interval"), [unknown, 0.9])
    (broken,) = failed(evaluation_gates(report, LIMITS))
    assert broken.name == "win_rate_low" and "unknown" in broken.line()


def test_an_empty_report_passes_nothing() -> None:
    assert len(failed(evaluation_gates({}, LIMITS))) == 7


def test_thresholds_come_from_the_settings() -> None:
    strict = GateSettings(min_win_rate_low=0.56)
    assert [gate.name for gate in failed(evaluation_gates(EVALUATION, strict))] == ["win_rate_low"]


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "-x", "x" * 101])
def test_a_name_that_the_registry_would_refuse_is_refused_first(name: str) -> None:
    with pytest.raises(ValidationError):
        Settings(model_name=name)
