"""SIGTERM ends a run at a point from which the same command goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from components.contracts.errors import TransientError


class Interruption:
    """Turns SIGTERM into `TransientError`: at once, or with the next checkpoint."""

    def __init__(self) -> None:
        self.unsaved = False
        """Whether there are updates that no checkpoint holds yet."""
        self._requested = False

    def saved(self) -> None:
        """A checkpoint was just written: a request that waited for it is served here.

        Raises:
            TransientError: SIGTERM came while work was unsaved.
        """
        self.unsaved = False
        if self._requested:
            self._stop()

    @property
    def requested(self) -> bool:
        """Whether SIGTERM came and waits for the next checkpoint."""
        return self._requested

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self._requested = True
        if not self.unsaved:
            self._stop()

    def _stop(self) -> None:
        raise TransientError(
            "stopped by SIGTERM; the same command goes on from the last checkpoint"
        )


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Listen to SIGTERM inside of the block; elsewhere than in the main thread nobody can."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = signal.signal(signal.SIGTERM, interruption.handle)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGTERM, before)
