"""How far a run is: a bar on a terminal, and lines where output goes to a file."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

#: Seconds after which a line is due whatever was done, and before which none is whatever was done.
_LATEST, _EARLIEST = 30.0, 2.0


class RunProgress:
    """Shows how many episodes are done, until the end of the `with` block.

    Args:
        title: what is done.
        total: episodes of the run.
        done: those that were done before.
        console: where it is shown; standard error by default.
    """

    def __init__(self, title: str, total: int, done: int = 0, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._title, self._total, self._done = title, total, done
        self._told, self._started = done, time.monotonic()
        self._told_at = self._started
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("remaining"))
            self._bar = Progress(
                TextColumn("{task.description}"), *columns, TimeRemainingColumn(), console=self._console
            )
            self._task = self._bar.add_task(title, total=total, completed=done)

    def __enter__(self) -> RunProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, text: str) -> None:
        """One more is done; `text` says how it goes."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=f"{self._title}, {text}")
            return
        now = time.monotonic()
        waited, steps = now - self._told_at, self._done - self._told
        due = waited >= _LATEST or (waited >= _EARLIEST and steps >= self._total / 10)
        if due or self._done == self._total:
            self._told, self._told_at = self._done, now
            done = f"{self._done} of {self._total} ({self._done / self._total:.0%})"
            line = f"{self._title}: {done} after {now - self._started:.0f} s, {text}"
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)
