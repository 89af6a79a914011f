"""The body of stage 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.contracts.artifacts import atomic_path, write_csv, write_json
from components.contracts.errors import QuarantinedData
from components.contracts.stage import StageContext, log_inputs
from components.contracts.tables import PROMPTS, write_table
from components.prompts.curate import Curated, Prompt, curate
from components.prompts.settings import Settings
from components.prompts.split import count_leakage, split_prompts
from components.prompts.tokens import load_token_counter

DATA = Path("data/prompts")
REPORT = Path("reports/prompts.json")
KEPT = Path("reports/prompts_kept.csv")


def run(settings: Settings, context: StageContext) -> dict[str, float]:
    """Curate and split; nothing is written before everything has been checked.

    Raises:
        DataError, ModelError, QuarantinedData: see `curate` and `load_token_counter`.
    """
    sources = dict.fromkeys(source.path for source in settings.sources)
    curated = curate(settings, context.root)
    log_inputs(context, **{path: Path(path) for path in sources})
    splits = split_prompts(
        curated.kept, context.seed, settings.validation_fraction, settings.test_fraction
    )
    leakage = count_leakage(splits)
    if leakage:
        raise QuarantinedData(f"{leakage} prompts stand in more than one split; allowed: 0")
    counter = load_token_counter(context.base.path, context.root)
    num_tokens = {
        split: counter.count([prompt.prompt for prompt in rows]) for split, rows in splits.items()
    }
    report = _report(curated, splits, num_tokens, counter.limit, leakage)

    with atomic_path(context.root / DATA) as folder:
        folder.mkdir()
        for split, rows in splits.items():
            table = _table(rows, num_tokens[split])
            write_table(folder / f"{split}.parquet", table, PROMPTS)
        write_csv(
            folder / "dropped.csv",
            ("source", "place", "reason"),
            [(row.source, row.place, row.reason) for row in curated.dropped],
        )
    write_json(context.root / REPORT, report)
    kept = [(name, counts["kept"]) for name, counts in report["categories"].items()]
    write_csv(context.root / KEPT, ("category", "prompts"), kept)
    for path in (REPORT, KEPT, DATA / "dropped.csv"):
        context.tracker.log_artifact(context.root / path)
    return _metrics(report)


def _table(prompts: Sequence[Prompt], num_tokens: Sequence[int]) -> pa.Table:
    return pa.table(
        {
            "prompt_id": [prompt.prompt_id for prompt in prompts],
            "prompt": [prompt.prompt for prompt in prompts],
            "category": [prompt.category for prompt in prompts],
            "source": [prompt.source for prompt in prompts],
            "num_tokens": num_tokens,
        },
        schema=PROMPTS.columns,
    )


def _report(
    curated: Curated,
    splits: dict[str, list[Prompt]],
    num_tokens: dict[str, list[int]],
    limit: int,
    leakage: int,
) -> dict[str, Any]:
    categories: dict[str, dict[str, int]] = {}
    for name in sorted({prompt.category for prompt in curated.kept}):
        counts = {
            split: sum(prompt.category == name for prompt in rows) for split, rows in splits.items()
        }
        categories[name] = {"kept": sum(counts.values()), **counts}
    lengths = [count for counts in num_tokens.values() for count in counts]
    return {
        "rows": curated.num_rows,
        "kept": len(curated.kept),
        "duplicates": curated.num_duplicates,
        "dropped": curated.dropped_by_reason(),
        "splits": {split: len(rows) for split, rows in splits.items()},
        "categories": categories,
        "tokens": {
            "limit": limit,
            "longest": max(lengths),
            "truncated": sum(count > limit for count in lengths),
        },
        "leakage": leakage,
    }


def _metrics(report: dict[str, Any]) -> dict[str, float]:
    """The report's figures under one-level names, for the tracker."""
    return {
        "kept": report["kept"],
        "duplicates": report["duplicates"],
        "dropped": sum(report["dropped"].values()),
        **{f"dropped_{reason}": count for reason, count in report["dropped"].items()},
        **{f"prompts_{split}": count for split, count in report["splits"].items()},
        "smallest_category": min(counts["kept"] for counts in report["categories"].values()),
        "largest_category": max(counts["kept"] for counts in report["categories"].values()),
        "truncated": report["tokens"]["truncated"],
        "leakage": report["leakage"],
    }
