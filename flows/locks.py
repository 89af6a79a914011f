"""A look at DVC's lock file before a run: entries of processes that are gone must not block for
ever.

DVC drops the entry of a pid that does not exist. It waits for ever for one that is a zombie (a
container without an init) or belongs to another program by now, and an empty or truncated file
stops every command.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from pathlib import Path
from typing import Any

import psutil

from components.contracts.artifacts import write_text


def mend_locks(root: Path) -> list[str]:
    """Drop what is stale from `.dvc/tmp/rwlock`; returns one line for each thing mended."""
    path = root / ".dvc" / "tmp" / "rwlock"
    if not path.exists():
        return []
    with (path.parent / "rwlock.lock").open("a") as guard:
        try:
            # The lock that DVC itself takes around each change of the file.
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return []
        with contextlib.closing(guard):
            return _mend(path)


def _mend(path: Path) -> list[str]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        readers = {file: list(infos) for file, infos in held.get("read", {}).items()}
        writers = dict(held.get("write", {}))
        alive = {
            json.dumps(info): _is_dvc(int(info["pid"]))
            for info in [*writers.values(), *(info for infos in readers.values() for info in infos)]
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        path.unlink()
        return ["removed DVC's lock file: it was empty or truncated"]
    if all(alive.values()):
        return []
    kept: dict[str, Any] = {
        "write": {file: info for file, info in writers.items() if alive[json.dumps(info)]},
        "read": {
            file: left
            for file, infos in readers.items()
            if (left := [info for info in infos if alive[json.dumps(info)]])
        },
    }
    write_text(path, json.dumps(kept))
    gone = sorted(json.loads(info)["pid"] for info, here in alive.items() if not here)
    return [f"dropped a DVC lock of process {pid}, which is gone" for pid in dict.fromkeys(gone)]


def _is_dvc(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and any(
            Path(part).name == "dvc" for part in process.cmdline()
        )
    except psutil.Error:
        return False
