"""Parent and child runs in a real store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.contracts.artifacts import dvc_digest, write_text
from components.contracts.stage import PARENT_RUN
from components.tracking import NullTracker, latest_runs, open_pipeline_run, open_tracker
from components.tracking.store import connect


def _runs(root: Path) -> dict[str, Any]:
    client, experiment = connect(root)
    return {run.info.run_name: run for run in client.search_runs([experiment])}


def test_a_stage_joins_the_pipeline_run_and_leaves_it_running(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_pipeline_run(root, "retrain dpok on components/base, seed 7") as parent:
        assert parent is not None
        monkeypatch.setenv(PARENT_RUN, parent)
        with open_tracker("prompts", root):
            pass
        child, pipeline = _runs(root)["prompts"], connect(root)[0].get_run(parent)
        assert child.data.tags["mlflow.parentRunId"] == parent
        assert (child.info.status, pipeline.info.status) == ("FINISHED", "RUNNING")
    assert connect(root)[0].get_run(parent).info.status == "FINISHED"


def test_a_retry_goes_on_in_the_same_child(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_pipeline_run(root, "retrain") as parent:
        monkeypatch.setenv(PARENT_RUN, str(parent))
        ids = []
        with pytest.raises(RuntimeError), open_tracker("prompts", root) as tracker:
            ids.append(tracker.run_id)
            raise RuntimeError("first try\x00")
        failed = _runs(root)["prompts"]
        assert failed.info.status == "FAILED"
        assert failed.data.tags["konomi.error"] == "RuntimeError: first try"
        with open_tracker("prompts", root) as tracker:
            ids.append(tracker.run_id)
        assert ids[0] == ids[1]
        assert _runs(root)["prompts"].info.status == "FINISHED"


def test_an_interrupted_stage_is_killed_and_not_failed(root: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_tracker("rewards", root):
        raise KeyboardInterrupt
    assert _runs(root)["rewards"].info.status == "KILLED"


def test_a_parent_that_does_not_exist_is_no_reason_to_fail(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PARENT_RUN, "0" * 32)
    with open_tracker("prompts", root) as tracker:
        tracker.log_metrics({"kept": 1.0})
    assert _runs(root)["prompts"].data.metrics["kept"] == 1.0


def test_what_is_reported_arrives(root: Path) -> None:
    write_text(root / "data/prompts/a.txt", "a")
    write_text(root / "reports/grid.txt", "grid")
    digest = dvc_digest(root / "data/prompts")
    with open_tracker("evaluation", root) as tracker:
        tracker.log_params({"lora": {f"p{i}": i for i in range(150)}})
        for step in range(3):
            tracker.log_metrics({"reward": step / 2, "kl": 0.25}, step=step)
        tracker.log_input(Path("data/prompts"), digest, "prompts")
        tracker.log_artifact(Path("reports/grid.txt"), "review")
        tracker.log_artifact(Path("reports"), "all")
        tracker.set_tags({"verdict": "better\x00"})
    client, _ = connect(root)
    run = client.get_run(str(tracker.run_id))
    assert len(run.data.params) == 150 and run.data.params["lora.p149"] == "149"
    history = client.get_metric_history(run.info.run_id, "reward")
    assert [(entry.step, entry.value) for entry in history] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("data/prompts", digest)
    assert {tag.value for tag in dataset.tags} == {"prompts", digest}
    assert [file.path for file in client.list_artifacts(run.info.run_id, "review")] == [
        "review/grid.txt"
    ]
    assert client.list_artifacts(run.info.run_id, "all")[0].path == "all/grid.txt"
    assert run.data.tags["verdict"] == "better"
    assert run.data.metrics["system/cpu_seconds"] > 0


def test_a_figure_that_is_not_finite_is_dropped_with_a_warning(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_tracker("rewards", root) as tracker:
        tracker.log_metrics({"loss": float("nan"), "kl": float("inf"), "accuracy": 0.7})
    metrics = _runs(root)["rewards"].data.metrics
    assert metrics["accuracy"] == 0.7 and "loss" not in metrics and "kl" not in metrics
    assert "metric 'loss' is nan" in capsys.readouterr().err


def test_a_refused_report_does_not_hold_up_the_rest(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_tracker("rewards", root) as tracker:
        tracker.log_params({"rank": 4})
        tracker.log_params({"rank": 8})  # the store refuses to change a parameter
        tracker.log_artifact(Path("no/such/file"))
        tracker.log_metrics({"accuracy": 0.5})
    run = _runs(root)["rewards"]
    assert (run.data.params["rank"], run.data.metrics["accuracy"]) == ("4", 0.5)
    warnings = capsys.readouterr().err
    assert "params not kept" in warnings and "no such file" in warnings


def test_off_keeps_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONOMI_TRACKING", "off")
    with open_pipeline_run(root, "retrain") as parent, open_tracker("prompts", root) as tracker:
        tracker.log_params({"a": 1})
        tracker.log_metrics({"a": 1.0})
        tracker.log_artifact(Path("a"))
        tracker.log_input(Path("a"), "0", "a")
        tracker.set_tags({"a": "1"})
    assert parent is None and isinstance(tracker, NullTracker)
    assert latest_runs(root) == [] and list(root.iterdir()) == []


def test_latest_runs_tells_newest_first_with_stages_in_the_order_of_the_data(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert latest_runs(root) == []
    with open_tracker("prompts", root):
        pass
    with pytest.raises(RuntimeError), open_pipeline_run(root, "retrain") as parent:
        monkeypatch.setenv(PARENT_RUN, str(parent))
        for stage in ("rewards", "prompts"):
            with open_tracker(stage, root):
                pass
        raise RuntimeError
    pipeline, alone = latest_runs(root)
    assert (pipeline.name, pipeline.status) == ("retrain", "FAILED")
    assert [stage.stage for stage in pipeline.stages] == ["prompts", "rewards"]
    assert [stage.status for stage in alone.stages] == ["FINISHED"]
    assert pipeline.seconds is not None and pipeline.seconds >= 0
    assert len(latest_runs(root, limit=1)) == 1


ONE_RUN = """
import sys
from pathlib import Path
from components.tracking import open_tracker
assert "mlflow" not in sys.modules, "importing the room must not import mlflow"
with open_tracker(sys.argv[1], Path(sys.argv[2])) as tracker:
    tracker.log_metrics({"x": 1.0})
"""


def test_four_processes_may_start_together_on_a_new_store(root: Path) -> None:
    stages = ["prompts", "preferences", "rewards", "evaluation"]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_RUN, stage, str(root)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        for stage in stages
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "warning" not in errors
    assert sorted(_runs(root)) == sorted(stages)
    assert all(run.data.metrics["x"] == 1.0 for run in _runs(root).values())
