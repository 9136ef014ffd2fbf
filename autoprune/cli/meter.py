"""Progress while something runs: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from autoprune.cli.console import say
from autoprune.report.format import duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

QUIET_S = 5.0


class Meter:
    """``with Meter("Search", total=50) as meter: meter.update(3, "best 97.2 %")``."""

    def __init__(self, what: str, total: int, *, done: int = 0) -> None:
        self.what, self.total, self.first = what, total, done
        self.started = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = 0.0

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.first, text="")
        return self

    def update(self, done: int, text: str = "", *, news: bool | None = None) -> None:
        """Show that ``done`` are done.

        Where there is no bar a line comes every few seconds, and with ``news`` (by default: at the end) at once.
        """
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, text=text)
            return
        now = time.monotonic()
        if (done == self.total if news is None else news) or now - self._said >= QUIET_S:
            self._said = now
            say(f"{self.what} {done}/{self.total}  {text}  ({duration(now - self.started)}, {self._left(done)})")

    def line(self, text: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            say(text)

    def _left(self, done: int) -> str:
        made = done - self.first
        if made <= 0:
            return "time left unknown"
        return f"{duration((self.total - done) * (time.monotonic() - self.started) / made)} left"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar() -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        transient=False,
    )
