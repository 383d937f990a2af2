"""Where output goes to a file, progress is lines: the last one always, others not too often."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from rich.console import Console

from eval import progress


def lines(monkeypatch: pytest.MonkeyPatch, times: list[float], total: int, done: int = 0) -> list[str]:
    """What is written if each of the episodes ends at one of these seconds."""
    clock = iter([0.0, *times])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    console = Console(file=io.StringIO(), width=40)
    with progress.RunProgress("evaluating", total, done, console) as shown:
        for number in range(done + 1, done + len(times) + 1):
            shown.advance(f"{number} good")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_quick_run_writes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, [0.1, 0.2, 0.3], 3) == ["evaluating: 3 of 3 (100%) after 0 s, 3 good"]


def test_a_long_run_writes_a_line_for_each_tenth_and_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    written = lines(monkeypatch, [float(second) for second in range(1, 101)], 100)
    assert written[0] == "evaluating: 10 of 100 (10%) after 10 s, 10 good"
    assert len(written) == 10
    # Slower than a tenth in half a minute.
    slow = lines(monkeypatch, [20.0 * number for number in range(1, 21)], 1000, done=500)
    assert [line.split(",")[0] for line in slow[:2]] == [
        "evaluating: 502 of 1000 (50%) after 40 s",
        "evaluating: 504 of 1000 (50%) after 80 s",
    ]
    seconds = [int(line.split(" after ")[1].split(" s")[0]) for line in slow]
    assert all(later - earlier >= 30 for earlier, later in pairwise(seconds))


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress.RunProgress("evaluating", 2, 0, console) as shown:
        shown.advance("all good")
        shown.advance("all good")
    assert isinstance(console.file, io.StringIO)
    assert "2/2" in console.file.getvalue()
