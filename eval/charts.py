"""Line charts as geometry: what the SVG templates draw. Nothing here knows HTML."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480, 250
_TOP, _BOTTOM = 12, 38
#: Width of a character of a label, and what lies between a label and the lines.
_CHARACTER, _GAP = 6.8, 12
#: Least distance between the labels at the ends of two lines.
_LABEL_GAP = 14.0
#: Most points of a line: more than a screen shows side by side.
MAX_POINTS = 600

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A labelled mark on an axis, `position` in SVG units."""

    position: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartLine:
    """One series: `raw` and `smooth` are values of the `points` attribute of an SVG polyline.

    `last` is the value at the `end` of the smooth line, to be written at height `last_y`; `points` are x and the raw
    y, for a reader who asks for values.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    raw: str
    smooth: str
    end: tuple[float, float]
    last: str
    last_y: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A marked part of the x axis, in SVG units; its label ends at its right where it would leave the chart."""

    start: float
    width: float
    label: str
    ends: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A finished line chart in a viewBox of WIDTH x HEIGHT."""

    title: str
    caption: str
    x_label: str
    lines: tuple[ChartLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_range: tuple[float, float]
    x_limits: tuple[float, float]
    spans: tuple[Span, ...] = ()
    y_range: tuple[float, float] = (HEIGHT - _BOTTOM, _TOP)
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """Data to SVG units: the ranges `x` and `y` fill the plot, which lies between `left` and `right`."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float
    right: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (min(max(y, self.y[0]), self.y[1]) - self.y[0]) / (self.y[1] - self.y[0])
        return (
            round(self.left + across * (self.right - self.left), 2),
            round(HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), 2),
        )


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
    """Lay out a line chart.

    Args:
        title, x_label: what the axes show.
        series: (x, y) points by name; points that are not finite are left out, and so is a series without points.
        caption: one sentence under the title.
        y_limits: range of the y axis; from the data if None.
        window: the strong line is the mean of this many points up to and including each one; the faint line is raw.
        steps: whether a value holds until the next one, as a setting does, and is drawn so.
        spans: parts of the x axis to be marked: first and last x, and a label.

    Returns:
        The chart, or None if no series has a point.
    """
    drawn = ((name, [point for point in points if all(map(math.isfinite, point))]) for name, points in series.items())
    finite = {name: points for name, points in drawn if points}
    if not finite:
        return None
    xs = [x for points in finite.values() for x, _ in points]
    ys = [y for points in finite.values() for _, y in points]
    y_values = nice_ticks(*(y_limits or _widened(min(ys), max(ys))))
    smooth = {name: trailing_mean(points, window) for name, points in finite.items()}
    last = {name: _label(points[-1][1], _step(y_values) / 10) for name, points in smooth.items()}
    y_labels = [_label(y, _step(y_values)) for y in y_values]
    scale = _Scale(
        x=_widened(min(xs), max(xs)),
        y=(y_values[0], y_values[-1]),
        left=_room(y_labels),
        right=WIDTH - _room(last.values()),
    )
    ends = {name: scale.place(*points[-1]) for name, points in smooth.items()}
    label_heights = spread({name: y for name, (_, y) in ends.items()}, _LABEL_GAP, (_TOP, HEIGHT - _BOTTOM))
    lines = [
        ChartLine(
            name=name,
            points=tuple(thin(points)),
            raw=_polyline([scale.place(x, y) for x, y in _stairs(thin(points), steps)]),
            smooth=_polyline([scale.place(x, y) for x, y in _stairs(thin(smooth[name]), steps)]),
            end=ends[name],
            last=last[name],
            last_y=label_heights[name],
        )
        for name, points in finite.items()
    ]
    x_values = _x_values(scale, whole=all(x == int(x) for x in xs))
    return Chart(
        title=title,
        caption=caption,
        x_label=x_label,
        lines=tuple(lines),
        x_ticks=tuple(Tick(position=scale.place(x, 0)[0], label=_label(x, _step(x_values))) for x in x_values),
        y_ticks=tuple(
            Tick(position=scale.place(0, y)[1], label=text) for y, text in zip(y_values, y_labels, strict=True)
        ),
        x_range=(scale.left, scale.right),
        x_limits=scale.x,
        spans=tuple(_span(scale, *span) for span in spans),
    )


def _x_values(scale: _Scale, *, whole: bool) -> list[float]:
    """Where the x axis is labelled; there is no iteration 1.5."""
    return [x for x in nice_ticks(*scale.x, 6) if scale.x[0] <= x <= scale.x[1] and not (whole and x % 1)]


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
        lowest = max(placed.values(), default=-math.inf) + gap
        placed[name] = max(heights[name], lowest)
    shift = sum(placed[name] - heights[name] for name in placed) / max(len(placed), 1)
    lowest, highest = min(placed.values(), default=0.0), max(placed.values(), default=0.0)
    shift = max(min(shift, lowest - limits[0]), highest - limits[1])
    return {name: placed[name] - shift for name in heights}


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values, equally spaced, that enclose [low, high] (low < high)."""
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    # A hair of tolerance, so that a range that is already round keeps its step.
    step = power * next((factor for factor in (1, 2, 2.5, 5) if factor * power >= rough * (1 - 1e-9)), 10)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _span(scale: _Scale, first: float, last: float, label: str) -> Span:
    start, end = scale.place(max(first, scale.x[0]), 0)[0], scale.place(min(last, scale.x[1]), 0)[0]
    # A single iteration has no width of its own.
    width = round(max(end - start, 2.0), 2)
    shown = label if len(label) <= 40 else f"{label[:39]}…"
    return Span(start=start, width=width, label=shown, ends=start + _room([shown]) > WIDTH)


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty, even if all values are equal."""
    if high - low > 1e-9:
        return low, high
    margin = max(abs(low) * 0.1, 0.01)
    return low - margin, high + margin


def _room(labels: Iterable[str]) -> float:
    """Width of the longest label, and of what lies between it and the lines."""
    return round(_CHARACTER * max(map(len, labels)) + _GAP, 2)


def _stairs(points: Points, steps: bool) -> Points:
    """`points`, or with each value held until the next one."""
    if not steps:
        return points
    held = [(x, y) for (_, y), (x, _) in itertools.pairwise(points)]
    return [point for pair in itertools.zip_longest(points, held) for point in pair if point is not None]


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


def _polyline(points: Points) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
