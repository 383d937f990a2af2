"""Runs by what they cost: who stands where, and whom nobody beats."""

from __future__ import annotations

import pytest

from eval.cost import cost_chart, pareto_front
from eval.tables import Cell, MetricRow


def row(name: str, *values: float | None) -> MetricRow:
    return MetricRow(name, "", "", [None if value is None else Cell(value) for value in values])


def test_runs_stand_by_their_vision_tokens() -> None:
    names = ("never", "always", "selective", "unknown")
    rows = [row("accuracy", 0.75, 1.0, 1.0, 0.5), row("vision_tokens", 50.0, 150.0, 100.0, None)]
    chart = cost_chart(names, rows)
    assert chart is not None
    (left, right), (bottom, top) = chart.x_range, chart.y_range
    # The axis goes from .7 to 1, so that .75 is a sixth of the way up.
    assert {line.name: line.end for line in chart.lines} == {
        "never": (left, pytest.approx(bottom + (top - bottom) / 6, abs=0.01)),
        "always": (right, top),
        "selective": (pytest.approx((left + right) / 2, abs=0.01), top),
    }
    assert chart.x_limits == (50, 150)
    assert chart.caption.endswith(": never, selective")
    assert cost_chart(names[:1], rows) is cost_chart(names, rows[:1]) is None


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ({"a": (1, 0.5), "b": (2, 0.9), "c": (3, 0.8)}, ["a", "b"]),
        ({"a": (1, 0.5), "b": (1, 0.5), "c": (1, 0.4)}, ["a", "b"]),
        ({"a": (2, 0.5), "b": (1, 0.5)}, ["b"]),
    ],
)
def test_the_front(points: dict[str, tuple[float, float]], front: list[str]) -> None:
    assert pareto_front(points) == front
