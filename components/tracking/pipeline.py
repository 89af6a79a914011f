"""The run of a whole pipeline, which the runs of its stages join."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.tracking.environment import is_off
from components.tracking.stage_run import run_tags
from components.tracking.tracker import MlflowTracker

PIPELINE = "pipeline"


@contextmanager
def open_pipeline_run(root: Path, name: str) -> Iterator[str | None]:
    """Open the parent run called `name` and yield its id, for `KONOMI_PARENT_RUN_ID` of the stages.

    None where tracking is off or the store is away: the stages then open runs of their own.
    """
    if is_off():
        yield None
        return
    tracker = MlflowTracker(root, name, run_tags(PIPELINE, root))
    try:
        yield tracker.run_id
    except BaseException as error:
        tracker.set_tags({"konomi.error": f"{type(error).__name__}: {error}"})
        tracker.close("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    tracker.close("FINISHED")
