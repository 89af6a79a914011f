"""A store that is away neither stops nor stalls a stage, and nothing is lost."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from components.tracking import open_tracker
from components.tracking.environment import local_uri
from components.tracking.store import connect


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    # Set by the room itself unless a person has chosen; earlier tests may have set them here.
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    return uri


def test_training_goes_on_and_the_reports_are_kept(
    root: Path, closed_port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    with open_tracker("finetuning", root) as tracker:
        for step in range(1000):
            tracker.log_metrics({"reward": float(step)}, step=step)
        tracker.set_tags({"verdict": "better"})
    assert tracker.run_id is None
    # Two tries, at the start and at the end. The library's own defaults would block for four
    # minutes in each of them.
    assert time.monotonic() - started < 120
    (journal,) = (root / ".work/tracking").glob("finetuning-*.jsonl")
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    steps = [
        value[3] for record in records if record["kind"] == "metrics" for value in record["values"]
    ]
    assert steps[:1000] == list(range(1000))
    assert records[0]["kind"] == "open" and records[-1] == {"kind": "close", "status": "FINISHED"}
    warnings = capsys.readouterr().err
    assert warnings.count("the store is away") == 1 and str(journal) in warnings


def test_a_store_that_comes_back_gets_everything_in_order(
    root: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_tracker("finetuning", root) as tracker:
        for step in range(3):
            tracker.log_metrics({"reward": float(step)}, step=step)
        tracker.log_params({"rank": 4})
        monkeypatch.setenv("MLFLOW_TRACKING_URI", local_uri(root))
    client, _ = connect(root)
    run = client.get_run(str(tracker.run_id))
    history = client.get_metric_history(run.info.run_id, "reward")
    assert [entry.value for entry in history] == [0.0, 1.0, 2.0]
    assert run.data.params == {"rank": "4"} and run.info.status == "FINISHED"
    assert not list((root / ".work/tracking").glob("*.jsonl"))
