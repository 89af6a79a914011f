"""The model card of a LoRA: what a reviewer reads on the version's page before deciding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.registry.markdown import (
    gates_table,
    join,
    origin_rows,
    percent,
    picture,
    points,
    table,
)

if TYPE_CHECKING:
    from components.registry.lora.candidate import LoraCandidate

SERVED = {"num_inference_steps", "guidance_scale"}
"""What `predict` hands on to the pipeline of what a call says."""
GRID = "grid.png"
"""The before/after grid, among what a reviewer finds in the stage's run."""


def model_card(candidate: LoraCandidate, version: str) -> str:
    """Markdown for the version's description."""
    report, info = candidate.evaluation, candidate.adapter.info
    return join(
        [
            f"## {headline(report)}",
            picture(candidate.lineage, GRID, "before and after, by task"),
            table(
                ("task", "base", "LoRA", "difference, 95 %"),
                [
                    (
                        name,
                        percent(row["base"]["correct"]),
                        percent(row["lora"]["correct"]),
                        _gain(row),
                    )
                    for name, row in {"**all**": report, **report.get("by_category", {})}.items()
                ],
            ),
            "Share of images that show what an unseen prompt asks for, by a judge that was not the "
            f"reward and errs on {percent(report.get('judge_error_rate'))} of held-out images.",
            "### Gates",
            gates_table(candidate.lineage.gates),
            "### How it was made",
            table(
                ("", ""),
                [
                    ("method", candidate.algorithm),
                    ("LoRA", f"rank {info.get('rank', '?')}, alpha {info.get('alpha', '?')}"),
                    ("base", f"`{candidate.base_reference}` ({candidate.probe.base_digest[:12]})"),
                    ("reward model", candidate.reward),
                    *origin_rows(candidate.lineage),
                ],
            ),
            "### How to use it",
            *_usage(candidate, f"models:/{candidate.lineage.model_name}/{version}"),
            f"Decide with `konomi promote {version} --by NAME`.",
        ]
    )


def headline(report: Mapping[str, Any]) -> str:
    """The finding in one sentence."""
    return (
        f"{percent(report['lora']['correct'])} prompt-correct images, "
        f"the base {percent(report['base']['correct'])} ({_gain(report)} points)"
    )


def _usage(candidate: LoraCandidate, uri: str) -> list[str]:
    """The call that load-back made, and what else opens the version."""
    call = candidate.call
    # A fence ends at backticks, wherever they stand.
    prompt = candidate.example_prompts[0].replace("`", "'")
    opener = f'mlflow.diffusers.load_model("{uri}").load_pipeline('
    parts = [
        "From the project's folder:",
        f"```python\nimport mlflow.diffusers\n{call.code(opener, prompt, seed=0)}\n```",
        call.note,
    ]
    opening = ", ".join(f"{key}={value!r}" for key, value in call.opening.items())
    if opening:
        served = f"`mlflow.pyfunc` does not open it: it cannot say `{opening}`. "
    else:
        unsaid = "".join(f" and without `{key}`" for key in call.drawing if key not in SERVED)
        predict = f'mlflow.pyfunc.load_model("{uri}").predict([prompt])'
        served = f"`{predict}` gives PNGs, from a seed of its own{unsaid}. "
    return [
        *parts,
        f"{served}Elsewhere open the base with diffusers, with the same keywords, and load this "
        "version's LoRA into it by `load_lora_weights`.",
    ]


def _gain(row: Mapping[str, Any]) -> str:
    low, high = row["difference"]["interval"]
    return f"{points(row['difference']['value'])} [{points(low)}, {points(high)}]"
