"""A session with the model registry: the store's address set explicitly, and put back
afterwards."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
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


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what the libraries print while they save and load a model.

    They announce each part, draw bars of their own and warn of each other's deprecations; whatever
    is really wrong raises, or shows in the image that is compared afterwards.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
