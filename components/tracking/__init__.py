"""Where stages report what happened: one parent run per pipeline run, a child run per stage.

Reads the environment (`KONOMI_TRACKING`, `KONOMI_PARENT_RUN_ID`, `MLFLOW_TRACKING_URI`), writes
runs to the MLflow store, by default `mlflow.db` and `mlartifacts/` in the project's folder. Only
this room and the registry import mlflow, and they do so inside functions, since the import takes
more than a second.
"""

from components.tracking.pipeline import open_pipeline_run
from components.tracking.read import RunSummary, StageSummary, latest_runs
from components.tracking.stage_run import open_tracker
from components.tracking.tracker import MlflowTracker, NullTracker

__all__ = [
    "MlflowTracker",
    "NullTracker",
    "RunSummary",
    "StageSummary",
    "latest_runs",
    "open_pipeline_run",
    "open_tracker",
]
