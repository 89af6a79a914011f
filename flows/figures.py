"""The figures of a finished run, read from `reports/`, for the terminal and the flow run's page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.contracts.artifacts import read_json
from components.contracts.settings import STAGES

REPORT = Path("reports/report.html")
GRID = Path("reports/grid.png")
GRID_PIXELS = 1200
"""Longest side of the grid on a flow run's page; the file beside the report is the full picture."""
REPORTS = {stage: Path(f"reports/{stage}.json") for stage in STAGES} | {
    "registry": Path("reports/receipt.json")
}


@dataclass(frozen=True)
class Verdict:
    """The answer that a run is made for. Shares are in [0, 1]; intervals are 95 %."""

    base: float
    lora: float
    difference: tuple[float, float, float]
    """Value, low, high."""
    win_rate: tuple[float, float, float]
    num_prompts: int
    judge_error: float
    by_category: dict[str, tuple[float, float]]
    """Base and LoRA."""


def read_verdict(root: Path) -> Verdict | None:
    """The figures of `reports/evaluation.json`; None before the first evaluation."""
    path = root / REPORTS["evaluation"]
    if not path.exists():
        return None
    found = read_json(path)
    return Verdict(
        base=found["base"]["correct"],
        lora=found["lora"]["correct"],
        difference=(found["difference"]["value"], *found["difference"]["interval"]),
        win_rate=(found["win_rate"]["value"], *found["win_rate"]["interval"]),
        num_prompts=found["num_prompts"],
        judge_error=found["judge_error_rate"],
        by_category={
            name: (part["base"]["correct"], part["lora"]["correct"])
            for name, part in found["by_category"].items()
        },
    )


def read_receipts(root: Path) -> dict[str, dict[str, Any]]:
    """The version of each kind of model, `reward` and `lora`, that `reports/receipt.json` tells of;
    empty before the first."""
    path = root / REPORTS["registry"]
    content = read_json(path) if path.exists() else {}
    return {kind: content[kind] for kind in ("reward", "lora") if content.get(kind)}


def markdown(root: Path) -> str:
    """A page of tables: the verdict first, then the figures of each stage that has written any."""
    parts = []
    verdict = read_verdict(root)
    if verdict is not None:
        value, low, high = (100 * part for part in verdict.difference)
        parts.append(
            f"**{verdict.lora:.0%} of the LoRA's images are prompt-correct, {verdict.base:.0%} of "
            f"the base's: {value:+.1f} points, 95 % interval [{low:+.1f}, {high:+.1f}]** "
            f"({verdict.num_prompts} prompts never trained on)\n"
        )
        rows = "\n".join(
            f"| {name} | {base:.1%} | {lora:.1%} |"
            for name, (base, lora) in verdict.by_category.items()
        )
        parts.append(f"| prompt-correct | base | LoRA |\n| --- | ---: | ---: |\n{rows}\n")
    for stage, path in REPORTS.items():
        if stage == "registry":
            found = {f"registry: {kind}": part for kind, part in read_receipts(root).items()}
        else:
            found = {stage: read_json(root / path)} if (root / path).exists() else {}
        for name, content in found.items():
            rows = "\n".join(f"| {figure} | {value} |" for figure, value in _scalars(content))
            parts.append(f"### {name}\n\n| figure | value |\n| --- | ---: |\n{rows}\n")
    return "\n".join(parts) or "No stage has written figures yet.\n"


def grid_as_data_url(root: Path) -> str | None:
    """The before/after grid, reduced, as a `data:` URL; None before the first evaluation."""
    if not (root / GRID).exists():
        return None
    from PIL import Image

    with Image.open(root / GRID) as picture:
        small = picture.convert("RGB")
        small.thumbnail((GRID_PIXELS, GRID_PIXELS))
    content = io.BytesIO()
    small.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _scalars(content: Any) -> Iterator[tuple[str, str]]:
    if isinstance(content, Mapping):
        for name, value in content.items():
            if isinstance(value, float):
                yield name, f"{value:.4g}"
            elif isinstance(value, int | str) and name != "schema_version":
                yield name, str(value).replace("|", "\\|").replace("\n", " ")
