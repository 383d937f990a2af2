"""The common queue from which env runners take what is to be sampled, and the weights to sample it with.

It is a small process of its own, so that nobody waits for a driver that learns: this module imports nothing of ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """Groups that an env runner begins together.

    Attributes:
        sample_ids: one group of each.
        seed: numbers that the noise follows from, with each sample and member of a group.
        plans: sample -> its `training.arms.GroupPlan`; none without probes and arms.
    """

    sample_ids: Sequence[str]
    seed: Sequence[int]
    plans: Mapping[str, Any] = field(default_factory=dict)


class SampleQueue:
    """A Ray actor. Whoever takes a part gets the number of the weights that came last, their version, and a list of
    one reference to them; an empty one where engines have them."""

    def __init__(self) -> None:
        self._waiting: deque[Part] = deque()
        self._taken: dict[int, list[str]] = {}
        self._weights: tuple[int, int, list[Any]] = (0, 0, [])

    def set_weights(self, version: int, weights: list[Any]) -> None:
        self._weights = self._weights[0] + 1, version, weights

    def put(self, parts: Sequence[Part]) -> None:
        self._waiting += parts

    def clear(self) -> None:
        self._waiting.clear()
        self._taken.clear()

    def take(self, worker: int) -> tuple[Part | None, tuple[int, int, list[Any]]]:
        """The next part for an env runner, if there is one, and the weights."""
        part = self._waiting.popleft() if self._waiting else None
        if part is not None:
            self._taken.setdefault(worker, []).extend(part.sample_ids)
        return part, self._weights

    def release(self, worker: int) -> list[str]:
        """All samples that an env runner has taken since it was last asked for."""
        return self._taken.pop(worker, [])
