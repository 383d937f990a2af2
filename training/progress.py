"""Progress bars with remaining time for stages of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[int, int, dict[str, float]], None]
"""Is told of progress: steps done, of how many, latest measurements."""

LOG_SECONDS = 30.0
"""Where bars cannot be drawn (a log file, a Ray job), a line comes this often."""

SHOWN = ("accuracy", "usage_rate", "localization", "direct", "box", "hit_rate")


def note(measured: Mapping[str, float]) -> str:
    """What stands behind a bar: the numbers of `SHOWN`, and operations that are dying out (see `training.alarm`)."""
    parts = [f"{key.replace('_', ' ')} {measured[key]:.2f}" for key in SHOWN if key in measured]
    low = [key.removeprefix("alarm/") for key, flag in measured.items() if key.startswith("alarm/") and flag]
    return ", ".join(parts + ([f"usage alarm: {' '.join(low)}"] if low else []))


class StageProgress:
    """One bar per stage: begun, advanced, ended (or skipped because its result is there)."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
        )
        self._task = self._progress.add_task("", visible=False, note="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, title: str, total: int) -> Report:
        """A new bar; returns the function that moves it: done, of how many, latest measurements."""
        task = self._task = self._progress.add_task(title, total=total, note="")
        said = time.monotonic()

        def report(done: int, total: int, measured: dict[str, float]) -> None:
            nonlocal said
            text = note(measured)
            self._progress.update(task, completed=done, total=total, note=text)
            if not self._progress.console.is_terminal and time.monotonic() - said > LOG_SECONDS:
                said = time.monotonic()
                self._progress.console.print(f"{title}: {done} of {total}; {text}", highlight=False)

        return report

    def end(self, note: str) -> None:
        """The stage is over, wherever its bar stands. Where bars cannot be drawn, it gets a line."""
        task = self._progress.tasks[self._task]
        if not self._progress.console.is_terminal:
            seconds = f"{task.elapsed:.0f} s" if task.elapsed is not None else ""
            self._progress.console.print(f"{task.description}: {int(task.completed)} steps, {seconds}; {note}")
        self._progress.update(self._task, total=task.completed or 1, completed=task.completed or 1, note=note)

    def skip(self, title: str) -> None:
        self._progress.add_task(title, total=1, completed=1, note="already there")
