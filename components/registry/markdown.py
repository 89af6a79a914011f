"""The parts that the model cards of all kinds share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from components.registry.candidate import Lineage
from components.registry.gates import Gate

REVIEW = "review"
"""Folder of the stage's run in which a reviewer finds what to look at."""
MAX_CHARACTERS = 5000
"""What the registry keeps of a description."""
CUT = f"\n\n… the whole card is in `{REVIEW}/` of the run."


def join(parts: Sequence[str]) -> str:
    """One card from its parts, without the empty ones."""
    return "\n\n".join(part for part in parts if part)


def cut(card: str) -> str:
    """What the registry keeps of a card: whole lines."""
    if len(card) <= MAX_CHARACTERS:
        return card
    kept = card[: MAX_CHARACTERS - len(CUT)]
    return kept[: kept.rfind("\n")] + CUT


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table; empty without rows."""
    if not rows:
        return ""
    lines = [head, ("---",) * len(head), *rows]
    cells = (" | ".join(cell.replace("|", "/") for cell in line) for line in lines)
    return "\n".join(f"| {line} |" for line in cells)


def gates_table(gates: Sequence[Gate]) -> str:
    """Every verdict."""
    return table(
        ("gate", "found", "demanded", ""),
        [
            (gate.name, figure(gate.figure), gate.limit, "✓" if gate.passed else "✗")
            for gate in gates
        ],
    )


def origin_rows(lineage: Lineage) -> list[tuple[str, str]]:
    """Seed, revision and inputs."""
    return [
        ("seed", str(lineage.seed)),
        ("git", f"`{lineage.git_revision[:12]}`"),
        *((f"dvc {name}", f"`{digest}`") for name, digest in lineage.digests.items()),
    ]


def file_link(lineage: Lineage, name: str) -> str:
    """The address of a file under `REVIEW` of the stage's run; empty where runs are not kept."""
    if lineage.run_id is None:
        return ""
    path = quote(f"{REVIEW}/{name}", safe="")
    return f"/get-artifact?path={path}&run_uuid={lineage.run_id}"


def picture(lineage: Lineage, name: str, words: str) -> str:
    """A picture under `REVIEW`; empty where runs are not kept."""
    link = file_link(lineage, name)
    return f"![{words}]({link})" if link else ""


def percent_interval(row: Mapping[str, Any], name: str) -> str:
    """`81.3 % [76.1, 85.5]` of the figures `name`, `name_low` and `name_high` of a report."""
    value, low, high = (row.get(name + end) for end in ("", "_low", "_high"))
    if low is None or high is None:
        return percent(value)
    return f"{percent(value)} [{100 * low:.1f}, {100 * high:.1f}]"


def percent(share: float | None) -> str:
    """A share of one as a percentage."""
    return "?" if share is None else f"{100 * share:.1f} %"


def points(share: float | None) -> str:
    """A difference of two shares."""
    return "?" if share is None else f"{100 * share:+.1f}"


def figure(value: float | str | None) -> str:
    """A number with four digits that count, or a word."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "unknown" if value is None else str(value)
