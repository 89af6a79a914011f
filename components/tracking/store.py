"""The connection to the tracking store, and its first initialisation."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from components.tracking.environment import EXPERIMENT, local_uri, set_defaults, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient


def connect(root: Path) -> tuple[MlflowClient, str]:
    """A client of the project's store and the id of Konomi's experiment, made where it is missing.

    Several processes may start together on a new store: two that create the tables of one SQLite
    file at the same moment would leave it broken for ever, hence the lock.

    Raises:
        Exception: whatever the store raises when it is away; callers decide whether that may stop
        them.
    """
    set_defaults()
    from mlflow import MlflowClient

    uri = tracking_uri(root)
    with _lock(root):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return client, found.experiment_id
        local = uri == local_uri(root)
        place = (root / "mlartifacts").resolve().as_uri() if local else None
        return client, client.create_experiment(EXPERIMENT, artifact_location=place)


def client_of(root: Path) -> MlflowClient | None:
    """A client for reading, or None where no store exists yet; nothing is created."""
    if tracking_uri(root) == local_uri(root) and not (root / "mlflow.db").exists():
        return None
    return connect(root)[0]


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    path = root / ".work" / "tracking.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
