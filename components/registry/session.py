"""A session with the model registry: the store's address set explicitly, and put back
afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from components.contracts.errors import TransientError
from components.tracking.environment import set_defaults, tracking_uri
from components.tracking.store import connect
from components.tracking.text import clean

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER = "challenger"
CHAMPION = "champion"


@contextmanager
def open_registry(root: Path) -> Iterator[tuple[MlflowClient, str]]:
    """A client of the project's registry and the id of the experiment.

    The model flavours know no client: they go to the process-wide address, which setting also
    exports to the environment. Both are put back, so that a second project in one process keeps its
    own.

    Raises:
        TransientError: the registry is away.
    """
    set_defaults()
    import mlflow

    uri = tracking_uri(root)
    before = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        client, experiment = connect(root)
    except Exception as error:  # the library raises its own, the driver's and the network's
        reason = " ".join(clean(error, 200).split())
        raise TransientError(f"the model registry is away ({reason})") from None
    mlflow.set_tracking_uri(uri)
    try:
        yield client, experiment
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]
