"""Confidence intervals of what a run measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

#: Standard normal quantile of a two-sided 95% interval.
Z_95 = 1.959963984540054
#: Resamples of a bootstrap: the bounds of a 95% interval then vary by about 0.01 standard deviations between seeds.
RESAMPLES = 10_000
#: Numbers of one block of resamples that are held at a time.
_BLOCK = 4_000_000


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


def equal_difference_interval(difference: int, total: int) -> tuple[float, float]:
    """Confidence interval of the mean of `total` paired differences that are all equal: -1, 0 or 1.

    A bootstrap has no width there. Of `total` pairs none was otherwise; Wilson's bound for that many failures says how
    often pairs may be otherwise, and how far this moves the mean at most.
    """
    other = wilson_interval(0, total)[1]
    return max(-1.0, difference - other), min(1.0, difference + other)


def bootstrap_intervals(
    measured: Mapping[str, tuple[np.ndarray, np.ndarray]], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, tuple[float, float]]:
    """95% percentile bootstrap intervals of ratios of sums (B. Efron and R. Tibshirani 1993, chapter 13).

    Samples are drawn with replacement, each with all of its repeats, because repeats of a sample are not independent.
    The interval is from the 2.5% to the 97.5% quantile of the resampled ratios; resamples in which the denominator is 0
    are left out.

    Args:
        measured: name -> (numerators, denominators), one number per sample each (n,); the measured value is the sum of
            the numerators over that of the denominators. For a mean the denominators are 1.
        seed: of the resampling; all names are resampled together.
        resamples: how many.

    Returns:
        name -> (low, high); a name whose denominators are all 0 is absent.
    """
    names = [name for name, (_, below) in measured.items() if below.sum() > 0]
    if not names:
        return {}
    above = np.stack([measured[name][0] for name in names], axis=1).astype(np.float64)
    below = np.stack([measured[name][1] for name in names], axis=1).astype(np.float64)
    draws = resampled_sums(np.concatenate([above, below], axis=1), seed=seed, resamples=resamples)
    intervals = {}
    for index, name in enumerate(names):
        defined = draws[:, len(names) + index] > 0
        ratios = draws[defined, index] / draws[defined, len(names) + index]
        # Quantiles that are resampled values themselves, as the percentile method has them.
        low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
        intervals[name] = (float(low), float(high))
    return intervals


def resampled_sums(values: np.ndarray, *, seed: int, resamples: int) -> np.ndarray:
    """Sums over bootstrap samples of the rows of `values` (n, m): (resamples, m)."""
    n, generator = len(values), np.random.default_rng(seed)
    block = max(1, _BLOCK // n)
    sums = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
        weights = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        sums.append(weights.astype(np.float64) @ values)
    return np.concatenate(sums)


def quantile_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 2.5% and the 97.5% quantile."""
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)
