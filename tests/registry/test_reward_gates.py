"""Each gate of a reward model by hand, and its card and picture as text and bytes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from components.registry.gates import failed
from components.registry.markdown import CUT, MAX_CHARACTERS, cut, table
from components.registry.reward.card import _more, headline
from components.registry.reward.gates import figure_gates
from components.registry.reward.picture import review_picture
from components.registry.settings import RewardGateSettings, Settings
from tests.registry.world import AUDIT, REWARDS, changed

LIMITS = RewardGateSettings()


def test_a_good_report_passes_every_gate() -> None:
    gates = figure_gates(REWARDS, AUDIT, LIMITS)
    assert failed(gates) == [] and len(gates) == 4
    assert {gate.name: gate.figure for gate in gates} == {
        "reward_accuracy_low": 0.71,
        "reward_lead": pytest.approx(0.742 - 0.551),
        "reward_calibration": 0.031,
        "reward_audit": "passed",
    }


@pytest.mark.parametrize(
    ("gate", "key", "value"),
    [
        ("reward_accuracy_low", "accuracy_low", 0.5),
        ("reward_accuracy_low", "accuracy_low", None),
        ("reward_accuracy_low", "accuracy_low", float("nan")),
        ("reward_lead", "backbone_accuracy", 0.75),
        ("reward_lead", "backbone_accuracy", None),
        ("reward_calibration", "calibration_error", 0.101),
        ("reward_calibration", "calibration_error", "0.01"),
    ],
)
def test_each_gate_fails_alone(gate: str, key: str, value: Any) -> None:
    (broken,) = failed(figure_gates(changed(REWARDS, key, value=value), AUDIT, LIMITS))
    assert broken.name == gate and broken.limit in broken.line()


def test_the_limits_themselves() -> None:
    # As good as its backbone is no harm done; a calibration at its limit passes.
    report = REWARDS | {"backbone_accuracy": 0.742, "calibration_error": 0.1}
    assert failed(figure_gates(report, AUDIT, LIMITS)) == []


def test_a_reward_that_the_audit_refuses_never_passes() -> None:
    audit = changed(AUDIT, "checks", "shortcut", "passed", value=False) | {"passed": False}
    for limits in (LIMITS, RewardGateSettings(audit=False)):
        (broken,) = failed(figure_gates(REWARDS, audit, limits))
        assert broken.figure == "failed: shortcut"
    # An audit that says no without saying why, and one that says neither.
    (broken,) = failed(figure_gates(REWARDS, {"passed": False}, LIMITS))
    assert broken.figure == "failed: unknown"
    (broken,) = failed(figure_gates(REWARDS, {"passed": "yes"}, LIMITS))
    assert broken.figure == "failed: unknown"


def test_a_reward_that_nobody_audited_passes_only_where_that_is_allowed() -> None:
    (broken,) = failed(figure_gates(REWARDS, None, LIMITS))
    assert (broken.name, broken.figure) == ("reward_audit", "none")
    assert failed(figure_gates(REWARDS, None, RewardGateSettings(audit=False))) == []


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="cannot both be called 'konomi-lora'"):
        Settings.model_validate({"reward": {"model_name": "konomi-lora"}})
    assert Settings().model_names() == {"lora": "konomi-lora", "reward": "konomi-reward"}
    assert Settings(reward=None).model_names() == {"lora": "konomi-lora"}


def test_the_headline() -> None:
    assert headline(REWARDS) == (
        "Decides 74.2 % [71.0, 77.2] of unseen pairs as people do, its backbone 55.1 %"
    )
    assert headline({}) == "Decides ? of unseen pairs as people do, its backbone ?"


def test_of_many_annotators_the_card_shows_those_with_whom_it_agrees_least() -> None:
    many = {
        f"person {number}": {"accuracy": 0.5 + number / 1000, "pairs": 10} for number in range(40)
    }
    heading, rows, *_ = _more(REWARDS | {"annotators": many})
    assert heading == "### Agreement with each annotator (the lowest 12 of 40)"
    assert "| person 0 | 50.0 % | 10 |  |" in rows and "person 12" not in rows
    assert _more({}) == []


def test_a_card_is_cut_at_a_line() -> None:
    card = "\n".join(f"line {number}" for number in range(2000))
    kept = cut(card)
    assert len(kept) <= MAX_CHARACTERS and kept.endswith(CUT)
    assert kept.removesuffix(CUT).splitlines() == card.splitlines()[: kept.count("line")]
    assert cut("short") == "short"
    assert table(("a", "b"), [("x|y", "z")]) == "| a | b |\n| --- | --- |\n| x/y | z |"


def test_the_picture_has_a_panel_for_what_is_known() -> None:
    def size(report: dict[str, Any], audit: dict[str, Any] | None) -> tuple[int, int]:
        content = review_picture(report, audit)
        assert content is not None and content == review_picture(report, audit)
        return Image.open(io.BytesIO(content)).size

    one, _ = size({"calibration": REWARDS["calibration"]}, None)
    assert size(REWARDS, None) == size(REWARDS, {"passed": True}) == (2 * one, one)
    assert size(REWARDS, AUDIT) == (2 * one, 2 * one)
    # No more than MLflow's page shows.
    assert 2 * one <= 750
    assert review_picture({}, None) is None
