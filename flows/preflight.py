"""What must be true before a run starts, each fault as one line and within seconds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from components.contracts.errors import BadInput
from components.contracts.settings import RunSettings, check, load_run
from flows.locks import mend_locks

BYTES_NEEDED = 500 * 2**20
"""Free space below which a run is refused: outputs, their copies in the cache, the tracker."""


def preflight(root: Path) -> RunSettings:
    """Check the folder and the settings, mend stale locks, and return the shared settings.

    Raises:
        BadInput: no git repository, no DVC folder, settings that do not describe a run, no space.
    """
    if not (root / "params.yaml").exists():
        raise BadInput("no params.yaml here", file=root, allowed="the folder of a Konomi project")
    in_git = subprocess.run(
        ["git", "rev-parse", "--is-inside-work-tree"], cwd=root, capture_output=True, check=False
    )
    if in_git.returncode != 0:
        raise BadInput(
            "is not in a git repository, which DVC needs",
            file=root,
            allowed="a clone, or `git init && git add . && git commit -m start` in a copy",
        )
    if not (root / ".dvc").is_dir():
        raise BadInput("no folder .dvc", file=root, allowed="a clone, or `dvc init`")
    params = root / "params.yaml"
    if root == Path.cwd():
        params = params.relative_to(root)  # an error line names it as a person would
    check(params)
    free = shutil.disk_usage(root).free
    if free < BYTES_NEEDED:
        raise BadInput(
            f"{free // 2**20} MiB free on this disk", file=root, allowed=f"{BYTES_NEEDED // 2**20}"
        )
    mend_locks(root)
    return load_run(params)


def is_offline(root: Path, run: RunSettings) -> bool:
    """Whether the base model is a folder here, so that no stage needs the hub."""
    return (root / run.base.path).exists()
