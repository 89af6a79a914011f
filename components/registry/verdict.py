"""What a refusal leaves behind, and what passing does: every verdict goes to the tracker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from components.contracts.artifacts import write_json
from components.contracts.errors import QuarantinedData
from components.contracts.stage import StageContext
from components.registry.gates import Gate, failed


def refuse_failed(kind: str, gates: Sequence[Gate], context: StageContext, what: str) -> None:
    """Go on where all gates of a `lora` or `reward` passed; else say why not, in the run and in one
    line.

    Raises:
        QuarantinedData: `what` followed by every gate that failed.
    """
    broken = failed(gates)
    if not broken:
        return
    log_verdict(kind, gates, context)
    reasons = "; ".join(gate.line() for gate in broken)
    raise QuarantinedData(f"{what}: {reasons}")


def log_verdict(kind: str, gates: Sequence[Gate], context: StageContext) -> None:
    """The verdict goes to the tracker, passed or not; a refusal leaves no other trace."""
    verdict = context.work / f"{kind}_gates.json"
    write_json(verdict, [asdict(gate) for gate in gates])
    context.tracker.log_artifact(verdict)
    context.tracker.set_tags(
        {
            f"gate.{gate.name}": ("passed: " if gate.passed else "FAILED: ") + gate.line()
            for gate in gates
        }
    )
    context.tracker.log_metrics(
        {f"gate/{gate.name}": gate.figure for gate in gates if isinstance(gate.figure, int | float)}
    )
