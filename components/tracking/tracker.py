"""The tracker of one run: bounded calls, a journal for the time in which the store is away.

Training must neither die nor wait because a tracking server is gone. Every report becomes a record;
a record that cannot be delivered goes to a journal (`.work/tracking/*.jsonl`), the next try comes a
minute later, and whatever the journal holds is delivered first, in order. One warning tells of it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.tracking.store import connect
from components.tracking.text import MAX_PARAM, MAX_TAG, clean, flatten, name

if TYPE_CHECKING:
    from mlflow import MlflowClient

SECONDS_BETWEEN_TRIES = 60.0
SECONDS_BETWEEN_FLUSHES = 2.0
METRICS_IN_A_CALL = 500
Record = dict[str, Any]


class NullTracker:
    """Keeps nothing: tests, and `KONOMI_TRACKING=off`."""

    run_id: str | None = None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Nothing."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Nothing."""

    def log_input(self, path: Path, digest: str, context: str) -> None:
        """Nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Nothing."""


class MlflowTracker:
    """One run in the store (protocol `Tracker`). Paths are relative to the folder `root`."""

    def __init__(
        self, root: Path, run_name: str, tags: Mapping[str, str], parent_run_id: str | None = None
    ) -> None:
        self.root = root
        self.run_id: str | None = None
        self._name, self._tags, self._parent = run_name, dict(tags), parent_run_id
        self._client: MlflowClient | None = None
        self._buffer: list[list[Any]] = []
        self._last_flush = time.monotonic()
        self._retry_at = 0.0
        self._warned = False
        label = self._tags.get("konomi.stage", "run")
        self._journal = root / ".work" / "tracking" / f"{label}-{os.getpid()}.jsonl"
        self._send({"kind": "open"})

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Settings of the run; nested mappings become dotted names."""
        flat = iter(flatten(params).items())
        while chunk := dict(islice(flat, 100)):
            self._send({"kind": "params", "values": chunk})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Figures of the run. Non-finite ones are dropped with a warning: charts choke on them.

        Steps that follow each other quickly travel together, two seconds' worth in one call.
        """
        now = int(time.time() * 1000)
        for key, value in metrics.items():
            if math.isfinite(value):
                self._buffer.append([name(key), float(value), now, step or 0])
            else:
                print(f"warning: tracking: metric '{key}' is {value}: not kept", file=sys.stderr)
        waited = time.monotonic() - self._last_flush
        if waited > SECONDS_BETWEEN_FLUSHES or len(self._buffer) >= METRICS_IN_A_CALL:
            self.flush()

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """A file or a folder that a reviewer should see."""
        self._send({"kind": "artifact", "path": str(self.root / path), "folder": folder})

    def log_input(self, path: Path, digest: str, context: str) -> None:
        """A dataset that the run read, by the digest under which DVC knows it."""
        shown = path.relative_to(self.root) if path.is_absolute() else path
        self._send(
            {"kind": "input", "path": shown.as_posix(), "digest": digest, "context": name(context)}
        )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Facts to search runs by."""
        values = {name(key): clean(value, MAX_TAG) for key, value in tags.items()}
        if values:
            self._send({"kind": "tags", "values": values})

    def flush(self) -> None:
        """Deliver the buffered metrics."""
        while self._buffer:
            chunk = self._buffer[:METRICS_IN_A_CALL]
            del self._buffer[:METRICS_IN_A_CALL]
            self._send({"kind": "metrics", "values": chunk})
        self._last_flush = time.monotonic()

    def close(self, status: str) -> None:
        """End the run as `FINISHED`, `FAILED` or `KILLED`."""
        self.flush()
        self._retry_at = 0.0  # the last chance to empty the journal
        self._send({"kind": "close", "status": status})
        if self._journal.exists():
            print(
                f"warning: tracking: the store stayed away; the reports are in {self._journal}",
                file=sys.stderr,
            )

    def _send(self, record: Record) -> None:
        if self._client is not None and record["kind"] != "metrics":
            self.flush()
        if time.monotonic() < self._retry_at:
            self._write_journal([record])
            return
        pending = [*self._read_journal(), record]
        try:
            while pending:
                self._deliver_or_drop(pending[0])
                pending.pop(0)
        except Exception as error:  # the library raises its own, the driver's and the network's
            self._stay_away(error)
            self._journal.unlink(missing_ok=True)
            self._write_journal(pending)
        else:
            self._journal.unlink(missing_ok=True)

    def _deliver_or_drop(self, record: Record) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._deliver(record)
        except MlflowException as error:
            # Refused, not away: it would be refused again, and the rest must not wait behind it.
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
                raise
            reason = clean(error.message, 200).replace("\n", " ")
            print(f"warning: tracking: {record['kind']} not kept ({reason})", file=sys.stderr)
        except FileNotFoundError:
            if record["kind"] != "artifact":
                raise
            print(f"warning: tracking: {record['path']}: no such file", file=sys.stderr)

    def _deliver(self, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        if self._client is None or self.run_id is None:
            self._start()
        client, run_id = self._client, self.run_id
        assert client is not None and run_id is not None
        kind, values = record["kind"], record.get("values")
        if kind == "params":
            client.log_batch(run_id, params=[Param(k, v) for k, v in values.items()])
        elif kind == "tags":
            client.log_batch(run_id, tags=[RunTag(k, v) for k, v in values.items()])
        elif kind == "metrics":
            client.log_batch(run_id, metrics=[Metric(*value) for value in values])
        elif kind == "artifact":
            path = Path(record["path"])
            log = client.log_artifacts if path.is_dir() else client.log_artifact
            log(run_id, str(path), record["folder"])
        elif kind == "input":
            dataset = Dataset(
                name=record["path"],
                digest=record["digest"],
                source_type="local",
                source=json.dumps({"uri": record["path"]}),
            )
            tags = [
                InputTag("mlflow.data.context", record["context"]),
                InputTag("dvc.md5", record["digest"]),
            ]
            client.log_inputs(run_id, [DatasetInput(dataset, tags)])
        elif kind == "close":
            client.set_terminated(run_id, record["status"])

    def _start(self) -> None:
        """Join the pipeline's run, or open one of its own; a retry goes on in the child it left."""
        self._client, experiment = connect(self.root)
        tags = {name(key): clean(value, MAX_PARAM) for key, value in self._tags.items()}
        if self._parent is not None:
            tags["mlflow.parentRunId"] = self._parent
            same = " and ".join(
                f"tags.`{key}` = '{tags[key]}'" for key in ("mlflow.parentRunId", "konomi.stage")
            )
            earlier = self._client.search_runs([experiment], same, max_results=1)
            if earlier:
                self.run_id = earlier[0].info.run_id
                self._client.update_run(self.run_id, status="RUNNING")
                return
        self.run_id = self._client.create_run(
            experiment, tags=tags, run_name=self._name
        ).info.run_id

    def _stay_away(self, error: Exception) -> None:
        self._retry_at = time.monotonic() + SECONDS_BETWEEN_TRIES
        if not self._warned:
            self._warned = True
            reason = clean(error, 200).replace("\n", " ")
            print(
                f"warning: tracking: the store is away, reports wait in {self._journal} ({reason})",
                file=sys.stderr,
            )

    def _read_journal(self) -> list[Record]:
        if not self._journal.exists():
            return []
        return [json.loads(line) for line in self._journal.read_text().splitlines()]

    def _write_journal(self, records: list[Record]) -> None:
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        with self._journal.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
