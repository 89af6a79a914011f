"""One stage as DVC's command line in a child process, with the five things that DVC leaves to its
caller.

1. The child is guarded (`guard.py`): nothing of it outlives this process, a cancellation or a
   timeout.
2. Its output arrives line by line while it runs.
3. A busy repository is an error of its own, because a later try helps.
4. A cache that could not take the outputs is an error, although DVC exits with status 0.
5. The stage's own exit status and its one line survive; DVC reports each failure as 1 or 255.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.contracts.artifacts import write_bytes
from components.contracts.errors import BadInput, KonomiError, TransientError
from flows.guard import SECONDS_TO_FINISH

GUARD = Path(__file__).with_name("guard.py")
LINES_KEPT = 400
"""Of a stage's output, for the explanation of a failure; the whole of it is in its log file."""

Outcome = Literal["ran", "restored", "unchanged"]
OnLine = Callable[[str], None]


class RepoBusy(TransientError):
    """Another process holds DVC's lock on the files of this stage."""


class CacheIncomplete(BadInput):
    """DVC's cache does not hold what the stage wrote; `dvc.lock` is what it was before."""


class StageFailed(KonomiError):
    """A stage ended with an error; `exit_code` is the stage's own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type[StageFailed], tuple[str, int]]:
        return (StageFailed, (str(self), self.exit_code))


@dataclass(frozen=True)
class StageResult:
    """How one stage ended."""

    stage: str
    outcome: Outcome
    """`ran`, `restored` from DVC's cache of earlier runs, or `unchanged`."""
    seconds: float


def run_stage(
    root: Path, stage: str, on_line: OnLine, environment: Mapping[str, str] | None = None
) -> StageResult:
    """Bring one stage up to date.

    Raises:
        RepoBusy: another process works on the stage's files.
        CacheIncomplete: the disk of DVC's cache is full, or an output is missing from it.
        StageFailed: the stage itself, or DVC about it, reported an error.
    """
    started = time.monotonic()
    lock = root / "dvc.lock"
    before = lock.read_bytes() if lock.exists() else None
    tail: deque[str] = deque(maxlen=LINES_KEPT)
    log = root / ".work" / "logs" / f"{stage}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as log_file:

        def keep(line: str) -> None:
            tail.append(line)
            log_file.write(line + "\n")
            log_file.flush()
            on_line(line)

        status = run_guarded(dvc("repro", "--single-item", stage), root, keep, environment)
    lines = list(tail)
    try:
        _raise_for(stage, status, lines, log.relative_to(root))
        outcome = _outcome(stage, lines)
        if outcome != "unchanged" and changes(root, [stage]):
            raise CacheIncomplete(
                f"{stage}: an output is not in DVC's cache after the run",
                allowed="`dvc status` names it; run the same command again",
            )
    except CacheIncomplete:
        # DVC has recorded outputs that it does not hold: the record goes back to what is true.
        if before is None:
            lock.unlink(missing_ok=True)
        else:
            write_bytes(lock, before)
        raise
    return StageResult(stage, outcome, time.monotonic() - started)


def changes(root: Path, stages: Sequence[str]) -> dict[str, list[str]]:
    """What has changed since the last run, by stage; nothing for a stage that is up to date.

    Raises:
        RepoBusy: another process holds the repository's lock.
        BadInput: DVC cannot read `dvc.yaml` or `dvc.lock`.
    """
    found = subprocess.run(
        dvc("status", "--json", *stages), cwd=root, capture_output=True, text=True, check=False
    )
    if found.returncode != 0:
        lines = found.stderr.splitlines()
        if _is_busy(lines):
            raise RepoBusy("another DVC process holds the repository; try again when it has ended")
        # A file that cannot be read is told in a picture of several lines, without the word ERROR.
        raise BadInput(_dvc_error(lines) or " ".join(lines) or "dvc status failed without a word")
    answer: dict[str, list[object]] = json.loads(found.stdout or "{}")
    return {stage: list(_reasons(entries)) for stage, entries in answer.items()}


def first_change(root: Path, stages: Sequence[str]) -> int | None:
    """Place of the first stage that is not up to date; None when all of them are.

    While another process works here, DVC does not answer: then no stage is taken for unchanged, and
    the stage that meets the lock is the one that waits for it.
    """
    try:
        changed = changes(root, stages)
    except RepoBusy:
        return 0
    return next((place for place, stage in enumerate(stages) if stage in changed), None)


def dvc(*arguments: str) -> list[str]:
    """DVC's command line, by the interpreter that runs this."""
    return [sys.executable, "-m", "dvc", *arguments]


def run_guarded(
    command: Sequence[str],
    root: Path,
    on_line: OnLine,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command under the guard and hand over its output line by line; returns its exit status.

    The kernel ties the guard's death notice to the *thread* that starts it, so that thread stays
    here until the command has ended.
    """
    child = subprocess.Popen(
        [sys.executable, "-P", str(GUARD), str(os.getpid()), *command],
        cwd=root,
        env=dict(environment) if environment is not None else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        for line in _lines(child):
            on_line(line)
        return child.wait()
    finally:
        _end(child)
        if child.stdout is not None:
            child.stdout.close()


def _lines(child: subprocess.Popen[bytes]) -> Iterator[str]:
    # Reads with a time limit: an exception that is sent to this thread (a timeout, a cancellation)
    # is only delivered between two calls, not inside of one.
    assert child.stdout is not None
    pipe = child.stdout.fileno()
    rest = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], 0.5)
        if not ready:
            continue
        chunk = os.read(pipe, 65536)
        if not chunk:
            break
        *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace").rstrip()
    if rest:
        yield rest.decode("utf-8", "replace").rstrip()


def _end(child: subprocess.Popen[bytes]) -> None:
    """The guard ends its group on SIGTERM; should it be stuck, its own session is killed."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout=SECONDS_TO_FINISH + 5.0)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _raise_for(stage: str, status: int, lines: list[str], log: Path) -> None:
    """Turn DVC's exit status and words into the error that they mean."""
    if any("failed to transfer" in line or "No space left on device" in line for line in lines):
        own = _own_error(stage, lines)
        raise CacheIncomplete(
            own or f"{stage}: no space left on the disk of DVC's cache",
            allowed="" if own else "free some space and run the same command again",
        )
    if status == 0:
        return
    exited = [found for line in lines if (found := re.search(r"exited with (-?\d+)$", line))]
    if exited:
        code = int(exited[-1][1])
        own = _own_error(stage, lines)
        if ended_by := _signal_of(code):
            own = own or f"{stage}: was ended by {ended_by.name}; its output: {log}"
            raise StageFailed(own, 128 + ended_by)
        raise StageFailed(own or f"{stage}: {_last_words(lines)}; its output: {log}", code)
    if _is_busy(lines):
        raise RepoBusy(f"{stage}: another process works on its files; try again when it has ended")
    raise StageFailed(f"{stage}: {_dvc_error(lines) or f'dvc ended with status {status}'}", 2)


def _signal_of(code: int) -> signal.Signals | None:
    """The signal behind an exit status.

    DVC runs a command in a shell. Where the shell becomes the command, DVC sees the signal itself
    (-9); where it waits for the command, as dash does, it sees the shell's 128 + 9.
    """
    number = -code if code < 0 else code - 128
    return signal.Signals(number) if number in set(signal.Signals) else None


def _own_error(stage: str, lines: list[str]) -> str:
    """The one line with which `stage_main` reports what it knows."""
    start = f"error: {stage}: "
    return next(
        (line.removeprefix("error: ") for line in reversed(lines) if line.startswith(start)), ""
    )


def _last_words(lines: list[str]) -> str:
    """The line of a traceback that says what happened: the last one before DVC speaks."""
    own = [line for line in lines if line.strip() and not line.startswith(("ERROR:", "Running "))]
    return own[-1] if own else "failed without a word"


def _is_busy(lines: list[str]) -> bool:
    return any(
        "is busy, it is being blocked by" in line or "Unable to acquire lock" in line
        for line in lines
    )


def _dvc_error(lines: list[str]) -> str:
    return next((line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")), "")


def _outcome(stage: str, lines: list[str]) -> Outcome:
    if f"Running stage '{stage}':" in lines:
        return "ran"
    if any(line.startswith(f"Stage '{stage}' is cached") for line in lines):
        return "restored"
    return "unchanged"


def _reasons(entries: list[object]) -> Iterator[str]:
    """`data/prompts modified` from DVC's nested answer."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
            continue
        assert isinstance(entry, dict)
        for files in entry.values():
            for name, what in files.items():
                yield from _named(name, what)


def _named(name: str, what: object) -> Iterator[str]:
    if isinstance(what, dict):  # params.yaml: {key: how}
        for key, how in what.items():
            yield f"{key} {how}"
    else:
        yield f"{name} {what}"
