"""Confidence intervals (95%) of what a run measured, in closed form.

Questions that belong together (one photograph, one video, four orders of the same options) and repeats of one question
tell less than as many independent ones. They form a *cluster*; every interval here is given one sum per cluster.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

#: Standard normal quantile of a two-sided 95% interval.
Z_95 = 1.959963984540054
#: Clusters that are all right, and as many that are all wrong, which are added to measure how alike clusters are.
_ADDED = 2


def wilson_interval(count: float, total: float) -> tuple[float, float]:
    """95% confidence interval of a proportion (E. B. Wilson 1927; score interval without continuity correction).

    Unlike the normal approximation it stays inside [0, 1] and has a width even at 0 of n and n of n. It is written out
    because effective numbers of trials are no whole numbers; for whole ones it is SciPy's
    `binomtest(count, total).proportion_ci(method="wilson")`.

    Args:
        count: successes.
        total: trials, more than 0.

    Raises:
        ValueError: `count` is not within 0..total, or there were no trials.
    """
    if not (total > 0 and 0 <= count <= total):
        raise ValueError(f"got {count} successes of {total} trials, expected 0 <= successes <= trials and trials > 0")
    share, square = count / total, Z_95**2
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = Z_95 / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    # At the ends the formula is exact, its floating-point evaluation is not.
    return (0.0 if count == 0 else centre - half), (1.0 if count == total else centre + half)


def share_interval(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """95% interval of a mean of values from 0 to 1: Wilson's, with the effective number of values.

    The effective number is the number over the design effect (L. Kish 1965): the variance of the mean over clusters
    (linearized, W. G. Cochran 1977, section 6.3) over that of as many independent values of 0 and 1. It is measured
    with two clusters of ones and two of zeros added, as A. Agresti and B. Coull (1998) add two successes and two
    failures: with few clusters, or where all are equal, they count as alike, and one success more never lowers a bound.
    Where every cluster is one value of 0 or 1 the design effect is 1, and this is Wilson's interval itself.

    Args:
        sums: of the values of each cluster, (n,).
        sizes: how many values each has, (n,); weights that are no whole numbers will do, and 0 leaves a cluster out.

    Raises:
        ValueError: there are no values.
    """
    total = float(sizes.sum())
    if total <= 0:
        raise ValueError("got no values, expected at least one")
    added = _ADDED * total / int(np.count_nonzero(sizes))
    share = (float(sums.sum()) + added) / (total + 2 * added)
    apart = sums - share * sizes
    spread = float(apart @ apart) + added**2 / _ADDED * ((1 - share) ** 2 + share**2)
    effect = spread / ((total + 2 * added) * share * (1 - share))
    # Sums of many values may pass their bounds by rounding.
    held = min(1.0, max(0.0, float(sums.sum()) / total))
    return wilson_interval(held * (total / effect), total / effect)


def mean_interval(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float] | None:
    """95% interval of a mean of values that are never negative, such as tokens per episode.

    Student's, with one degree of freedom less than there are clusters and the variance over clusters (linearized,
    W. G. Cochran 1977, section 6.3). None with fewer than two clusters; without a width where all values are equal.

    Args:
        sums, sizes: as for `share_interval`.
    """
    n = int(np.count_nonzero(sizes))
    if n < 2:
        return None
    from scipy import special

    mean = float(sums.sum() / sizes.sum())
    apart = sums - mean * sizes
    error = math.sqrt(float(apart @ apart) * n / (n - 1)) / float(sizes.sum())
    half = float(special.stdtrit(n - 1, 0.975)) * error
    return max(0.0, mean - half), mean + half


def difference_interval(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """95% interval of a mean of paired differences from -1 to 1.

    A. Agresti and Y. Min, Statistics in Medicine 24:729 (2005): the normal interval after half a pair was added to each
    of both right, both wrong, only the first right and only the second right; here of pairs of clusters. It has a width
    where all differences are equal, too.

    Args:
        sums: of the differences of each cluster, (n,).
        sizes: how many differences each has, (n,).

    Raises:
        ValueError: there are no differences.
    """
    total = float(sizes.sum())
    if total <= 0:
        raise ValueError("got no differences, expected at least one")
    added = total / int(np.count_nonzero(sizes))
    centre = float(sums.sum()) / (total + 2 * added)
    apart = sums - centre * sizes
    half = Z_95 * math.sqrt(float(apart @ apart) + added**2 * (1 + 2 * centre**2)) / (total + 2 * added)
    return max(-1.0, centre - half), min(1.0, centre + half)


def cluster_sums(values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the values of each cluster, and how many there are, in the order in which clusters first come.

    Raises:
        ValueError: there are not as many clusters as values.
    """
    if len(values) != len(clusters):
        raise ValueError(f"got {len(values)} values and {len(clusters)} clusters, expected one cluster for each value")
    place: dict[Hashable, int] = {}
    where = [place.setdefault(cluster, len(place)) for cluster in clusters]
    sums = np.bincount(where, weights=np.asarray(values, float), minlength=len(place))
    return sums, np.bincount(where, minlength=len(place)).astype(float)
