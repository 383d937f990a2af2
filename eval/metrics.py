"""From episodes to a score: the statistics of a run with confidence intervals, overall and by category."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pxr_agents.statistics import episode_counts, episode_statistics
from pxr_agents.types import Episode

#: Standard normal quantile of a two-sided 95% interval.
Z_95 = 1.959963984540054


def wilson_interval(count: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Confidence interval of a proportion (E. B. Wilson 1927; score interval without continuity correction).

    Unlike the normal approximation it stays inside [0, 1] and has a width even at 0 of n and n of n.

    Args:
        count: successes.
        total: trials, at least 1.
        z: standard normal quantile; 1.96 gives a 95% interval.

    Raises:
        ValueError: `count` is not within 0..total, or there were no trials.
    """
    if total < 1 or not 0 <= count <= total:
        raise ValueError(f"{count} successes of {total} trials came; expected 0 <= successes <= trials and trials >= 1")
    share = count / total
    spread = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / spread
    half = z / spread * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the ends the formula is exact, its floating-point evaluation is not.
    low = 0.0 if count == 0 else centre - half
    high = 1.0 if count == total else centre + half
    return low, high


def evaluation_metrics(episodes: Sequence[Episode]) -> dict[str, Any]:
    """What `metrics.json` holds.

    Returns:
        `statistics`: see `pxr_agents.statistics.episode_statistics`;
        `intervals`: for every rate among them its 95% Wilson interval [low, high];
        `counts`: for every rate [how many, out of how many];
        `by_category`: the same three for every category that the samples name (empty if they name none).
    """
    metrics = _measure(episodes)
    categories = sorted({episode.category for episode in episodes if episode.category is not None})
    metrics["by_category"] = {
        category: _measure([episode for episode in episodes if episode.category == category]) for category in categories
    }
    return metrics


def _measure(episodes: Sequence[Episode]) -> dict[str, Any]:
    counts = episode_counts(episodes)
    return {
        "statistics": episode_statistics(episodes),
        "intervals": {name: list(wilson_interval(count, total)) for name, (count, total) in counts.items()},
        "counts": {name: [count, total] for name, (count, total) in counts.items()},
    }
