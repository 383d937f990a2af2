"""Which rollouts are probes: decided in one place, from what all processes counted (see docs/curiosity.md)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from pxr_agents.types import Episode
from pxr_env.curiosity import Revival, UsageRates
from .config import PPORecipe
from .env_recipe import name_in
from .environments import tasks_of

ProbePlan = Mapping[str, Sequence[str | None]]
"""Sample -> of each rollout of its group the operation it is made to begin with, or None; {} without probes."""


class ProbePlanner:
    """Counts the episodes of a run, and decides from the counts alone which rollouts come next as probes.

    A group that was lost with its process is sampled again with the same probes, even if episodes were counted since,
    and a resumed run goes on with those of an uninterrupted one. `rates` are the counts, of the latest
    `probes.window` iterations.
    """

    def __init__(self, recipe: PPORecipe, env: gymnasium.Env[Any, Any]) -> None:
        self._group_size = recipe.group_size
        # Decisions are made by the rates of the task; those of its samples would only be carried along.
        self.rates = UsageRates(max_samples=0, window=recipe.probes.window)
        #: Iteration -> what was decided for it, until its episodes are counted.
        self._planned: dict[int, dict[str, list[str | None]]] = {}
        self._env = recipe.env
        #: Of each environment by its name what decides, and the task that its episodes are counted under.
        self._revivals: dict[str, tuple[Revival, str]] = {}
        for name, task in tasks_of(env).items():
            if not recipe.probes.enabled:
                break
            unwrapped: Any = task.unwrapped
            counted = name or (task.spec.id if task.spec is not None else type(unwrapped).__name__)
            self._revivals[name] = recipe.probes.revival(tuple(unwrapped.operations), seed=recipe.seed), counted

    def plan(self, sample_ids: Sequence[str], iteration: int) -> ProbePlan:
        """What every rollout of these groups is made to begin with."""
        if not self._revivals:
            return {}
        planned, size = self._planned.setdefault(iteration, {}), self._group_size
        for sample_id in sample_ids:
            if sample_id not in planned:
                revival, task = self._revivals[name_in(self._env, sample_id)]
                planned[sample_id] = [
                    revival.decide(self.rates, task, sample_id, rollout=k, group_size=size, iteration=iteration)
                    for k in range(size)
                ]
        return {sample_id: planned[sample_id] for sample_id in sample_ids}

    def count(self, episodes: Sequence[Episode], iteration: int) -> None:
        """Add the episodes of an iteration, which is not earlier than any before."""
        self.rates.advance(iteration)
        self._planned = {later: plan for later, plan in self._planned.items() if later > iteration}
        for episode in episodes:
            if episode.error is None:
                task = name_in(self._env, episode.sample_id) or episode.task
                self.rates.record(task, episode.sample_id, episode.usage, probe=episode.probe)

    def state_dict(self) -> dict[str, Any]:
        return {"rates": self.rates.to_dict(), "planned": copy.deepcopy(self._planned)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rates = UsageRates.from_dict(state["rates"])
        self._planned = copy.deepcopy(state["planned"])

    def metrics(self) -> dict[str, float]:
        """`probes/OPERATION`: the probability with which a candidate is made to begin with it from now on, if it is the
        only one; `probe_rate`: 0, until there are probes (see `episode_statistics`). Nothing without probes. Of several
        environments `env/NAME/probes/OPERATION`."""
        odds = {
            f"{name and f'env/{name}/'}probes/{operation}": revival.probe_probability(self.rates, task, operation)
            for name, (revival, task) in self._revivals.items()
            for operation in revival.operations
        }
        return {"probe_rate": 0.0, **odds} if odds else {}
