"""The chain under a real Prefect server: order, retries, caching, the page of a run."""

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from components.contracts.settings import STAGES
from flows.dvc import StageFailed, dvc
from tests.support.project import behave, order, processes_in, wait_until

pytestmark = pytest.mark.usefixtures("server")


def run_of(project: Path, **parameters: Any) -> tuple[Any, list[Any]]:
    """The newest flow run over `project` and its task runs in order, as the server tells them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    ended = FlowRunFilter.model_validate({"state": {"type": {"any_": ["COMPLETED", "FAILED"]}}})
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=ended, sort=FlowRunSort.START_TIME_DESC)
        run = next(run for run in runs if run.parameters.get("root") == str(project))
        of_it = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
        tasks: list[Any] = []

        def recorded() -> bool:
            # Task runs reach the server as events, a moment after the flow has ended.
            tasks[:] = client.read_task_runs(flow_run_filter=of_it)
            return bool(tasks) and all(task.state and task.state.is_final() for task in tasks)

        wait_until(recorded, 20, "the server has recorded the tasks")
    return run, sorted(tasks, key=lambda task: task.start_time)


def artifacts_of(run: Any) -> dict[str, Any]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        )
    return {artifact.key: artifact for artifact in found}


def test_the_chain_runs_in_order_then_has_nothing_to_do(project: Path) -> None:
    from flows.retrain import retrain

    (project / "reports").mkdir()
    (project / "reports/prompts.json").write_text('{"kept": 12, "dropped": {"long": 1}}')
    results = retrain(str(project))
    assert [(result.stage, result.outcome) for result in results] == [(s, "ran") for s in STAGES]
    assert order(project) == list(STAGES)
    run, tasks = run_of(project)
    assert run.name == "retrain dpok on components/miniature/base, seed 7"
    assert [task.name for task in tasks] == list(STAGES)
    figures = artifacts_of(run)["figures"]
    assert "### prompts" in figures.data
    assert "| kept | 12 |" in figures.data

    again = retrain(str(project))
    assert {result.outcome for result in again} == {"unchanged"}
    assert order(project) == list(STAGES), "a stage ran although nothing had changed"
    _, tasks = run_of(project)
    assert [(task.name, task.state.name) for task in tasks] == [
        ("everything is up to date", "Cached")
    ]


def test_a_busy_repository_and_a_transient_error_are_retried(project: Path) -> None:
    from flows.display import Silent, show_on
    from flows.retrain import bring_up_to_date, retrain

    behave(project, "prompts", sleep=300)
    other = subprocess.Popen(
        dvc("repro", "prompts"), cwd=project, stdout=subprocess.DEVNULL, start_new_session=True
    )
    failures: list[str] = []

    class FirstEndsTheOther(Silent):
        def failed(self, stage: str, error: BaseException) -> None:
            failures.append(type(error).__name__)
            if other.poll() is None:
                behave(project, "prompts", transient=1)
                os.killpg(other.pid, signal.SIGKILL)
                other.wait()

    try:
        wait_until((project / "sleeping").exists, 60, "the other process runs the stage")
        with show_on(FirstEndsTheOther()):
            results = retrain(str(project), upto="prompts")
    finally:
        if other.poll() is None:
            os.killpg(other.pid, signal.SIGKILL)
            other.wait()
    assert [result.outcome for result in results] == ["ran"]
    assert failures == ["RepoBusy", "StageFailed"]
    assert order(project) == ["prompts"] * 3  # the other's, the transient one, the good one
    _, tasks = run_of(project)
    assert tasks[0].run_count == 3
    assert bring_up_to_date.retry_delay_seconds == [2, 4, 8]


def test_an_error_that_a_retry_cannot_help_is_raised_at_once(project: Path) -> None:
    from flows.retrain import retrain

    behave(project, "preferences", error="pairs.parquet: is truncated", status=2)
    with pytest.raises(StageFailed, match=r"^preferences: pairs.parquet: is truncated$") as caught:
        retrain(str(project))
    assert caught.value.exit_code == 2
    assert order(project) == ["prompts", "preferences"]
    run, _ = run_of(project)
    assert run.state_name == "Failed"


def test_only_what_has_changed_and_what_follows_runs(project: Path) -> None:
    from flows.retrain import retrain

    retrain(str(project), upto="preferences")
    (project / "data/prompts").write_bytes(b"by hand")
    results = retrain(str(project), upto="rewards")
    # The prompts come back from the cache, the preferences are as they were, the rewards are new.
    assert [result.outcome for result in results] == ["restored", "unchanged", "ran"]


def test_a_time_limit_ends_the_stage_and_leaves_nothing(project: Path) -> None:
    from flows.retrain import retrain

    behave(project, "prompts", sleep=300)
    before = threading.active_count()
    with pytest.raises(Exception, match=r"(?i)time"):
        retrain(str(project), stage_hours=8 / 3600)
    assert (project / "sleeping").exists()
    wait_until(lambda: not processes_in(project), 15, "no process is left")
    assert threading.active_count() <= before + 2
