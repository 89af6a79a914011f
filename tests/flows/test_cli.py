"""`konomi` as a person meets it: quick help, one clear line for each error, its exit status."""

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.cli import _main
from tests.support.project import behave, konomi, order


def one_line(text: str) -> str:
    """The only line of an error output."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


def test_help_answers_at_once_and_names_every_command(project: Path) -> None:
    found = konomi(project, "--help")
    assert found.returncode == 0
    for command in ("demo", "run", "check", "status", "report", "promote", "serve-reward"):
        assert f" {command} " in found.stdout
    # The second is of the processor: on a busy machine the clock measures the others.
    used = (
        "import resource, sys; from flows import cli; sys.argv = ['konomi', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "heavy = {'torch', 'mlflow', 'prefect', 'pandas', 'ruamel.yaml'} & set(sys.modules)\n"
        "print(used.ru_utime + used.ru_stime, sorted(heavy), file=sys.stderr)"
    )
    measured = subprocess.run([sys.executable, "-c", used], capture_output=True, text=True)
    seconds, heavy = measured.stderr.strip().split(" ", 1)
    assert float(seconds) < 1.0
    assert heavy == "[]"


@pytest.mark.parametrize(
    "command", ["demo", "run", "check", "status", "report", "promote", "serve-reward"]
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main([command, "--help"], debug=False) == 0
    assert f"Usage: konomi {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["run", "--stge", "x"], "error: No such option: --stge", 2),
        (["rnu"], "error: No such command 'rnu'", 2),
        (["run", "--stage", "reward"], "error: no stage 'reward'; allowed: prompts, ", 2),
        (["run", "--profile", "x"], "error: no profile 'x'; allowed: demo, full", 2),
        (["report"], "error: reports/report.html: not written yet; allowed: `konomi run`", 2),
        (["promote", "one", "--by", "me"], "error: Invalid value for 'version'", 2),
    ],
)
def test_a_wrong_command_is_one_line(
    project: Path,
    arguments: list[str],
    message: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    assert _main(arguments, debug=False) == status
    assert one_line(capsys.readouterr().err).startswith(message)


def test_an_unknown_key_is_one_line_with_the_choices(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("  rounds: ", "  round: "))
    monkeypatch.chdir(project)
    for command in ("check", "run", "demo"):
        assert _main([command], debug=False) == 2
        line = one_line(capsys.readouterr().err)
        assert line.startswith("error: params.yaml: line ")
        assert "did you mean 'rounds'?" in line
    assert order(project) == []


def test_without_git_it_says_so(project: Path) -> None:
    shutil.rmtree(project / ".git")
    found = konomi(project, "run")
    assert found.returncode == 2
    assert "is not in a git repository, which DVC needs; allowed: " in one_line(found.stderr)


def test_another_program_at_the_prefect_port_is_one_line(project: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        url = f"http://127.0.0.1:{other.getsockname()[1]}/api"
        started = time.monotonic()
        found = konomi(project, "run", PREFECT_API_URL=url)
        assert time.monotonic() - started < 60
    assert found.returncode == 2
    assert one_line(found.stderr).startswith(
        f"error: PREFECT_API_URL: '{url}' does not answer as a Prefect server; allowed: "
    )
    assert order(project) == []


def test_debug_shows_the_traceback(project: Path) -> None:
    found = konomi(project, "report", "--debug")
    assert "Traceback" in found.stderr
    assert found.stderr.strip().splitlines()[-1].startswith("error: reports/report.html")


def test_a_failed_stage_then_a_whole_run_then_nothing_to_do(project: Path, server: str) -> None:
    behave(project, "prompts", error="sources: a.csv: is not UTF-8", status=65)
    failed = konomi(project, "run", PREFECT_API_URL=server)
    assert failed.returncode == 65
    assert failed.stderr.strip().splitlines()[-1] == "error: prompts: sources: a.csv: is not UTF-8"
    assert "Traceback" not in failed.stderr

    behave(project, "prompts")
    done = konomi(project, "run", "--stage", "preferences", PREFECT_API_URL=server)
    assert done.returncode == 0, done.stderr
    assert order(project) == ["prompts", "prompts", "preferences"]
    assert "prompts: ran (" in done.stderr
    assert "git add" not in done.stderr

    again = konomi(project, "run", "--stage", "preferences", PREFECT_API_URL="http://127.0.0.1:9/")
    assert again.returncode == 0, "an unchanged pipeline needs no Prefect"
    assert "everything is up to date" in again.stdout

    status = konomi(project, "status")
    assert status.returncode == 0, status.stderr
    assert status.stdout.count("up to date") == 2
    assert "waits" in status.stdout or "changed" in status.stdout


def test_a_reward_that_cannot_be_served_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "scorer.yaml").write_text("reward: {name: remote, url: 'http://127.0.0.1:9'}")
    asked = ["serve-reward", "--port", "0", "--scorer", "scorer.yaml"]
    assert _main(asked, debug=False) == 2
    line = one_line(capsys.readouterr().err)
    assert line.startswith("error: serve-reward: scorer.yaml: the reward is remote, at http://127")
