"""What a person sees while the chain runs: one line a stage on a terminal, plain lines
elsewhere."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from components.contracts.settings import STAGES
from flows.dvc import StageResult

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

PROGRESS = re.compile(
    r"^(?P<what>.+): (?P<done>\d+)/(?P<total>\d+)  \S+ gone, (?P<left>\S+) left"
    r"(?:  (?P<note>.*))?$"
)
"""A line of `components.contracts.progress`, as it reaches whoever runs the stage."""
DVC_SAYS = re.compile(
    r"^(Running stage |> |Generating lock file|Updating lock file|To track the changes|\tgit add"
    r"|To enable auto staging|\tdvc config|Use `dvc push`|Stage '|Data and pipelines"
    r"|\S*: done in )"
)
"""DVC's own words and each stage's last line: in the log, but not news to a person who watches."""
BAR_WIDTH = 20


class Display(Protocol):
    """Told by the flow what happens, in order."""

    def started(self, stage: str) -> None:
        """A stage begins (again, after a retry)."""
        ...

    def line(self, stage: str, text: str) -> None:
        """One line of its output."""
        ...

    def ended(self, result: StageResult) -> None:
        """It is up to date."""
        ...

    def failed(self, stage: str, error: BaseException) -> None:
        """It raised; a retry may follow."""
        ...


class Silent:
    """Nobody watches: the run's log in Prefect has every line."""

    def started(self, stage: str) -> None:
        """Nothing is shown."""

    def line(self, stage: str, text: str) -> None:
        """Nothing is shown."""

    def ended(self, result: StageResult) -> None:
        """Nothing is shown."""

    def failed(self, stage: str, error: BaseException) -> None:
        """Nothing is shown."""


class Lines:
    """Plain lines on stderr, for a pipe or a log file."""

    def started(self, stage: str) -> None:
        """Say so."""
        self._print(f"{stage}: started")

    def line(self, stage: str, text: str) -> None:
        """Pass a stage's own lines on."""
        if not DVC_SAYS.match(text):
            self._print(f"{stage}: {text.removeprefix(f'{stage}: ')}")

    def ended(self, result: StageResult) -> None:
        """Say how and how long."""
        took = f" ({clock(result.seconds)})" if result.outcome != "unchanged" else ""
        self._print(f"{result.stage}: {result.outcome}{took}")

    def failed(self, stage: str, error: BaseException) -> None:
        """Say so; the reason follows as the command's error line."""
        self._print(f"{stage}: stopped ({type(error).__name__})")

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Board(Silent):
    """One live line a stage: a mark, the time, and a bar or the last words of what runs."""

    def __init__(self, stages: tuple[str, ...] = STAGES) -> None:
        from rich.spinner import Spinner

        self._marks: dict[str, RenderableType] = dict.fromkeys(stages, "[dim]·[/]")
        self._took: dict[str, str] = dict.fromkeys(stages, "")
        self._right: dict[str, RenderableType] = dict.fromkeys(stages, "")
        self._spinner = Spinner("dots", style="cyan")
        self._running: tuple[str, float] | None = None

    def started(self, stage: str) -> None:
        """The stage's mark begins to spin."""
        self._marks[stage] = self._spinner
        self._right[stage] = "[dim]starting[/]"
        self._running = (stage, time.monotonic())

    def line(self, stage: str, text: str) -> None:
        """A progress line becomes a bar, another one the stage's last words."""
        from rich.text import Text

        found = PROGRESS.match(text)
        if found:
            self._right[stage] = _bar(found)
        elif not DVC_SAYS.match(text):
            words = text.removeprefix(f"{stage}: ")
            self._right[stage] = Text(words, "dim", no_wrap=True, overflow="ellipsis")

    def ended(self, result: StageResult) -> None:
        """A tick, and whether DVC had it already."""
        self._marks[result.stage] = "[green]✓[/]"
        self._took[result.stage] = clock(result.seconds) if result.outcome == "ran" else ""
        self._right[result.stage] = "" if result.outcome == "ran" else f"[dim]{result.outcome}[/]"
        self._running = None

    def failed(self, stage: str, error: BaseException) -> None:
        """A cross; the reason follows as the command's error line."""
        self._marks[stage] = "[red]✗[/]"
        self._right[stage] = f"[red]{type(error).__name__}[/]"
        self._running = None

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(width=1)
        table.add_column(width=max(map(len, self._marks)))
        table.add_column(width=7, justify="right")
        table.add_column(ratio=1)
        for stage, mark in self._marks.items():
            took = self._took[stage]
            if self._running and self._running[0] == stage:
                took = f"[cyan]{clock(time.monotonic() - self._running[1])}[/]"
            name = f"[dim]{stage}[/]" if mark == "[dim]·[/]" else stage
            table.add_row(mark, name, took, self._right[stage])
        table.expand = True
        return table


def _bar(found: re.Match[str]) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 2))
    row.add_column(width=BAR_WIDTH)
    row.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    row.expand = True
    tail = f"{found['done']}/{found['total']}, {found['left']} left  {found['what']}"
    row.add_row(
        ProgressBar(total=int(found["total"]), completed=int(found["done"]), width=BAR_WIDTH),
        Text(f"{tail}  {found['note'] or ''}".rstrip(), "dim"),
    )
    return row


_display: ContextVar[Display | None] = ContextVar("display", default=None)


def current_display() -> Display:
    """Whoever watches the flow that runs in this context."""
    return _display.get() or Silent()


@contextmanager
def show_on(display: Display) -> Iterator[None]:
    """Let `display` watch the flows that run in this block."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


@contextmanager
def showing(stages: tuple[str, ...]) -> Iterator[None]:
    """Show the chain in the way that fits where the output goes."""
    if not sys.stderr.isatty():
        with show_on(Lines()):
            yield
        return
    from rich.console import Console
    from rich.live import Live

    board = Board(stages)
    with show_on(board), Live(board, console=Console(stderr=True), refresh_per_second=8):
        yield


def clock(seconds: float) -> str:
    """`7.4 s`, `3:05` or `1:02:33`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
