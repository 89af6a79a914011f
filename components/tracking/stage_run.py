"""The run of one stage, open for as long as the stage works."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.contracts.protocols import Tracker
from components.contracts.stage import PARENT_RUN, git_revision
from components.tracking.environment import is_off
from components.tracking.tracker import MlflowTracker, NullTracker


@contextmanager
def open_tracker(stage: str, root: Path) -> Iterator[Tracker]:
    """The tracker of `stage`: a child of the pipeline's run if there is one, else its own run.

    The run ends FINISHED, FAILED with the error as a tag, or KILLED when it was interrupted.
    """
    if is_off():
        yield NullTracker()
        return
    parent = os.environ.get(PARENT_RUN) or None
    tracker = MlflowTracker(root, stage, run_tags(stage, root), parent)
    try:
        yield tracker
    except BaseException as error:
        tracker.set_tags({"konomi.error": f"{type(error).__name__}: {error}"})
        killed = isinstance(error, (KeyboardInterrupt, SystemExit))
        tracker.close("KILLED" if killed else "FAILED")
        raise
    tracker.log_metrics(_resources())
    tracker.close("FINISHED")


def run_tags(stage: str, root: Path) -> dict[str, str]:
    """What every run is searched by."""
    return {
        "konomi.stage": stage,
        "mlflow.source.name": f"components.{stage}",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git_revision(root),
    }


def _resources() -> dict[str, float]:
    """Peak memory in MiB and CPU time in seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1024**2 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return {
        "system/peak_memory_mib": used.ru_maxrss / unit,
        "system/cpu_seconds": used.ru_utime + used.ru_stime,
    }
