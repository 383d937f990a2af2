"""When an operation pays: the need of a sample as its rollouts show it, and what moves usage to where it is needed.

The need of a sample x is estimated without labels, from its rollouts alone: how often it is answered right at once
(solved, s), beside how often with an operation. `relocation` then pays the decision to look first on samples where
answers at once fail more often than elsewhere, and taxes it where they fail less often.
docs/selective_use.md has the measurements, and what failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attempts:
    """How many attempts there were (of earlier visits a part, so these are floats), and how many of them were right."""

    n: float = 0.0
    right: float = 0.0

    def __add__(self, other: Attempts) -> Attempts:
        return Attempts(self.n + other.n, self.right + other.right)

    def faded(self, factor: float) -> Attempts:
        """What is left of them after a while."""
        return Attempts(self.n * factor, self.right * factor)

    @property
    def share(self) -> float | None:
        """The share that was right; None if there was no attempt."""
        return self.right / self.n if self.n else None


def solved(attempts: Attempts, mean: float, *, prior: float) -> float:
    """Returns (right + prior * mean) / (n + prior), the estimated share in [0, 1] of attempts at a sample that succeed:
    the fewer there were, the nearer to the mean over samples, which counts for `prior` attempts."""
    total = attempts.n + prior
    return (attempts.right + prior * mean) / total if total else mean


def gate(accuracy: float | None, threshold: float) -> float:
    """Returns clip((accuracy - threshold) / (1 - threshold), 0, 1), how far operations are mastered: nothing is asked
    of a policy before. `accuracy` is that of the rollouts that use one, None if there were none.

    Raises:
        ValueError: the threshold is not in [0, 1).
    """
    if not 0.0 <= threshold < 1.0:
        raise ValueError(f"threshold is {threshold!r}; expected a number from 0 to below 1")
    return 0.0 if accuracy is None else min(max((accuracy - threshold) / (1.0 - threshold), 0.0), 1.0)


def relocation(
    looked: Sequence[bool], free: Sequence[bool], *, solved: float, mean: float, strength: float
) -> list[float]:
    """Returns what is added to the advantage of the first id of each rollout of a group:

        strength * (mean - solved) * (looked - mean of looked over the free rollouts)

    The sum over free rollouts is 0. Usage goes from samples that are solved at once to those that are not; on the whole
    it is pushed as far as the rollouts of samples on one side of the mean differ more than those on the other. It is
    never normalized by the spread of rewards, which would blow it up where all rollouts are right.

    Args:
        looked: whether anything but an answer came first: an operation, a refused or a broken call. (If only executed
            operations counted, a policy would learn to break its calls.)
        free: whether the rollout was left alone.
        solved: of the sample, see `solved`.
        mean: the same over samples.
        strength: 0 for none.
    """
    own = [look for look, is_free in zip(looked, free, strict=True) if is_free]
    if not own:
        return [0.0] * len(looked)
    rate = sum(own) / len(own)
    return [strength * (mean - solved) * (look - rate) for look in looked]
