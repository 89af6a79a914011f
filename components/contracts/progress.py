"""Progress of what takes longer than two seconds: a bar on a terminal, now and then a line else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

SECONDS_BETWEEN_LINES = 5.0
Item = TypeVar("Item")


class Progress:
    """Counts units of work; `advance` may carry a short note, for example the current reward."""

    def __init__(self, description: str, total: int | None) -> None:
        self.description, self.total, self.done, self.note = description, total, 0, ""
        self._started = self._last_line = time.monotonic()

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Record `amount` finished units."""
        self.done += amount
        self.note = note or self.note
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        finished = self.total is not None and self.done >= self.total
        if now - self._last_line < SECONDS_BETWEEN_LINES and not finished:
            return
        if finished and now - self._started < 2.0:
            return
        self._last_line = now
        elapsed = now - self._started
        counted, left = str(self.done), ""
        if self.total is not None:
            counted += f"/{self.total}"
            left = f", {_clock(elapsed / max(self.done, 1) * (self.total - self.done))} left"
        tail = f"  {self.note}" if self.note else ""
        print(
            f"{self.description}: {counted}  {_clock(elapsed)} gone{left}{tail}",
            file=sys.stderr,
            flush=True,
        )


class TerminalProgress(Progress):
    """The same on a terminal, as one live bar."""

    def __init__(self, description: str, total: int | None) -> None:
        super().__init__(description, total)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(description, total=total, note="")
        self._bar.start()

    def _show(self) -> None:
        self._bar.update(self._task, completed=self.done, note=self.note)

    def close(self) -> None:
        """Leave the finished bar on the screen."""
        self._bar.stop()


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Progress]:
    """A progress display that fits where the output goes; None is a total that nobody knows."""
    if not sys.stderr.isatty():
        yield Progress(description, total)
        return
    bar = TerminalProgress(description, total)
    try:
        yield bar
    finally:
        bar.close()


def track(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Iterate with progress."""
    with progress(description, total) as bar:
        for item in items:
            yield item
            bar.advance()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
