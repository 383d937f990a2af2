"""Probes: rollouts that are made to begin with an operation nobody uses any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pxr_env.curiosity import Revival
from training.config.checks import at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbesRecipe:
    """Brings an operation back that has died out (docs/curiosity.md, "Reviving a dead operation").

    Attributes:
        enabled: whether there are probes.
        floor: an operation is probed while the policy uses it in a smaller share of its episodes; the more, the rarer
            it is.
        share: share of the rollouts of a group that are probes, at most 0.5; rounded down to whole rollouts.
        window: iterations over which usage is counted.
        patience: probes of an operation within the window from which on they become rarer, for one that does not pay;
            by default they go on.
    """

    enabled: bool = False
    floor: float = 0.05
    share: float = 0.25
    window: int = 5
    patience: int | None = None

    def __post_init__(self) -> None:
        at_least(self, 1, "window")
        self.revival(["any"], seed=0)

    def revival(self, operations: Sequence[str], *, seed: int) -> Revival:
        """What decides which rollouts are probes.

        Raises:
            ValueError: a value is out of range.
        """
        return Revival(
            operations=tuple(operations), floor=self.floor, share=self.share, patience=self.patience, seed=seed
        )
