"""`reports/report.html`: one page that a person reads before a LoRA is let out of the house.

The page holds everything it shows (style, charts, pictures) and asks no other machine for anything.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from components.contracts.errors import DataError
from components.evaluation.grid import Block
from components.evaluation.wording import (
    baseline_line,
    baseline_rows,
    data_facts,
    hacking_line,
    headline,
    settings_rows,
)
from components.pages.charts import line_chart, path_chart
from components.pages.frame import Point
from components.pages.page import data_uri, render_page

TEMPLATE = Path(__file__).with_name("report.html.j2")

CURVES = (
    ("reward", "Reward", "the scorer that training climbs"),
    ("judge", "Held-out judge", "share correct on validation prompts; never optimised"),
    ("kl", "KL to the reference", "how far the policy has moved from the base"),
    ("clip_fraction", "Clip fraction", "share of samples whose ratio was clipped"),
    ("diversity", "Diversity", "distance among the images of one prompt"),
    ("brightness", "Brightness", "mean luma of the images"),
    ("saturation", "Saturation", "mean colourfulness of the images"),
    ("loss", "Loss", "what the optimizer saw"),
)
"""Column of `curves.csv`, title, and what it means; a column without figures gives no chart."""
SPARSE = frozenset({"judge", "validation_reward"})
"""Columns that are measured now and then on a fixed set of prompts: joined, not smoothed."""


@dataclass(frozen=True)
class Materials:
    """Everything that the page shows beside the figures of the evaluation."""

    blocks: Sequence[Block]
    base_name: str
    base_digest: str
    seed: int
    samples_per_prompt: int
    judge_name: str
    lineage: Sequence[tuple[str, str, str]]
    """What, path, and DVC digest of each input."""
    curves: Mapping[str, list[Point]] = field(default_factory=dict)
    """Points (update, value) by column; see `read_curves`."""
    reports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The reports of the stages before, by stage."""
    adapter: Mapping[str, Any] = field(default_factory=dict)
    """What the LoRA's folder says of itself."""


def render_report(evaluation: Mapping[str, Any], materials: Materials) -> str:
    """The page as HTML; the same arguments give the same text."""
    finetuning = materials.reports.get("finetuning", {})
    return render_page(
        TEMPLATE,
        evaluation=evaluation,
        materials=materials,
        headline=headline(evaluation),
        hacking=hacking_line(evaluation),
        untrained=baseline_rows(evaluation),
        untrained_line=baseline_line(evaluation) if evaluation.get("baselines") else "",
        stopped_by=finetuning.get("stopped_by"),
        settings=settings_rows(finetuning, materials.adapter),
        data_facts=data_facts(materials.reports),
        tasks=_tasks(materials.blocks),
        charts=_charts(materials.curves),
        path=_judge_against_reward(materials.curves),
    )


def read_curves(path: Path) -> dict[str, list[Point]]:
    """Points (update, value) of each column; empty cells are left out.

    Raises:
        DataError: the file is no table with a column `update`, or a cell is no finite number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8", file=path, place=f"byte {error.start}") from None
    reader = csv.DictReader(io.StringIO(text))
    if "update" not in (reader.fieldnames or ()):
        raise DataError("has no column 'update'", file=path, allowed="the curves of finetuning")
    curves: dict[str, list[Point]] = {name: [] for name in reader.fieldnames or ()}
    for row in reader:
        update = _number(row["update"], path, reader.line_num)
        for name in curves:
            if row[name]:
                curves[name].append((update, _number(row[name], path, reader.line_num)))
    return {name: points for name, points in curves.items() if len(points) > 1}


def _number(cell: str | None, path: Path, line: int) -> float:
    try:
        value = float(cell or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"'{cell}' is no finite number", file=path, place=f"line {line}")
    return value


def _charts(curves: Mapping[str, list[Point]]) -> list[dict[str, Any]]:
    return [
        {
            "title": title,
            "meaning": meaning,
            "svg": Markup(
                line_chart(curves[name], title=title, x_label="updates", markers=name in SPARSE)
            ),
        }
        for name, title, meaning in CURVES
        if name in curves
    ]


def _judge_against_reward(curves: Mapping[str, list[Point]]) -> Markup | None:
    """The held-out judge over the reward as training goes on: hacking bends the way down."""
    if "judge" not in curves:
        return None
    # Both on the monitor's images where they were measured there; else the round's own reward.
    reward = dict(curves.get("validation_reward") or curves.get("reward", []))
    points = [(reward[update], judge) for update, judge in curves["judge"] if update in reward]
    if len(points) < 2:
        return None
    return Markup(
        path_chart(
            points,
            title="Held-out judge against reward",
            x_label="reward",
            y_label="share the judge calls correct",
        )
    )


def _tasks(blocks: Sequence[Block]) -> dict[str, list[dict[str, Any]]]:
    tasks: dict[str, list[dict[str, Any]]] = {}
    for block in blocks:
        models = (
            ("base", block.base, block.base_correct),
            ("LoRA", block.lora, block.lora_correct),
        )
        tasks.setdefault(block.category, []).append(
            {
                "prompt": block.prompt,
                "rows": [
                    (
                        name,
                        [(data_uri(image), ok) for image, ok in zip(images, marks, strict=True)],
                    )
                    for name, images, marks in models
                ],
            }
        )
    return tasks
