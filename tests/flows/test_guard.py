"""The guard: what it runs has the guard's whole life, and not a moment more."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.dvc import GUARD, run_guarded
from flows.guard import CALLER_IS_GONE
from tests.support.project import processes_in, wait_until


@pytest.mark.parametrize("status", [0, 2, 65, 75])
def test_the_exit_status_is_the_commands(tmp_path: Path, status: int) -> None:
    command = [sys.executable, "-c", f"raise SystemExit({status})"]
    assert run_guarded(command, tmp_path, lambda line: None) == status


def test_a_killed_command_has_the_shells_status(tmp_path: Path) -> None:
    assert run_guarded(["sh", "-c", "kill -KILL $$"], tmp_path, lambda line: None) == 128 + 9


def test_an_unknown_command_is_one_line(tmp_path: Path) -> None:
    lines: list[str] = []
    assert run_guarded(["no-such-command"], tmp_path, lines.append) == 127
    assert lines == ["error: no-such-command: No such file or directory"]


def test_lines_arrive_whole_and_in_order(tmp_path: Path) -> None:
    lines: list[str] = []
    run_guarded(["printf", r"one\ntw\303\244\rthree"], tmp_path, lines.append)
    assert lines == ["one", "twä", "three"]


def test_what_a_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    run_guarded(["sh", "-c", "sleep 300 >/dev/null 2>&1 &"], tmp_path, lambda line: None)
    assert processes_in(tmp_path) == {}


def test_a_command_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The guard's ten seconds are shortened by a copy of it: the constant is all that differs.
    text = GUARD.read_text().replace("SECONDS_TO_FINISH = 10.0", "SECONDS_TO_FINISH = 0.3")
    quick = tmp_path / "guard.py"
    quick.write_text(text)
    monkeypatch.setattr("flows.dvc.GUARD", quick)
    run_guarded(
        ["sh", "-c", "(trap '' TERM; sleep 300; sleep 300) >/dev/null 2>&1 &"],
        tmp_path,
        lambda line: None,
    )
    assert processes_in(tmp_path) == {}


def test_an_exception_while_reading_ends_the_command(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="ready"):
        run_guarded(["sh", "-c", "echo ready; sleep 300"], tmp_path, stop)
    assert processes_in(tmp_path) == {}


def test_sigkill_of_the_caller_ends_everything(tmp_path: Path) -> None:
    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from flows.dvc import run_guarded\n"
            "run_guarded(['sh', '-c', 'sleep 300 & echo up; wait'], Path.cwd(), print)",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert caller.stdout is not None
    assert caller.stdout.readline() == b"up\n"
    assert len(processes_in(tmp_path)) >= 3  # caller, guard, shell, sleep
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    caller.stdout.close()
    wait_until(lambda: not processes_in(tmp_path), 10, "no process is left")


def test_a_guard_whose_caller_is_gone_starts_nothing(tmp_path: Path) -> None:
    stranger = max(psutil.pids()) + 1
    found = subprocess.run(
        [sys.executable, "-P", str(GUARD), str(stranger), "touch", "started"], cwd=tmp_path
    )
    assert found.returncode == CALLER_IS_GONE
    assert not (tmp_path / "started").exists()
