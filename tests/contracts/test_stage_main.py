"""How a stage ends: exit status and one line, whatever happens inside."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.contracts import errors
from components.contracts.artifacts import write_bytes
from components.contracts.stage import StageContext, stage_main
from components.tracking import open_tracker

PARAMS = """\
seed: 5
compute: {device: cpu, threads: 1}
base: {path: base}
prompts:
  sources: [{path: prompts.txt}]
"""

Body = Callable[[Any, StageContext], Mapping[str, float]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KONOMI_TRACKING", "off")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path


def ends_with(error: BaseException) -> Body:
    def body(settings: Any, context: StageContext) -> Mapping[str, float]:
        raise error

    return body


def test_a_body_gets_its_settings_and_its_own_seeds(folder: Path) -> None:
    seen = []

    def body(settings: Any, context: StageContext) -> Mapping[str, float]:
        seen.append((settings, context))
        return {"rows": 1.0}

    assert stage_main("prompts", body, open_tracker, []) == 0
    [(settings, context)] = seen
    assert settings.sources[0].path == "prompts.txt"
    assert (context.stage, context.root, context.seed) == ("prompts", folder, 5)
    assert context.seed_for("a") != context.seed_for("b")
    assert context.generator("a").initial_seed() == context.seed_for("a")
    assert context.work == folder / ".work/prompts"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.BadInput("odd", file="f.csv", place="line 3", allowed="even"), 2),
        (errors.SettingsError("odd"), 2),
        (errors.DataError("odd"), 2),
        (errors.ModelError("odd"), 2),
        (errors.QuarantinedData("odd"), 65),
        (errors.GuardError("odd"), 70),
        (errors.TransientError("odd"), 75),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (OSError(errno.EDQUOT, "Quota exceeded"), 2),
    ],
)
def test_an_error_is_one_line_and_its_exit_status(
    folder: Path, capsys: pytest.CaptureFixture[str], error: Exception, status: int
) -> None:
    assert stage_main("prompts", ends_with(error), open_tracker, []) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: prompts: ")
    assert printed.err.count("\n") == 1
    with pytest.raises(type(error)):
        stage_main("prompts", ends_with(error), open_tracker, ["--debug"])


def test_a_message_with_somebodys_data_stays_one_line() -> None:
    error = errors.BadInput("bad\nvalue\t'x\r\ny'", file="f.csv", place="line 3", allowed="a\nb")
    assert str(error) == "f.csv: line 3: bad value 'x y'; allowed: a b"


def test_a_fault_of_the_program_is_not_hidden(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        stage_main("prompts", ends_with(ZeroDivisionError()), open_tracker, [])
    with pytest.raises(PermissionError):
        stage_main("prompts", ends_with(PermissionError(errno.EACCES, "no")), open_tracker, [])


def test_bad_settings_stop_before_the_body(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "params.yaml").write_text(PARAMS.replace("sources", "source"))
    called = ends_with(AssertionError("the body ran"))
    assert stage_main("prompts", called, open_tracker, []) == 2
    assert "unknown key" in capsys.readouterr().err
    assert stage_main("prompts", called, open_tracker, ["--params", "gone.yaml"]) == 2
    assert capsys.readouterr().err == "error: prompts: gone.yaml: no such file\n"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A folder on a disk of 64 KB, or None where nothing may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_earlier_outputs_stay(
    folder: Path, full_disk: Path | None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = (full_disk or folder) / "out"
    out.write_bytes(b"earlier")

    def body(settings: Any, context: StageContext) -> Mapping[str, float]:
        if full_disk is None:  # the kernel's own full device answers as a full disk does
            Path("/dev/full").write_bytes(b"x")
        write_bytes(out, os.urandom(200_000))
        return {}

    assert stage_main("prompts", body, open_tracker, []) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no space left on the disk; earlier outputs are untouched; allowed: free" in error
    assert out.read_bytes() == b"earlier"
    if full_disk:
        assert list(full_disk.iterdir()) == [out]


def test_the_module_runs_as_a_command(folder: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "components.prompts"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: prompts: ")
    assert ran.stderr.endswith("prompts.txt: no such file\n")
