"""Probes: rollouts that are made to begin with an operation nobody uses any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from pxr_env.curiosity import Revival
from training.config.base import RECIPE


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class ProbesRecipe:
    """Brings an operation back that has died out (docs/curiosity.md, "Reviving a dead operation")."""

    enabled: bool = False
    """Whether there are probes."""
    floor: Annotated[float, Field(gt=0, le=1)] = 0.05
    """An operation is probed while the policy uses it in a smaller share of its episodes; the more, the rarer it is."""
    share: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of the rollouts of a group that are probes, at most 0.5; rounded down to whole rollouts."""
    window: PositiveInt = 5
    """Iterations over which usage is counted."""
    patience: PositiveInt | None = None
    """Probes of an operation within the window from which on they become rarer, for one that does not pay; by default
    they go on."""

    def revival(self, operations: Sequence[str], *, seed: int) -> Revival:
        """What decides which rollouts are probes."""
        return Revival(
            operations=tuple(operations), floor=self.floor, share=self.share, patience=self.patience, seed=seed
        )
