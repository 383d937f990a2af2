"""Confidence intervals (95%) of what a run measured, and whether two runs differ by more than chance.

Questions that belong together (one photograph, one video, four orders of the same options) and repeats of one question
tell less than as many independent ones. They form a *cluster*; every interval here is given one sum per cluster.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

#: Standard normal quantile of a two-sided 95% interval.
Z_95 = 1.959963984540054
#: Clusters that are all right, and as many that are all wrong, which are added to measure how alike clusters are.
_ADDED = 2
#: For up to so many differences all changes of sign are tried, and so many random ones for more of them.
ALL_SIGNS, SIGN_CHANGES = 13, 9_999
#: Signs that are held at a time.
_BLOCK = 4_000_000
_ROUNDING = 1e-9


def wilson_interval(count: float, total: float) -> tuple[float, float]:
    """95% confidence interval of `count` successes in `total` trials (E. B. Wilson 1927, no continuity correction).

    Unlike the normal approximation it stays inside [0, 1] and has a width even at 0 of n and n of n. It is written out
    because effective numbers of trials are no whole numbers; for whole ones it is SciPy's
    `binomtest(count, total).proportion_ci(method="wilson")`.

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
    total, added = _total_and_added(sizes, "values")
    added *= _ADDED
    share = (float(sums.sum()) + added) / (total + 2 * added)
    apart = sums - share * sizes
    spread = float(apart @ apart) + added**2 / _ADDED * ((1 - share) ** 2 + share**2)
    effect = spread / ((total + 2 * added) * share * (1 - share))
    # Sums of many values may pass their bounds by rounding.
    held = min(1.0, max(0.0, float(sums.sum()) / total))
    return wilson_interval(held * (total / effect), total / effect)


def mean_interval(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float] | None:
    """95% interval of a mean of values that are never negative, such as tokens per episode; see `share_interval`.

    Student's, with one degree of freedom less than there are clusters and the variance over clusters (linearized,
    W. G. Cochran 1977, section 6.3). None with fewer than two clusters; without a width where all values are equal.
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
    """95% interval of a mean of paired differences from -1 to 1; see `share_interval`.

    A. Agresti and Y. Min, Statistics in Medicine 24:729 (2005): the normal interval after half a pair was added to each
    of both right, both wrong, only the first right and only the second right; here of pairs of clusters. It has a width
    where all differences are equal, too.

    Raises:
        ValueError: there are no differences.
    """
    total, added = _total_and_added(sizes, "differences")
    centre = float(sums.sum()) / (total + 2 * added)
    apart = sums - centre * sizes
    half = Z_95 * math.sqrt(float(apart @ apart) + added**2 * (1 + 2 * centre**2)) / (total + 2 * added)
    return max(-1.0, centre - half), min(1.0, centre + half)


def _total_and_added(sizes: np.ndarray, what: str) -> tuple[float, float]:
    """The number of values, and the mean size of a cluster."""
    total = float(sizes.sum())
    if total <= 0:
        raise ValueError(f"got no {what}, expected at least one")
    return total, total / int(np.count_nonzero(sizes))


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


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedTest:
    """Second minus first, on the samples that both have.

    Args:
        name: "mcnemar" or "sign-flip".
        difference: of the means; `low` and `high` are its 95% interval (`difference_interval`).
        p_value: two-sided.
        n_first, n_second: samples that only the first, or only the second, has right (McNemar's test), or on which it
            scores higher; of `n`, which are in `n_clusters` groups that belong together.
    """

    name: str
    difference: float
    low: float
    high: float
    p_value: float
    n_first: int
    n_second: int
    n: int
    n_clusters: int


def mcnemar_p(n_first: int, n_second: int) -> float:
    """Two-sided p-value of McNemar's exact test.

    Where only one of two systems is right, under the null hypothesis it is either with probability 1/2: twice the
    smaller tail of a binomial distribution, at most 1 (Q. McNemar 1947; in its exact form e.g. M. Fagerland, S.
    Lydersen and P. Laake, BMC Medical Research Methodology 13:91, 2013).
    """
    from scipy import special

    return min(1.0, 2 * float(special.bdtr(min(n_first, n_second), n_first + n_second, 0.5)))


def sign_flip_p(differences: Sequence[float] | np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p-value of the sum of independent differences, whose signs are a coin's throws if there is none.

    R. A. Fisher's randomization test: all changes of sign are tried for up to `ALL_SIGNS` differences, otherwise
    `SIGN_CHANGES` random ones, which count with the one that came (B. Phipson and G. Smyth 2010). For differences of
    -1, 0 and 1 it is McNemar's exact test. Differences of 0 say nothing.
    """
    counted = np.asarray(differences, float)
    # Sums of equal numbers in another order differ by rounding.
    counted = counted[np.abs(counted) > _ROUNDING]
    n, least = len(counted), abs(counted.sum()) - _ROUNDING
    if n <= ALL_SIGNS:
        signs = (np.arange(2**n)[:, None] >> np.arange(n) & 1) * 2.0 - 1.0
        return float((np.abs(signs @ counted) >= least).mean())
    generator, block, n_as_large = np.random.default_rng(seed), max(1, _BLOCK // n), 0
    for start in range(0, SIGN_CHANGES, block):
        rows = min(block, SIGN_CHANGES - start)
        signs = generator.integers(0, 2, size=(rows, n), dtype=np.int8) * 2.0 - 1.0
        n_as_large += int((np.abs(signs @ counted) >= least).sum())
    return (n_as_large + 1) / (SIGN_CHANGES + 1)


def paired_test(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> PairedTest:
    """Compare the scores (0 to 1) of two systems, sample by sample.

    Where all scores are 0 or 1 and every sample stands alone this is McNemar's exact test. Otherwise the differences of
    the samples of a cluster are added, and their signs are changed together, see `sign_flip_p`.

    Args:
        clusters: what each sample belongs to; by default each stands alone.

    Raises:
        ValueError: the scores are not equally many, or none.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"got {len(first)} and {len(second)} scores, expected as many of both, and at least one")
    differences = np.asarray(second, float) - np.asarray(first, float)
    sums, sizes = cluster_sums(differences, range(len(differences)) if clusters is None else clusters)
    low, high = difference_interval(sums, sizes)
    n_first, n_second = int((differences < 0).sum()), int((differences > 0).sum())
    exact = len(sums) == len(differences) and set(first) | set(second) <= {0.0, 1.0}
    return PairedTest(
        name="mcnemar" if exact else "sign-flip",
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_value=mcnemar_p(n_first, n_second) if exact else sign_flip_p(sums, seed=seed),
        n_first=n_first,
        n_second=n_second,
        n=len(differences),
        n_clusters=len(sums),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the given order (S. Holm, Scand. Journal of Statistics 6:65, 1979)."""
    values = np.asarray(p_values, float)
    order, adjusted = np.argsort(values, kind="stable"), np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return [float(value) for value in adjusted]
