"""Whether two systems differ on the same questions by more than chance."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from eval.intervals import cluster_sums, difference_interval

#: For up to so many differences all changes of sign are tried.
ALL_SIGNS = 13
#: Random changes of sign for more of them.
SIGN_CHANGES = 9_999
#: Signs that are held at a time.
_BLOCK = 4_000_000
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedTest:
    """Second minus first, on the samples that both have.

    Args:
        name: "mcnemar" or "sign-flip".
        difference: of the means.
        low, high: 95% interval of the difference, see `eval.intervals.difference_interval`.
        p_value: two-sided.
        n_first, n_second: samples that only the first, or only the second, has right (McNemar's test), or on which it
            scores higher.
        n_clusters: groups of samples that belong together.
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
    -1, 0 and 1 it is McNemar's exact test.

    Args:
        differences: one per cluster; those of 0 say nothing.
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
    first: Sequence[float],
    second: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> PairedTest:
    """Compare the scores of two systems, sample by sample.

    Where all scores are 0 or 1 and every sample stands alone this is McNemar's exact test. Otherwise the differences of
    the samples of a cluster are added, and their signs are changed together, see `sign_flip_p`.

    Args:
        first, second: their scores from 0 to 1, one per sample, in the same order.
        clusters: what each sample belongs to; by default each stands alone.

    Raises:
        ValueError: they are not equally many, or none.
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
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
