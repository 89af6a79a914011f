"""One stage through DVC's command line: outcomes, errors, and what DVC does not say."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from components.contracts.errors import BadInput
from flows.dvc import RepoBusy, StageFailed, changes, dvc, run_stage
from tests.support.project import behave, change, order, processes_in, wait_until


def ignore(line: str) -> None:
    """For tests that do not look at the output."""


def test_a_stage_runs_then_is_unchanged_then_comes_back_from_the_cache(project: Path) -> None:
    assert "prompts" in changes(project, ["prompts"])
    lines: list[str] = []
    assert run_stage(project, "prompts", lines.append).outcome == "ran"
    assert "prompts: 1/2  0:01 gone, 0:01 left" in lines
    assert changes(project, ["prompts"]) == {}
    assert run_stage(project, "prompts", ignore).outcome == "unchanged"

    change(project, seed=8)
    assert changes(project, ["prompts"]) == {"prompts": ["seed modified"]}
    assert run_stage(project, "prompts", ignore).outcome == "ran"
    change(project, seed=7)
    assert run_stage(project, "prompts", ignore).outcome == "restored"
    assert order(project) == ["prompts", "prompts"]


def test_the_stages_own_line_and_status_survive(project: Path) -> None:
    behave(project, "prompts", error="params.yaml: line 3: seed: unknown key", status=65)
    with pytest.raises(StageFailed) as caught:
        run_stage(project, "prompts", ignore)
    assert str(caught.value) == "prompts: params.yaml: line 3: seed: unknown key"
    assert caught.value.exit_code == 65
    assert not (project / "dvc.lock").exists()


def test_a_crash_is_told_by_its_last_words_and_its_log(project: Path) -> None:
    behave(project, "prompts", crash="nothing")
    with pytest.raises(StageFailed) as caught:
        run_stage(project, "prompts", ignore)
    assert str(caught.value) == "prompts: KeyError: 'nothing'; its output: .work/logs/prompts.log"
    assert caught.value.exit_code == 1
    assert "Traceback" in (project / ".work/logs/prompts.log").read_text()


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_stage_that_was_killed_says_by_what(
    project: Path, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DVC runs stages in the user's shell: one becomes the command, the other waits for it.
    monkeypatch.setenv("SHELL", shell)
    behave(project, "prompts", signal=int(signal.SIGKILL))
    with pytest.raises(StageFailed, match="was ended by SIGKILL") as caught:
        run_stage(project, "prompts", ignore)
    assert caught.value.exit_code == 128 + 9


def test_a_broken_dvc_yaml_is_one_line(project: Path) -> None:
    (project / "dvc.yaml").write_text("stages: {prompts: {cmd: [}}")
    with pytest.raises(BadInput) as caught:
        changes(project, ["prompts"])
    assert "dvc.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_busy_repository_is_an_error_of_its_own(project: Path) -> None:
    behave(project, "prompts", sleep=300)
    other = subprocess.Popen(
        dvc("repro", "prompts"), cwd=project, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until((project / "sleeping").exists, 60, "the other process runs the stage")
        with pytest.raises(RepoBusy):
            run_stage(project, "prompts", ignore)
        assert order(project) == ["prompts"], "the stage was started a second time"
    finally:
        os.killpg(other.pid, signal.SIGTERM)
        other.wait()
    wait_until(lambda: not processes_in(project), 10, "the other process has ended")


def test_a_lost_output_comes_back_from_the_cache(project: Path) -> None:
    run_stage(project, "prompts", ignore)
    (project / "data/prompts").unlink()
    assert changes(project, ["prompts"]) == {"prompts": ["data/prompts deleted"]}
    assert run_stage(project, "prompts", ignore).outcome == "restored"
