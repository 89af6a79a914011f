"""Every switch of Prefect, DVC and MLflow that a run needs, set in one place and once.

Set before those packages are imported and with `setdefault`: what a person has exported wins.
Nothing here asks for an account, a server that was started by hand, or the network.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from components.tracking.environment import set_defaults


def prepare(root: Path) -> None:
    """Set the defaults for this process and for every process that it starts."""
    for name, value in defaults(root).items():
        os.environ.setdefault(name, value)
    set_defaults()  # MLflow's own
    # `dvc.yaml` says `python`: it must be the interpreter that has the packages, activated or not.
    folder = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])


def defaults(root: Path) -> dict[str, str]:
    """The switches by name; `root` is the project's folder."""
    work = root.resolve() / ".work"
    return {
        # Nobody is told that this runs.
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Prefect: a home per project, time for a first start on a busy machine, and no pickle.
        "PREFECT_HOME": str(work / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        # The chain reports through its own display; Prefect's console lines would tear it apart.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        # DVC's default is a folder that every user of the machine can write to.
        "DVC_SITE_CACHE_DIR": str(work / "dvc-site"),
    }


def stage_environment(parent_run: str | None, *, offline: bool) -> dict[str, str]:
    """What one stage's process gets: this process's environment and where it belongs.

    `offline` keeps the hub's client from asking the network about a model that is a local folder.
    """
    environment = dict(os.environ)
    environment["PYTHONUNBUFFERED"] = "1"
    environment["KONOMI_DIE_WITH_PARENT"] = "1"
    if offline:
        environment.setdefault("HF_HUB_OFFLINE", "1")
    if parent_run:
        environment["KONOMI_PARENT_RUN_ID"] = parent_run
    return environment
