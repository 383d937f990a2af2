"""Chart geometry: where points land, which ticks are chosen."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
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


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.floats(-1e6, 1e6)), min_size=1, max_size=40, unique_by=lambda point: point[0]
    )
)
def test_everything_lies_inside_the_picture(points: list[tuple[float, float]]) -> None:
    chart = line_chart("anything", {"arm": sorted(points)})
    assert chart is not None
    placed = coordinates(chart.lines[0].raw) + coordinates(chart.lines[0].smooth)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in placed)
    assert len(placed) == 2 * len(points)
    assert 2 <= len(chart.y_ticks) <= 9


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=9),
        min_size=1,
        max_size=6,
    )
)
def test_no_label_leaves_the_chart(series: dict[str, list[float]]) -> None:
    points = {name: list(enumerate(values)) for name, values in series.items()}
    chart = line_chart("anything", points, spans=[(3, 9, "alarm: a rather long name of an operation")])
    assert chart is not None
    # Wide letters of this size have 6.8 units, see `eval.charts`; a browser measures them in its own test.
    for line in chart.lines:
        assert chart.x_range[1] + 9 + 6.8 * len(line.last) <= WIDTH
        assert chart.y_range[1] - 1e-6 <= line.last_y <= chart.y_range[0] + 1e-6
    assert all(6.8 * len(tick.label) + 8 <= chart.x_range[0] for tick in chart.y_ticks)
    assert all(span.ends or span.start + 6.8 * len(span.label) <= WIDTH for span in chart.spans)


def test_a_setting_is_drawn_in_steps_and_not_as_a_mean() -> None:
    chart = line_chart("rate", {"lr": [(0, 1e-6), (1, 3e-6), (2, 3e-6), (3, 0.0)]}, window=1, steps=True)
    assert chart is not None
    [line] = chart.lines
    placed = coordinates(line.smooth)
    assert line.raw == line.smooth
    # Every step goes across at the old value first, then up or down.
    for (x1, y1), (x2, y2) in itertools.pairwise(placed):
        assert x1 == x2 or y1 == y2
    assert len(placed) == 7
    assert line.points[1] == (1, 3e-6)
    assert line.last == "0"
