"""The model card of a reward model: what a reviewer reads before deciding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.registry.markdown import (
    figure,
    file_link,
    gates_table,
    join,
    origin_rows,
    percent,
    percent_interval,
    picture,
    table,
)

if TYPE_CHECKING:
    from components.registry.reward.candidate import RewardCandidate

CHARTS = "reward.png"
AUDIT_PAGE = "rewards_audit.html"
"""Among what a reviewer finds in the stage's run."""
MAX_ROWS = 12
"""Of a table, the most telling ones first."""


def model_card(candidate: RewardCandidate, version: str) -> str:
    """Markdown for the version's description; what is most likely to be cut off comes last."""
    report, lineage = candidate.report, candidate.lineage
    return join(
        [
            f"## {headline(report)}",
            picture(lineage, CHARTS, "calibration, learning curve, best of n, shortcuts"),
            _accuracies(report),
            _certainty(report),
            *_audit(candidate),
            "### Gates",
            gates_table(lineage.gates),
            "### How it was made",
            table(
                ("", ""),
                [
                    ("architecture", candidate.architecture),
                    ("size", f"{candidate.folder.num_bytes / 1e6:.1f} MB"),
                    ("learnt from", f"{report.get('train_pairs', '?')} judgements of pairs"),
                    *origin_rows(lineage),
                ],
            ),
            "### How to use it",
            *_usage(candidate, f"models:/{lineage.model_name}/{version}"),
            f"Decide with `konomi promote {version} --by NAME --model reward`.",
            *_more(report),
        ]
    )


def headline(report: Mapping[str, Any]) -> str:
    """The finding in one sentence."""
    return (
        f"Decides {percent_interval(report, 'accuracy')} of unseen pairs as people do, "
        f"its backbone {percent(report.get('backbone_accuracy'))}"
    )


def _accuracies(report: Mapping[str, Any]) -> str:
    rows = [("**all**", report), *sorted(report.get("by_category", {}).items())]
    return table(
        ("category", "accuracy, 95 %", "pairs"),
        [
            (name, percent_interval(row, "accuracy"), str(row.get("pairs", "?")))
            for name, row in rows[: MAX_ROWS + 1]
        ],
    )


def _certainty(report: Mapping[str, Any]) -> str:
    saturation = report.get("saturation") or {}
    sentence = (
        f"Pairs of prompts that it never saw, ties left out "
        f"({report.get('test_ties', '?')} of {report.get('test_pairs', '?')}). A probability that "
        f"it predicts is off by {100 * report.get('calibration_error', float('nan')):.1f} points "
        f"on average."
    )
    if saturation.get("share") is not None:
        sentence += f" It is certain (above 99 %) of {percent(saturation['share'])} of the pairs"
        if saturation.get("accuracy") is not None:
            sentence += f", of these {percent(saturation['accuracy'])} rightly"
        sentence += "."
    return sentence


def _audit(candidate: RewardCandidate) -> list[str]:
    audit = candidate.audit
    if audit is None or audit.get("passed") is None:
        return ["### Audit: none", "Nobody looked how far this reward can be trusted."]
    link = file_link(candidate.lineage, AUDIT_PAGE)
    return [
        f"### Audit: {'passed' if audit['passed'] else 'failed'}",
        table(
            ("check", "found", "demanded", ""),
            [
                (
                    f"{name}: {check.get('sentence', '')}",
                    figure(check.get("figure")),
                    f"{'≤' if check.get('at_most') else '≥'} {figure(check.get('limit'))}",
                    "✓" if check.get("passed") else "✗",
                )
                for name, check in audit.get("checks", {}).items()
            ],
        ),
        f"[The audit's page, with pictures]({link})" if link else "",
    ]


def _usage(candidate: RewardCandidate, uri: str) -> list[str]:
    # A fence ends at backticks, wherever they stand.
    prompt = candidate.example_prompts[0].replace("`", "'")
    lines = [
        "from pathlib import Path",
        "import mlflow.pyfunc",
        "import pandas as pd",
        f'model = mlflow.pyfunc.load_model("{uri}")',
        'image = Path("picture.png").read_bytes()',
        f'frame = pd.DataFrame({{"image": [image], "prompt": [{prompt!r}]}})',
        'scores = model.predict(frame)["score"]',
    ]
    return [
        "From the project's folder:",
        "```python\n" + "\n".join(lines) + "\n```",
        'With `model_config={"device": "cuda"}` on a GPU. A difference of two scores, times '
        f"{figure(candidate.folder.constants.get('std'))}, is the log-odds that people prefer the "
        "one picture to the other.",
    ]


def _more(report: Mapping[str, Any]) -> list[str]:
    """Tables that a small registry page can do without."""
    annotators = sorted(
        (report.get("annotators") or {}).items(), key=lambda item: (item[1]["accuracy"], item[0])
    )
    shown = annotators[:MAX_ROWS]
    margins = report.get("by_margin") or []
    curve = report.get("learning_curve") or []
    parts: list[tuple[str, str]] = [
        (
            "### Agreement with each annotator"
            + (f" (the lowest {len(shown)} of {len(annotators)})" if shown != annotators else ""),
            table(
                ("annotator", "agrees, 95 %", "pairs", "learnt reliability"),
                [
                    (
                        str(name),
                        percent_interval(row, "accuracy"),
                        str(row.get("pairs", "?")),
                        "" if row.get("reliability") is None else percent(row["reliability"]),
                    )
                    for name, row in shown
                ],
            ),
        ),
        (
            "### By how sure it is",
            table(
                ("log-odds", "accuracy, 95 %", "pairs"),
                [
                    (
                        f"{row['low']:.2f} to {row['high']:.2f}",
                        percent_interval(row, "accuracy"),
                        str(row.get("pairs", "?")),
                    )
                    for row in margins
                ],
            ),
        ),
        (
            "### With more labels",
            table(
                ("judgements", "prompts", "accuracy, 95 %"),
                [
                    (
                        str(row.get("judgements", "?")),
                        str(row.get("prompts", "?")),
                        percent_interval(row, "accuracy"),
                    )
                    for row in curve
                ],
            ),
        ),
    ]
    return [part for heading, body in parts if body for part in (heading, body)]
