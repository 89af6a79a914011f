"""A killed, stopped or cancelled run leaves no DVC, no stage and no server behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import (
    behave,
    command_environment,
    konomi,
    order,
    processes_in,
    start_konomi,
    wait_until,
)


@pytest.fixture(autouse=True)
def nothing_is_left(project: Path) -> Iterator[None]:
    """A failing test must not leave on the machine what it complains about."""
    yield
    for pid in processes_in(project):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_run_ends_all_of_it(project: Path, server: str, number: int) -> None:
    behave(project, "prompts", sleep=300)
    run = start_konomi(project, "run", PREFECT_API_URL=server)
    wait_until((project / "sleeping").exists, 120, "the stage runs")
    assert any("dvc repro" in line for line in processes_in(project).values())
    run.send_signal(number)
    run.wait(timeout=60)
    wait_until(lambda: not processes_in(project), 20, f"left: {processes_in(project)}")

    if number != signal.SIGKILL:
        return
    # Nothing was tidied up, and the next run is still not blocked by what the first one held.
    behave(project, "prompts")
    done = konomi(project, "run", "--stage", "prompts", PREFECT_API_URL=server)
    assert done.returncode == 0, done.stderr
    assert order(project) == ["prompts", "prompts"]


def test_the_private_server_dies_with_a_killed_run(project: Path) -> None:
    behave(project, "prompts", sleep=300)
    run = start_konomi(project, "run", "--stage", "prompts")
    wait_until((project / "sleeping").exists, 180, "the stage runs")
    assert any("prefect server start" in line for line in processes_in(project).values())
    run.kill()
    run.wait()
    wait_until(lambda: not processes_in(project), 30, f"left: {processes_in(project)}")


def test_a_killed_dvc_takes_its_stage_along(project: Path, server: str) -> None:
    behave(project, "prompts", sleep=300)
    run = start_konomi(project, "run", PREFECT_API_URL=server)
    wait_until((project / "sleeping").exists, 120, "the stage runs")
    stage = int((project / "sleeping").read_text())
    (dvc,) = (
        pid
        for pid, line in processes_in(project).items()
        if "dvc repro" in line and "guard.py" not in line
    )
    os.kill(dvc, signal.SIGKILL)
    wait_until(lambda: stage not in processes_in(project), 15, "the stage has ended")
    assert run.wait(timeout=60) != 0
    wait_until(lambda: not processes_in(project), 15, f"left: {processes_in(project)}")


def test_a_cancelled_run_leaves_nothing(project: Path, server: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    behave(project, "prompts", sleep=300)
    served = subprocess.Popen(
        [sys.executable, "-m", "flows.deployments"],
        cwd=project,
        env=command_environment(PREFECT_API_URL=server, PREFECT_RUNNER_POLL_FREQUENCY="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with get_client(sync_client=True) as client:

            def deployed() -> bool:
                found = client.read_deployments()
                return any(entry.parameters.get("root") == str(project) for entry in found)

            wait_until(deployed, 120, "the deployment is served")
            (made,) = (
                entry
                for entry in client.read_deployments()
                if entry.parameters.get("root") == str(project)
            )
            run = client.create_flow_run_from_deployment(made.id)
            wait_until((project / "sleeping").exists, 180, "the stage runs")
            client.set_flow_run_state(run.id, Cancelling())
            wait_until(
                lambda: client.read_flow_run(run.id).state_name == "Cancelled", 90, "cancelled"
            )
        left = lambda: {  # noqa: E731
            pid: line for pid, line in processes_in(project).items() if pid != served.pid
        }
        wait_until(lambda: not left(), 20, f"left: {left()}")
    finally:
        served.terminate()
        served.wait(timeout=60)
