"""Stale entries of DVC's lock file are dropped, those of a living DVC are not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.dvc import run_stage
from flows.locks import mend_locks


def hold(project: Path, pid: int) -> Path:
    """Write the entry that DVC writes while a stage runs in process `pid`."""
    path = project / ".dvc/tmp/rwlock"
    path.parent.mkdir(exist_ok=True)
    info = {"pid": pid, "cmd": "dvc repro"}
    out, dep = str(project / "data/prompts"), str(project / "step.py")
    path.write_text(json.dumps({"write": {out: info}, "read": {dep: [info]}}))
    return path


@pytest.mark.parametrize("content", ["", '{"write": {"a"', "[]", '{"write": {"a": 1}}'])
def test_an_empty_or_truncated_file_is_removed(project: Path, content: str) -> None:
    path = hold(project, 1)
    path.write_text(content)
    assert mend_locks(project) == ["removed DVC's lock file: it was empty or truncated"]
    assert not path.exists()


def test_a_dead_process_is_dropped(project: Path) -> None:
    dead = max(psutil.pids()) + 1
    path = hold(project, dead)
    assert mend_locks(project) == [f"dropped a DVC lock of process {dead}, which is gone"]
    assert json.loads(path.read_text()) == {"write": {}, "read": {}}


def test_a_pid_that_another_program_has_by_now_no_longer_blocks(project: Path) -> None:
    hold(project, os.getpid())
    assert mend_locks(project)
    assert run_stage(project, "prompts", lambda line: None).outcome == "ran"


def test_a_living_dvc_keeps_its_lock(project: Path) -> None:
    # A process with DVC's command line that takes as long as the test needs.
    code = "import sys, time; print('up', flush=True); time.sleep(300)"
    living = subprocess.Popen([sys.executable, "-c", code, "dvc"], stdout=subprocess.PIPE)
    try:
        assert living.stdout is not None
        living.stdout.readline()
        path = hold(project, living.pid)
        before = path.read_text()
        assert mend_locks(project) == []
        assert path.read_text() == before
    finally:
        living.kill()
        living.communicate()


def test_without_a_lock_file_there_is_nothing_to_mend(project: Path) -> None:
    assert mend_locks(project) == []
