"""What an audit found as plain figures: `reports/rewards_audit.json`, and the run's metrics."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import Any

from components.contracts.intervals import Estimate
from components.rewards.audit.audit import AuditReport
from components.rewards.audit.best_of_n import Curve, kl
from components.rewards.audit.data import Candidates


def figures(report: AuditReport, data: Candidates) -> dict[str, Any]:
    """Every figure of the audit; intervals are 95 % and count prompts, not images."""
    best = report.best_of_n
    error = report.judge_error_rate
    return {
        "passed": not report.failed,
        "checks": {
            check.name: {
                "passed": check.passed,
                "figure": check.figure,
                "limit": check.limit,
                "at_most": check.at_most,
                "sentence": check.sentence,
            }
            for check in report.checks
        },
        "num_prompts": len(data.prompts),
        "num_images": len(data.images),
        "judge_error_rate": error if isfinite(error) else None,
        "reward_spread": report.reward_spread,
        "judge_spread": report.judge_spread,
        "agreement": _estimate(report.agreement),
        "best_of_n": {
            "n": list(range(1, best.num_images + 1)),
            "kl": [kl(n) for n in range(1, best.num_images + 1)],
            "score": _curve(best.score),
            "correct": _curve(best.correct),
            "reward": _curve(best.reward),
            "gain": _estimate(best.gain),
            "oracle_gain": best.oracle_gain,
            "captured": _estimate(best.captured),
            "captured_correct": best.captured_correct and _estimate(best.captured_correct),
            "peak": best.peak,
            "fall": _estimate(best.fall),
        },
        "sensitivity": {
            found.name: {
                "reward": _estimate(found.reward),
                "judge": _estimate(found.judge),
                "beats": found.beats,
                "shortcut": found.shortcut,
            }
            for found in report.sensitivities
        },
        "colour": {
            found.statistic: {
                "reward": _estimate(found.reward),
                "judge": _estimate(found.judge),
                "excess": found.excess,
            }
            for found in report.colours
        },
    }


def metrics(report: AuditReport) -> dict[str, float]:
    """The figures by which audits are compared, one number each."""
    return {
        "audit_captured": report.best_of_n.captured.value,
        "audit_captured_low": report.best_of_n.captured.low,
        "audit_shortcut": max(found.shortcut for found in report.sensitivities),
        "audit_colour": max((found.excess for found in report.colours), default=0.0),
        "audit_agreement": report.agreement.value,
        "audit_passed": float(not report.failed),
    }


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "picked": [estimate.value for estimate in curve.picked],
        "picked_low": [estimate.low for estimate in curve.picked],
        "picked_high": [estimate.high for estimate in curve.picked],
        "oracle": list(curve.oracle),
    }


def _estimate(found: Estimate) -> dict[str, float]:
    return asdict(found)
