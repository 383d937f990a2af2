"""Line charts as geometry: what the SVG templates draw. Nothing here knows HTML."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 480, 250
#: Where the plot begins and ends, in SVG units from above.
TOP, BOTTOM = 12, HEIGHT - 38
#: Width of a character of a label, what lies between a label and the lines, least distance of two labels.
_CHARACTER, _GAP, _LABEL_GAP = 6.8, 12, 14.0
#: Most points of a line: more than a screen shows side by side.
MAX_POINTS = 600
#: Colours of lines; the next one has the first again.
COLOURS = 6

Points = Sequence[tuple[float, float]]


class Tick(NamedTuple):
    """A labelled mark on an axis, `position` in SVG units."""

    position: float
    label: str


class ChartLine(NamedTuple):
    """One series: `raw` and `smooth` for the `points` of an SVG polyline, `last` the value at the `end` of the smooth
    one, to be written at height `last_y`; `points` are x and the raw y, for a reader who asks for values; `colour` is
    its place among the series, from 0."""

    name: str
    colour: int
    points: Points
    raw: str
    smooth: str
    end: tuple[float, float]
    last: str
    last_y: float


class Span(NamedTuple):
    """A marked part of the x axis, in SVG units; its label ends at its right where it would leave the chart."""

    start: float
    width: float
    label: str
    ends: bool


class Chart(NamedTuple):
    """A finished line chart in a viewBox of WIDTH x HEIGHT; `x_range`, `y_range` in SVG units, `x_limits` in data."""

    title: str
    caption: str
    x_label: str
    lines: list[ChartLine]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_range: tuple[float, float]
    x_limits: tuple[float, float]
    spans: list[Span]
    y_range: tuple[float, float] = (BOTTOM, TOP)
    width: int = WIDTH
    height: int = HEIGHT


class _Scale(NamedTuple):
    """Data to SVG units: the limits `x` and `y` fill the plot, which lies between `left` and `right`."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float
    right: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point; what lies outside the limits is moved to them."""
        (x1, x2), (y1, y2) = self.x, self.y
        across, up = (min(max(x, x1), x2) - x1) / (x2 - x1), (min(max(y, y1), y2) - y1) / (y2 - y1)
        return round(self.left + across * (self.right - self.left), 2), round(BOTTOM - up * (BOTTOM - TOP), 2)

    def polyline(self, points: Points, steps: bool) -> str:
        return " ".join(f"{x:g},{y:g}" for x, y in (self.place(*point) for point in _stairs(thin(points), steps)))

    def span(self, first: float, last: float, label: str) -> Span:
        start, end = self.place(first, 0)[0], self.place(last, 0)[0]
        shown = label if len(label) <= 40 else f"{label[:39]}…"
        # A single iteration has no width of its own.
        return Span(start, round(max(end - start, 2.0), 2), shown, ends=start + _room([shown]) > WIDTH)


def line_chart(
    title: str,
    series: Mapping[str, Points],
    *,
    caption: str = "",
    x_label: str = "iteration",
    y_limits: tuple[float, float] | None = None,
    window: int = 5,
    steps: bool = False,
    spans: Sequence[tuple[float, float, str]] = (),
) -> Chart | None:
    """Lay out a line chart; None if no series has a finite point.

    Args:
        series: (x, y) points by name.
        y_limits: range of the y axis; from the data if None.
        window: the strong line is the mean of this many points up to and including each one; the faint line is raw.
        steps: whether a value holds until the next one, as a setting does, and is drawn so.
        spans: parts of the x axis to be marked: first and last x, and a label.
    """
    drawn = ((name, [point for point in points if all(map(math.isfinite, point))]) for name, points in series.items())
    finite = {name: points for name, points in drawn if points}
    if not finite:
        return None
    xs, ys = zip(*itertools.chain.from_iterable(finite.values()), strict=True)
    y_values = nice_ticks(*(y_limits or _widened(min(ys), max(ys))))
    y_labels = [_label(y, _step(y_values)) for y in y_values]
    smooth = {name: trailing_mean(points, window) for name, points in finite.items()}
    last = {name: _label(points[-1][1], _step(y_values) / 10) for name, points in smooth.items()}
    limits = _widened(min(xs), max(xs))
    scale = _Scale(limits, (y_values[0], y_values[-1]), left=_room(y_labels), right=WIDTH - _room(last.values()))
    ends = {name: scale.place(*points[-1]) for name, points in smooth.items()}
    heights = spread({name: y for name, (_, y) in ends.items()}, _LABEL_GAP, (TOP, BOTTOM))
    lines = [
        ChartLine(
            name=name,
            colour=list(series).index(name) % COLOURS,
            points=thin(points),
            raw=scale.polyline(points, steps),
            smooth=scale.polyline(smooth[name], steps),
            end=ends[name],
            last=last[name],
            last_y=heights[name],
        )
        for name, points in finite.items()
    ]
    whole = all(x == int(x) for x in xs)
    # There is no iteration 1.5.
    x_values = [x for x in nice_ticks(*limits, 6) if limits[0] <= x <= limits[1] and not (whole and x % 1)]
    return Chart(
        title,
        caption,
        x_label,
        lines,
        x_ticks=[Tick(scale.place(x, 0)[0], _label(x, _step(x_values))) for x in x_values],
        y_ticks=[Tick(scale.place(0, y)[1], text) for y, text in zip(y_values, y_labels, strict=True)],
        x_range=(scale.left, scale.right),
        x_limits=limits,
        spans=[scale.span(*span) for span in spans],
    )


def thin(points: Points, most: int = MAX_POINTS) -> Points:
    """`points`, or where there are more than `most` the lowest and the highest of each of `most / 2` stretches."""
    if len(points) <= most:
        return points
    stretches = most // 2
    kept = []
    for number in range(stretches):
        stretch = points[number * len(points) // stretches : (number + 1) * len(points) // stretches]
        kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return [*kept[:-1], points[-1]]


def trailing_mean(points: Points, window: int) -> list[tuple[float, float]]:
    """The mean of the last `window` values up to each point (fewer at the beginning)."""
    means = []
    for index, (x, _) in enumerate(points):
        recent = [y for _, y in points[max(0, index + 1 - window) : index + 1]]
        means.append((x, sum(recent) / len(recent)))
    return means


def spread(heights: Mapping[str, float], gap: float, limits: tuple[float, float]) -> dict[str, float]:
    """Move heights apart until neighbours are `gap` apart; their order stays, and inside `limits` their mean, too."""
    placed: dict[str, float] = {}
    for name in sorted(heights, key=lambda name: heights[name]):
        placed[name] = max(heights[name], max(placed.values(), default=-math.inf) + gap)
    shift = sum(placed[name] - heights[name] for name in placed) / len(placed)
    shift = max(min(shift, min(placed.values()) - limits[0]), max(placed.values()) - limits[1])
    return {name: placed[name] - shift for name in heights}


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values, equally spaced, that enclose [low, high] (low < high)."""
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    # A hair of tolerance, so that a range that is already round keeps its step.
    step = power * next((factor for factor in (1, 2, 2.5, 5) if factor * power >= rough * (1 - 1e-9)), 10)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty, even if all values are equal."""
    margin = 0.0 if high - low > 1e-9 else max(abs(low) * 0.1, 0.01)
    return low - margin, high + margin


def _room(labels: Iterable[str]) -> float:
    """Width of the longest label, and of what lies between it and the lines."""
    return round(_CHARACTER * max(map(len, labels)) + _GAP, 2)


def _stairs(points: Points, steps: bool) -> Points:
    """`points`, or with each value held until the next one."""
    if not steps:
        return points
    return [points[0], *((x, y) for (_, before), (x, at) in itertools.pairwise(points) for y in (before, at))]


def _step(values: Sequence[float]) -> float:
    return values[1] - values[0] if len(values) > 1 else 1.0


def _label(value: float, step: float) -> str:
    """`value` with as many decimals as a step of `step` needs."""
    if abs(value) >= 1e6 or 0 < step < 1e-4:
        # Learning rates, counts of tokens: their digits would not fit.
        return f"{value:.3g}"
    decimals = next((n for n in range(7) if math.isclose(round(step, n), step, rel_tol=1e-6)), 7)
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text
