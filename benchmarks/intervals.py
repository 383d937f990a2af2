"""How often 95% intervals hold the true value, and what copies of questions do to a p-value.

    python -m benchmarks.intervals

Simulated answers to questions that stand alone, to the four orders of each question (HR-Bench), and to several
questions about one image; with Wilson's interval as if every answer were independent, and with that of
`eval.intervals.share_interval`. Then paired differences, and the test of a difference seen on four copies.
"""

from __future__ import annotations

import numpy as np

from eval.intervals import difference_interval, paired_test, share_interval, wilson_interval


def shares(generator: np.random.Generator, n: int, share: float, correlation: float) -> np.ndarray:
    """How likely each cluster is answered right: a beta distribution whose answers correlate as given."""
    if correlation == 0:
        return np.full(n, share)
    if correlation == 1:
        return (generator.random(n) < share).astype(float)
    weight = 1 / correlation - 1
    return generator.beta(share * weight, (1 - share) * weight, n)


def coverage(
    *, n_clusters: int, size: int, share: float, correlation: float, n_sets: int, seed: int = 0
) -> tuple[float, float]:
    """How often Wilson's interval of all answers, and the interval by cluster, hold `share`."""
    generator = np.random.default_rng(seed)
    sizes = np.full(n_clusters, float(size))
    held = np.zeros(2)
    for _ in range(n_sets):
        right = generator.binomial(size, shares(generator, n_clusters, share, correlation)).astype(float)
        intervals = wilson_interval(right.sum(), sizes.sum()), share_interval(right, sizes)
        held += [low <= share <= high for low, high in intervals]
    alone, clustered = held / n_sets
    return float(alone), float(clustered)


def difference_coverage(
    *, n_clusters: int, size: int, gain: float, loss: float, correlation: float, n_sets: int, seed: int = 0
) -> tuple[float, float]:
    """How often intervals of a paired difference hold it: of all pairs as if alone, and by cluster."""
    generator = np.random.default_rng(seed)
    sizes = np.full(n_clusters, float(size))
    held = np.zeros(2)
    for _ in range(n_sets):
        common = generator.choice([1.0, -1.0, 0.0], n_clusters, p=[gain, loss, 1 - gain - loss])
        own = generator.choice([1.0, -1.0, 0.0], (n_clusters, size), p=[gain, loss, 1 - gain - loss])
        alike = generator.random((n_clusters, size)) < np.sqrt(correlation)
        differences = np.where(alike, common[:, None], own)
        intervals = (
            difference_interval(differences.ravel(), np.ones(differences.size)),
            difference_interval(differences.sum(axis=1), sizes),
        )
        held += [low <= gain - loss <= high for low, high in intervals]
    alone, clustered = held / n_sets
    return float(alone), float(clustered)


def main() -> None:
    n_sets = 4000
    print("accuracy: clusters x size, true share, correlation -> coverage as if alone, by cluster")
    for n_clusters, size in ((60, 1), (50, 4), (200, 4), (15, 4)):
        for share in (0.7, 0.95):
            for correlation in (0.0, 0.5, 1.0) if size > 1 else (0.0,):
                alone, clustered = coverage(
                    n_clusters=n_clusters, size=size, share=share, correlation=correlation, n_sets=n_sets
                )
                print(f"  {n_clusters:3} x {size}  {share:.2f}  {correlation:.1f}  {alone:.3f}  {clustered:.3f}")
    print(
        "paired difference: clusters x size, only second and only first right, correlation -> as if alone, by cluster"
    )
    for n_clusters, size, gain, loss, correlation in (
        (60, 1, 0.10, 0.10, 0.0),
        (60, 1, 0.15, 0.02, 0.0),
        (50, 4, 0.10, 0.05, 0.5),
        (200, 4, 0.10, 0.05, 0.5),
    ):
        alone, clustered = difference_coverage(
            n_clusters=n_clusters, size=size, gain=gain, loss=loss, correlation=correlation, n_sets=n_sets
        )
        print(f"  {n_clusters:3} x {size}  {gain:.2f} {loss:.2f}  {correlation:.1f}  {alone:.3f}  {clustered:.3f}")
    first, second = [0.0] * 12 + [1.0] * 28, [1.0] * 40
    print("three of ten questions gained, each in four orders:")
    print(f"  p as if alone {paired_test(first, second).p_value:.5f}")
    print(f"  p by question {paired_test(first, second, [number // 4 for number in range(40)]).p_value:.5f}")


if __name__ == "__main__":
    main()
