"""The chain as a Prefect flow: each stage of `dvc.yaml` in order, retried where a retry can help.

DVC decides what has changed; the flow adds the schedule, retries, time limits, and a page of
figures. A flow over an unchanged pipeline ends after one question to DVC.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed
from prefect.tasks import Task

from components.contracts.errors import BadInput, TransientError
from components.contracts.settings import STAGES, read_params
from components.tracking import open_pipeline_run
from flows import figures
from flows.display import current_display
from flows.dvc import StageResult, first_change, run_stage
from flows.environment import prepare, stage_environment
from flows.preflight import is_offline, preflight

RETRY_DELAYS = [2.0, 4.0, 8.0]
"""Seconds; DVC's lock is free again within such a time unless a whole training holds it."""


def describe(root: Path) -> str:
    """What a run does, in one line: `retrain dpok on components/miniature/base, seed 7`."""
    params: Any = read_params(root / "params.yaml")
    try:
        method, base = params["finetuning"]["method"]["name"], params["base"]["path"]
    except (KeyError, TypeError):
        return "retrain"
    return f"retrain {method} on {base}, seed {params.get('seed', 0)}"


def _flow_run_name() -> str:
    return describe(Path(runtime.flow_run.parameters["root"]))


def _can_help(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """A retry can help when the failure says so: a busy repository, or a stage's exit status 75."""
    return getattr(state.data, "exit_code", None) == TransientError.exit_code


@task(
    task_run_name="{stage}",
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=_can_help,
    persist_result=False,
)
def bring_up_to_date(stage: str, root: Path, parent_run: str | None, offline: bool) -> StageResult:
    """One stage; its lines go to the run's log and to the terminal."""
    logger, display = get_run_logger(), current_display()
    environment = stage_environment(parent_run, offline=offline)

    def show(line: str) -> None:
        if line:
            logger.info(line)
            display.line(stage, line)

    display.started(stage)
    try:
        result = run_stage(root, stage, show, environment)
    except BaseException as error:
        display.failed(stage, error)
        raise
    display.ended(result)
    return result


@task(task_run_name="everything is up to date", persist_result=False)
def _nothing_to_do() -> State[None]:
    return Completed(name="Cached", message="dvc status: nothing has changed")


@flow(
    name="retrain",
    flow_run_name=_flow_run_name,
    persist_result=False,
    result_serializer="json",
    validate_parameters=False,
)
def retrain(
    root: str = ".", upto: str = STAGES[-1], stage_hours: float = 12.0
) -> list[StageResult]:
    """Bring every stage up to and including `upto` up to date.

    `stage_hours` is the time limit of one stage. Returns how each stage ended.
    """
    folder = Path(root).resolve()
    prepare(folder)
    run = preflight(folder)
    if upto not in STAGES:
        raise BadInput(f"no stage '{upto}'", allowed=", ".join(STAGES))
    wanted = STAGES[: STAGES.index(upto) + 1]
    first = first_change(folder, wanted)
    if first is None:
        _nothing_to_do()
        return [StageResult(stage, "unchanged", 0.0) for stage in wanted]
    results = [StageResult(stage, "unchanged", 0.0) for stage in wanted[:first]]
    for result in results:
        current_display().ended(result)
    limited = bring_up_to_date.with_options(
        timeout_seconds=timedelta(hours=stage_hours).total_seconds()
    )
    with open_pipeline_run(folder, describe(folder)) as parent:
        offline = is_offline(folder, run)
        results += [limited(stage, folder, parent, offline) for stage in wanted[first:]]
    _publish(folder)
    return results


def _publish(root: Path) -> None:
    """What a reviewer sees on the flow run's page: the figures and the grid."""
    create_markdown_artifact(
        figures.markdown(root), key="figures", description="Figures of every stage"
    )
    grid = figures.grid_as_data_url(root)
    if grid is not None:
        create_image_artifact(grid, key="grid", description="Before and after, by task")
