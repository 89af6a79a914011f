"""What goes to the tracker and nowhere else: curves over steps, speed, memory."""

from __future__ import annotations

import time

import psutil

from components.contracts.protocols import Tracker
from components.finetuning.curves import COLUMNS, Row


class Telemetry:
    """Sends each row of the curves to the tracker, with how fast and how large the run is."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._round = 0.0
        self._images = 0.0
        self._started = time.monotonic()
        self._speed: dict[str, float] = {}

    def log_row(self, row: Row) -> None:
        """A row from before this process started: no speed is known of it."""
        # Beside the columns of all methods, the parts of several rewards (`reward/<label>`).
        measured = {name: row[name] for name in row if name in COLUMNS[1:] or "/" in name}
        self._tracker.log_metrics({**measured, **self._speed}, step=int(row["update"]))
        self._round, self._images = row["round"], row["images"]

    def on_row(self, row: Row) -> None:
        """A new row; the first of a round brings the speed since the first of the round before."""
        if row["round"] != self._round:
            now = time.monotonic()
            memory = psutil.Process().memory_info().rss / 2**20
            self._speed["memory_mib"] = memory
            # No speed where nothing was drawn: images that were drawn once, or the last look.
            if self._round and (drawn := row["images"] - self._images):
                self._speed["images_per_second"] = drawn / (now - self._started)
            self._started = now
        self.log_row(row)
