"""`reports/rewards_audit.html`: one page that a person reads before a reward is climbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import floor, log10
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup

from components.pages.charts import Line, lines_chart
from components.pages.frame import short
from components.pages.numbers import (
    NBSP,
    decimal,
    listed,
    percent,
    percent_interval,
    signed,
    signed_interval,
)
from components.pages.page import data_uri, render_page
from components.rewards.audit.audit import AuditReport
from components.rewards.audit.best_of_n import BestOfN, Curve, kl
from components.rewards.audit.checks import Check
from components.rewards.audit.data import Candidates
from components.rewards.audit.edits import EDITS
from components.rewards.audit.sensitivity import edit_all

TEMPLATE = Path(__file__).with_name("page.html.j2")
NO_AUDIT = Path(__file__).with_name("no_audit.html.j2")
MAX_PARTED = 6
"""Prompts that are shown where reward and judge choose differently."""
TITLES = {
    "captured": "Gain captured",
    "shortcut": "Largest shortcut",
    "colour": "Tied to one colour statistic",
    "agreement": "Agreement with the judge",
}
"""Title of each check's card."""


@dataclass(frozen=True)
class Names:
    """What the page says of where its figures come from."""

    reward: str
    judge: str
    seed: int


def render_audit(
    report: AuditReport, data: Candidates, names: Names, generator: torch.Generator
) -> str:
    """The page as HTML; the same arguments give the same text.

    `generator` draws the noise of the pictures that are shown.
    """
    reach = _reach(report)
    return render_page(
        TEMPLATE,
        report=report,
        names=names,
        num_prompts=len(data.prompts),
        headline=headline(report),
        cards=[_card(check, report) for check in report.checks],
        charts=_charts(report.best_of_n),
        families=[
            (family, list(found))
            for family, found in groupby(report.sensitivities, lambda found: found.family)
        ],
        reach=reach,
        place=lambda value: f"{50 + 50 * max(-1.0, min(1.0, value / reach)):.2f}",
        place_share=lambda value: f"{50 + 50 * value:.2f}",
        limit=next(check.limit for check in report.checks if check.name == "shortcut"),
        example=_example(report, data, generator),
        parted=_parted(report, data),
    )


def render_unaudited() -> str:
    """The page of a reward that nobody has looked at."""
    return render_page(NO_AUDIT)


def headline(report: AuditReport) -> str:
    """The verdict in one sentence."""
    if report.failed:
        # A number stays with its percent sign, however large the letters are.
        why = listed([check.brief for check in report.failed]).replace(" %", f"{NBSP}%")
        return f"Refused: {why}."
    best = report.best_of_n
    return (
        f"The reward passes: choosing the best of {best.num_images} by it gets "
        f"{percent(best.captured.value)} of what the judge's own choice gains."
    )


def _card(check: Check, report: AuditReport) -> dict[str, Any]:
    captured, agreed = report.best_of_n.captured, report.agreement
    figure, what = {
        "captured": (
            percent(captured.value),
            f"{percent_interval((captured.low, captured.high))} of the judge's own; low end at "
            f"least {percent(check.limit)}",
        ),
        "shortcut": (
            decimal(check.figure),
            f"spreads beyond what the judge grants; at most {decimal(check.limit)}",
        ),
        "colour": (
            decimal(check.figure),
            f"rank correlation beyond the judge's; at most {decimal(check.limit)}",
        ),
        "agreement": (
            decimal(agreed.value),
            f"{signed_interval((agreed.low, agreed.high))} Kendall's tau; low end at least "
            f"{decimal(check.limit)}",
        ),
    }[check.name]
    return {
        "title": TITLES[check.name],
        "passed": check.passed,
        "figure": figure,
        "what": what,
        "sentence": check.sentence,
    }


def _charts(best: BestOfN) -> list[dict[str, Any]]:
    shown = (
        ("Judge's score", "of the image that is shown", best.score),
        ("Judge's verdict", "share of shown images that are correct", best.correct),
        ("Reward", "in spreads, above a random image", best.reward),
    )
    return [
        {"title": title, "meaning": meaning, "svg": Markup(_chart(title, curve))}
        for title, meaning, curve in shown
    ]


def _chart(title: str, curve: Curve) -> str:
    at = [kl(n) for n in range(1, len(curve.oracle) + 1)]
    picked = [found.value for found in curve.picked]
    lines = (
        Line(
            "line",
            list(zip(at, picked, strict=True)),
            [(found.low, found.high) for found in curve.picked],
        ),
        Line("other", list(zip(at, curve.oracle, strict=True))),
        Line("plain", [(at[0], picked[0]), (at[-1], picked[0])]),
    )
    return lines_chart(
        lines,
        {kl(n): str(n) for n in _named(len(at))},
        description=(
            f"{title} of the best of 1 to {len(at)}: from {short(picked[0])} to "
            f"{short(picked[-1])} where the reward chooses, to {short(curve.oracle[-1])} where the "
            "judge chooses"
        ),
        x_label=f"best of n, up to {at[-1]:.2f} nats from the base",
    )


def _named(largest: int) -> list[int]:
    """Which n are written under the axis: all of a few, else doublings."""
    if largest <= 8:
        return list(range(1, largest + 1))
    doublings = [2**power for power in range(largest.bit_length()) if 2**power * 1.4 < largest]
    return [*doublings, largest]


def _reach(report: AuditReport) -> float:
    """Half the width of the scale of changes, a round number that holds every interval."""
    ends = [
        abs(end)
        for found in report.sensitivities
        for side in (found.reward, found.judge)
        for end in (side.low, side.high)
    ]
    needed = max(*ends, 1.0)
    power = 10.0 ** floor(log10(needed))
    return next(power * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if power * step >= needed)


def _example(report: AuditReport, data: Candidates, generator: torch.Generator) -> dict[str, Any]:
    """One image that the judge calls correct, and what every edit makes of it."""
    correct = np.flatnonzero(report.correct)
    row = int(correct[0]) if len(correct) else 0
    limit = next(check.limit for check in report.checks if check.name == "shortcut")
    pictures = [
        {
            "family": edit.family,
            "strength": edit.strength,
            "uri": data_uri(edit_all(edit, [data.images[row]], generator)[0]),
            "change": signed(found.reward.value),
            "shortcut": found.shortcut > limit,
        }
        for edit, found in zip(EDITS, report.sensitivities, strict=True)
    ]
    return {
        "prompt": data.texts[row],
        "original": data_uri(data.images[row]),
        "pictures": pictures,
    }


def _parted(report: AuditReport, data: Candidates) -> Sequence[dict[str, Any]]:
    """The prompts at which the reward's choice costs the judge most."""
    found = []
    for prompt, text in enumerate(data.prompts):
        rows = np.flatnonzero(data.prompt_of == prompt)
        ours, theirs = (
            int(rows[values[rows].argmax()]) for values in (report.reward, report.score)
        )
        loss = float(report.score[theirs] - report.score[ours])
        if loss > 0:
            found.append((loss, text, ours, theirs))
    found.sort(key=lambda one: -one[0])
    return [
        {
            "prompt": text,
            "pictures": [
                {
                    "whose": whose,
                    "uri": data_uri(data.images[row]),
                    "correct": bool(report.correct[row]),
                    "score": decimal(report.score[row]),
                }
                for whose, row in (("reward", ours), ("judge", theirs))
            ],
        }
        for _, text, ours, theirs in found[:MAX_PARTED]
    ]
