"""What a reward model must pass before it is registered, by its figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.registry.gates import Gate, above, at_least, at_most, find
from components.registry.settings import RewardGateSettings


def figure_gates(
    report: Mapping[str, Any], audit: Mapping[str, Any] | None, limits: RewardGateSettings
) -> list[Gate]:
    """The gates on `reports/rewards.json` and `reports/rewards_audit.json`.

    `audit` is None where nobody audited.
    """
    accuracy, backbone = find(report, "accuracy"), find(report, "backbone_accuracy")
    known = isinstance(accuracy, float) and isinstance(backbone, float)
    return [
        above(
            "reward_accuracy_low",
            find(report, "accuracy_low"),
            limits.min_accuracy_low,
            "pairs of unseen prompts decided as people did, lower end of the 95 % interval",
        ),
        at_least(
            "reward_lead",
            accuracy - backbone if known else None,
            limits.min_lead,
            "accuracy beyond that of the backbone before it learnt",
        ),
        at_most(
            "reward_calibration",
            find(report, "calibration_error"),
            limits.max_calibration_error,
            "a predicted probability must mean what it says",
        ),
        _audit_gate(audit, required=limits.audit),
    ]


def failed_checks(audit: Mapping[str, Any]) -> list[str]:
    """Names of the audit's checks that were not passed."""
    return [name for name, check in audit.get("checks", {}).items() if not check.get("passed")]


def _audit_gate(audit: Mapping[str, Any] | None, *, required: bool) -> Gate:
    passed = find(audit, "passed")
    if audit is None or passed is None:
        verdict = "none"
    else:
        broken = [] if passed is True else failed_checks(audit) or ["unknown"]
        verdict = f"failed: {', '.join(broken)}" if broken else "passed"
    return Gate(
        "reward_audit",
        verdict,
        "passed" if required else "passed or none",
        verdict in (("passed",) if required else ("passed", "none")),
        "what the reward picks must please a judge that is not the reward",
    )
