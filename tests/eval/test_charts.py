"""Chart geometry: where points land, which ticks are chosen."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.charts import HEIGHT, WIDTH, line_chart, nice_ticks, trailing_mean


def coordinates(points: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def test_a_line_runs_from_corner_to_corner() -> None:
    chart = line_chart("usage", {"plain": [(1, 0.0), (2, 0.5), (3, 1.0)]}, y_limits=(0.0, 1.0), window=1)
    assert chart is not None
    (left, right), (bottom, top) = chart.x_range, chart.y_range
    middle = ((left + right) / 2, (bottom + top) / 2)
    assert coordinates(chart.lines[0].raw) == [(left, bottom), pytest.approx(middle), (right, top)]
    assert chart.lines[0].raw == chart.lines[0].smooth
    assert chart.lines[0].end == (right, top)
    assert [tick.label for tick in chart.y_ticks] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    assert [tick.label for tick in chart.x_ticks] == ["1", "2", "3"]


def test_arms_share_one_scale() -> None:
    chart = line_chart("reward", {"plain": [(0, 0.0), (10, 0.0)], "curiosity": [(0, 0.0), (20, 2.0)]}, window=1)
    assert chart is not None
    ends = {line.name: line.end for line in chart.lines}
    left, right = chart.x_range
    assert ends["plain"] == ((left + right) / 2, chart.y_range[0])
    assert ends["curiosity"] == (right, chart.y_range[1])


def test_what_is_not_finite_is_left_out() -> None:
    chart = line_chart("hits", {"plain": [(1, math.nan), (2, math.inf)], "curiosity": [(1, 0.5), (2, math.nan)]})
    assert chart is not None
    assert [line.name for line in chart.lines] == ["curiosity"]
    assert len(coordinates(chart.lines[0].raw)) == 1
    assert line_chart("hits", {"plain": []}) is None


def test_trailing_mean() -> None:
    points = [(0, 1.0), (1, 3.0), (2, 5.0), (3, 1.0)]
    assert trailing_mean(points, 2) == [(0, 1.0), (1, 2.0), (2, 4.0), (3, 3.0)]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (1.0, 80.0, [0.0, 20.0, 40.0, 60.0, 80.0]),
        (-0.05, 0.0, [-0.06, -0.04, -0.02, 0.0]),
        (0.0, 0.003, [0.0, 0.001, 0.002, 0.003]),
    ],
)
def test_nice_ticks(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.floats(-1e6, 1e6)),
        min_size=1,
        max_size=40,
        unique_by=lambda point: point[0],
    )
)
def test_everything_lies_inside_the_picture(points: list[tuple[float, float]]) -> None:
    chart = line_chart("anything", {"arm": sorted(points)})
    assert chart is not None
    placed = coordinates(chart.lines[0].raw) + coordinates(chart.lines[0].smooth)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in placed)
    assert len(placed) == 2 * len(points)
    assert 2 <= len(chart.y_ticks) <= 9
