"""Selective sample replay (SSR, VL-Rethinker, arXiv 2504.08837): groups with something to learn come again.

As a policy gets better, more and more groups score alike and carry no gradient. Their places in a batch are given to
earlier groups whose rollouts differed, the more likely the larger their advantages were. The buffer knows nothing of
what it keeps: items are groups, or references to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """A kept item: when it was sampled, what its probability to be drawn is proportional to, and its size."""

    item: Any
    iteration: int
    weight: float
    n_bytes: int


class ReplayBuffer:
    """Keeps the newest groups within bounds of number, bytes and age, and draws from them.

    A group is drawn with probability proportional to sum(|advantage| ** alpha) of its episodes. That is how often one
    of its episodes would be drawn if episodes were, with probability proportional to |advantage| ** alpha, as in the
    paper; whole groups share their first image, and keep an advantage that can be computed again.

    Args:
        size: groups, at most.
        max_bytes: bytes, at most; a group that is larger alone is not kept.
        alpha: 0 draws uniformly, larger values prefer large advantages.
        staleness: iterations after which a group is dropped.
    """

    def __init__(self, *, size: int, max_bytes: int, alpha: float, staleness: int) -> None:
        self._size, self._max_bytes, self._alpha, self._staleness = size, max_bytes, alpha, staleness
        # Oldest first.
        self._kept: list[Replayed] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def n_bytes(self) -> int:
        return sum(entry.n_bytes for entry in self._kept)

    def add(self, item: Any, *, advantages: ArrayLike, iteration: int, n_bytes: int) -> None:
        """Keep a group (or a reference to it) that was sampled in `iteration`; the oldest ones make room for it. One
        whose `advantages`, (n,) of its n episodes, are all 0 is not kept."""
        magnitudes = np.abs(np.asarray(advantages, np.float64))
        # 0 ** 0 is 1: an episode without an advantage would count.
        weight = float((magnitudes[magnitudes > 0] ** self._alpha).sum())
        if weight <= 0 or n_bytes > self._max_bytes:
            return
        self._kept.append(Replayed(item=item, iteration=iteration, weight=weight, n_bytes=n_bytes))
        while len(self._kept) > self._size or self.n_bytes > self._max_bytes:
            del self._kept[0]

    def draw(self, n: int, *, iteration: int, seed: int) -> list[Replayed]:
        """Up to `n` different groups that are not stale; they stay in the buffer.

        The same (seed, iteration) draws the same out of the same buffer. Stale groups are dropped.
        """
        self._kept = [entry for entry in self._kept if iteration - entry.iteration <= self._staleness]
        n = min(n, len(self._kept))
        if not n:
            return []
        weights = np.array([entry.weight for entry in self._kept])
        rng = np.random.default_rng([seed, 5, iteration])
        drawn = rng.choice(len(self._kept), n, replace=False, p=weights / weights.sum())
        return [self._kept[k] for k in drawn]

    def state_dict(self, load: Callable[[Any], Any]) -> list[Replayed]:
        """All that is kept, to be pickled; `load` turns an item into what outlives this process (a reference into the
        group)."""
        return [replace(entry, item=load(entry.item)) for entry in self._kept]

    def load_state_dict(self, state: Sequence[Replayed], store: Callable[[Any], Any]) -> None:
        """Go on where `state_dict` was taken; `store` turns a saved item into one to keep."""
        self._kept = [replace(entry, item=store(entry.item)) for entry in state]
