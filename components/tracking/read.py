"""What `konomi status` shows of past runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.contracts.settings import STAGES
from components.tracking.environment import EXPERIMENT, is_off
from components.tracking.store import client_of


@dataclass(frozen=True)
class StageSummary:
    """One stage inside a pipeline run."""

    stage: str
    run_id: str
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    seconds: float | None
    """None while it runs."""


@dataclass(frozen=True)
class RunSummary:
    """One run of the pipeline, or of a stage by itself."""

    run_id: str
    name: str
    status: str
    started: datetime
    seconds: float | None
    stages: tuple[StageSummary, ...]
    """In the order in which data flows; one entry for a stage that ran by itself."""


def latest_runs(root: Path, limit: int = 5) -> list[RunSummary]:
    """The newest top-level runs, newest first; empty where nothing was tracked yet."""
    client = None if is_off() else client_of(root)
    experiment = client.get_experiment_by_name(EXPERIMENT) if client else None
    if client is None or experiment is None:
        return []
    newest = ["attributes.start_time DESC"]
    # The store cannot ask for runs without a tag; children sit between their parents, at most
    # one per stage, so a window of this size always holds `limit` top-level runs.
    window = client.search_runs(
        [experiment.experiment_id],
        "",
        max_results=min(1000, limit * (len(STAGES) + 1)),
        order_by=newest,
    )
    tops = [run for run in window if "mlflow.parentRunId" not in run.data.tags][:limit]
    summaries = []
    for run in tops:
        children = client.search_runs(
            [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
        )
        alone = run.data.tags.get("konomi.stage") in STAGES
        stages = sorted((_stage(child) for child in ([run] if alone else children)), key=_order)
        summaries.append(
            RunSummary(
                run.info.run_id,
                run.info.run_name or "",
                run.info.status,
                datetime.fromtimestamp(run.info.start_time / 1000, UTC),
                _seconds(run),
                tuple(stages),
            )
        )
    return summaries


def _stage(run: Any) -> StageSummary:
    stage = run.data.tags.get("konomi.stage", run.info.run_name)
    return StageSummary(stage, run.info.run_id, run.info.status, _seconds(run))


def _order(summary: StageSummary) -> int:
    return STAGES.index(summary.stage) if summary.stage in STAGES else len(STAGES)


def _seconds(run: Any) -> float | None:
    if run.info.status == "RUNNING" or run.info.end_time is None:
        return None
    return (run.info.end_time - run.info.start_time) / 1000
