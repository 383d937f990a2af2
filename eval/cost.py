"""What being right costs: runs by their vision tokens and how right they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .charts import Chart, line_chart
from .tables import MetricRow, label

Points = Mapping[str, tuple[float, float]]


def cost_chart(names: Sequence[str], rows: Sequence[MetricRow], metric: str = "accuracy") -> Chart | None:
    """Each run as a point, `metric` over vision tokens per episode; None where fewer than two runs know both.

    Args:
        names: of the runs, as many as every row has cells.
        rows: with one of `metric` and one of "vision_tokens".
    """
    cells = {row.name: row.cells for row in rows}
    pairs = zip(names, cells.get("vision_tokens", ()), cells.get(metric, ()), strict=False)
    points = {name: (tokens.value, right.value) for name, tokens, right in pairs if tokens and right}
    if len(points) < 2:
        return None
    lowest, highest = min(right for _, right in points.values()), max(right for _, right in points.values())
    # Up to 1 and over a tenth at least, so that two that are nearly equal look so.
    limits = (min(lowest, 0.9), 1.0) if lowest >= 0 and highest <= 1 else None
    best = ", ".join(pareto_front(points))
    return line_chart(
        f"{label(metric)} by cost",
        {name: [point] for name, point in points.items()},
        caption=f"vision tokens per episode; nobody is as right for less: {best}",
        x_label="vision tokens",
        y_limits=limits,
        window=1,
    )


def pareto_front(points: Points) -> list[str]:
    """The names of those (cost, gain) than which no other costs at most as much and gains at least as much, one of them
    strictly."""
    return [
        name
        for name, (cost, gain) in points.items()
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points.values())
    ]
