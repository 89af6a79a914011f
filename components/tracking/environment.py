"""The switches of the tracking library, set once and never over a person's own choice."""

from __future__ import annotations

import logging
import os
from pathlib import Path

EXPERIMENT = "konomi"
SWITCH = "KONOMI_TRACKING"
"""`off` gives the null tracker: no run is kept. The registry stage registers all the same."""

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # With a server that is away one call would otherwise block for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    # A pickle in a model folder is a program; none of ours holds one and none is opened.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # Bars of the artifact copy break the stage's own progress lines.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def set_defaults() -> None:
    """Set each switch that is not set yet. Call before mlflow is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # A new SQLite file is announced with some eighty lines of schema history.
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)


def is_off() -> bool:
    """Whether runs are kept at all."""
    return os.environ.get(SWITCH, "").lower() in ("off", "0", "false", "none")


def tracking_uri(root: Path) -> str:
    """The store of this project: `MLFLOW_TRACKING_URI`, or a SQLite file in the project's folder.

    Never the library's own default, which is a file in whatever folder the process happens to be
    in.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or local_uri(root)


def local_uri(root: Path) -> str:
    """The SQLite store in the project's folder."""
    return f"sqlite:///{(root / 'mlflow.db').resolve()}"
