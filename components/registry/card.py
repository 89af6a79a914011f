"""The model card: what a reviewer reads on the version's page before deciding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from components.registry.candidate import Candidate

MAX_CHARACTERS = 5000
"""What the registry keeps of a description."""
SERVED = {"num_inference_steps", "guidance_scale"}
"""What `predict` hands on to the pipeline of what a call says."""
GRID = "review/grid.png"
"""Where the stage's run keeps the before/after grid."""


def model_card(candidate: Candidate, version: str) -> str:
    """Markdown for the version's description."""
    report, info = candidate.evaluation, candidate.adapter.info
    parts = [
        f"## {headline(report)}",
        _grid(candidate),
        _table(
            ("task", "base", "LoRA", "difference, 95 %"),
            [
                (
                    name,
                    _percent(row["base"]["correct"]),
                    _percent(row["lora"]["correct"]),
                    _gain(row),
                )
                for name, row in {"**all**": report, **report.get("by_category", {})}.items()
            ],
        ),
        "Share of images that show what an unseen prompt asks for, by a judge that was not the "
        f"reward and errs on {_percent(report.get('judge_error_rate'))} of held-out images.",
        "### Gates",
        _table(
            ("gate", "found", "demanded", ""),
            [
                (gate.name, _plain(gate.figure), gate.limit, "✓" if gate.passed else "✗")
                for gate in candidate.gates
            ],
        ),
        "### How it was made",
        _table(
            ("", ""),
            [
                ("method", candidate.algorithm),
                ("LoRA", f"rank {info.get('rank', '?')}, alpha {info.get('alpha', '?')}"),
                ("base", f"`{candidate.base_reference}` ({candidate.base_digest[:12]})"),
                ("seed", str(candidate.seed)),
                ("git", f"`{candidate.git_revision[:12]}`"),
                *((f"dvc {name}", f"`{digest}`") for name, digest in candidate.digests.items()),
            ],
        ),
        "### How to use it",
        *_usage(candidate, f"models:/{candidate.model_name}/{version}"),
        f"Decide with `konomi promote {version} --by NAME`.",
    ]
    card = "\n\n".join(part for part in parts if part)
    return card if len(card) <= MAX_CHARACTERS else card[: MAX_CHARACTERS - 1] + "…"


def headline(report: Mapping[str, Any]) -> str:
    """The finding in one sentence."""
    return (
        f"{_percent(report['lora']['correct'])} prompt-correct images, "
        f"the base {_percent(report['base']['correct'])} ({_gain(report)} points)"
    )


def _usage(candidate: Candidate, uri: str) -> list[str]:
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


def _grid(candidate: Candidate) -> str:
    if candidate.run_id is None:
        return ""
    path = f"/get-artifact?path={quote(GRID, safe='')}&run_uuid={candidate.run_id}"
    return f"![before and after, by task]({path})"


def _gain(row: Mapping[str, Any]) -> str:
    low, high = row["difference"]["interval"]
    return f"{_points(row['difference']['value'])} [{_points(low)}, {_points(high)}]"


def _points(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:+.1f}"


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f} %"


def _plain(figure: float | str | None) -> str:
    if isinstance(figure, float):
        return f"{figure:.4g}"
    return "unknown" if figure is None else str(figure)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    cells = (" | ".join(cell.replace("|", "/") for cell in line) for line in lines)
    return "\n".join(f"| {line} |" for line in cells)
