"""A verdict on a model before it is registered, and how verdicts are made. Pure.

Each gate keeps its figure, its limit and a reason, passed or not: the receipt, the model card and
the version's tags show all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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


def failed(gates: Sequence[Gate]) -> list[Gate]:
    """The gates that were not passed."""
    return [gate for gate in gates if not gate.passed]


def find(report: Any, *path: str | int) -> Any:
    """What stands at `path` of a report; None where nothing does."""
    for step in path:
        try:
            report = report[step]
        except (KeyError, IndexError, TypeError):
            return None
    return report


def above(name: str, value: Any, limit: float, why: str) -> Gate:
    """The figure must lie above the limit."""
    figure = _number(value)
    return Gate(name, figure, f"> {limit:g}", figure is not None and figure > limit, why)


def at_least(name: str, value: Any, limit: float, why: str) -> Gate:
    """The figure must not lie below the limit."""
    figure = _number(value)
    return Gate(name, figure, f"≥ {limit:g}", figure is not None and figure >= limit, why)


def at_most(name: str, value: Any, limit: float, why: str) -> Gate:
    """The figure must not lie above the limit."""
    figure = _number(value)
    return Gate(name, figure, f"≤ {limit:g}", figure is not None and figure <= limit, why)


def within(name: str, value: Any, limit: float, why: str) -> Gate:
    """The figure must not be further from 0 than the limit."""
    figure = _number(value)
    passed = figure is not None and abs(figure) <= limit
    return Gate(name, figure, f"within ± {limit:g}", passed, why)


def lineage_gate(name: str, digests: Mapping[str, str], revision: str) -> Gate:
    """Everything that the model came from must be known."""
    known = {**digests, "git": "" if revision == "unknown" else revision}
    missing = sorted(key for key, digest in known.items() if not digest)
    return Gate(
        name,
        f"no {missing[0]}" if missing else "complete",
        "complete",
        not missing,
        "git revision and the digest of every input",
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # NaN is no figure: it compares false with everything, which a negated comparison would pass.
    return float(value) if is_number and value == value else None
