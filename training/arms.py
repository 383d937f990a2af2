"""What each rollout of a group is made to do: decided in one place, from what all processes counted.

Most rollouts are left alone. Probes are made to begin with an operation that has died out (docs/curiosity.md); once
operations are mastered, some rollouts are made to begin with an answer, and from some operations are withdrawn, so that
the group itself shows what its sample needs (docs/selective_use.md).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import gymnasium
import numpy as np

from pxr_agents.statistics import answered_at_once, is_free, used
from pxr_agents.types import Episode
from pxr_env.curiosity import (
    ANSWER,
    WITHDRAWN,
    Attempts,
    Revival,
    UsageRates,
    curiosity_formula,
    gate,
    relocation,
    solved,
)
from .config import CuriosityRecipe, PPORecipe
from .env_recipe import name_in
from .environments import tasks_of

# Of a running mean, what an iteration leaves of those before it.
_KEPT = 0.8
# Of the attempts at a sample, what counts when it comes again: the policy is another one then.
_KEPT_OF_VISIT = 0.5
_MOST_SAMPLES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPlan:
    """What was decided for the group of a sample before it was sampled.

    Attributes:
        arms: of each rollout the operation it is made to begin with, `ANSWER`, `WITHDRAWN`, or None; () without arms.
        gate: how far operations are mastered (`pxr_env.curiosity.gate`); 0 asks nothing of anybody.
        mean: share of samples that are solved at once.
        earlier: attempts at once at this sample, of earlier visits.
        prior: attempts that the mean counts for.
    """

    arms: tuple[str | None, ...] = ()
    gate: float = 0.0
    mean: float = 0.0
    earlier: Attempts = field(default_factory=Attempts)
    prior: float = 1.0

    def solved(self, members: Sequence[Episode]) -> float:
        """How often the sample is estimated to be solved at once."""
        return solved(self.earlier + at_once(members), self.mean, prior=self.prior)

    def faded(self, curiosity: CuriosityRecipe, members: Sequence[Episode]) -> CuriosityRecipe:
        """The curiosity reward of this group: where it is solved at once, fewer rollouts are asked to use an
        operation, H * (1 - gate * solved). A formula without H stays as it is."""
        share = getattr(curiosity_formula(curiosity.preset, **curiosity.overrides), "H", None)
        if not self.gate or share is None:
            return curiosity
        asked = share * (1.0 - self.gate * self.solved(members))
        return replace(curiosity, overrides={**curiosity.overrides, "H": asked})

    def first_id(self, members: Sequence[Episode], strength: float) -> tuple[float, ...]:
        """What is added to the advantage of the first id of each rollout; () for nothing."""
        if not self.gate or not strength:
            return ()
        added = relocation(
            [not answered_at_once(episode) for episode in members],
            [is_free(episode) for episode in members],
            solved=self.solved(members),
            mean=self.mean,
            strength=strength * self.gate,
        )
        return tuple(0.0 if episode.withdrawn else one for episode, one in zip(members, added, strict=True))


def at_once(members: Sequence[Episode]) -> Attempts:
    """The attempts that answered in the first turn, whoever chose that."""
    return _attempts([episode for episode in members if episode.error is None and answered_at_once(episode)])


def with_operation(members: Sequence[Episode]) -> Attempts:
    """The attempts that used an operation, whoever chose that."""
    return _attempts([episode for episode in members if episode.error is None and used(episode)])


def _attempts(members: Sequence[Episode]) -> Attempts:
    return Attempts(float(len(members)), float(sum(episode.correct for episode in members)))


class Needs:
    """What is known of the samples of one task: how often they are solved at once, and how often with an operation.

    `mean` and `mastered` are the running means over samples, None before there was an attempt.
    """

    def __init__(self) -> None:
        self.mean: float | None = None
        self.mastered: float | None = None
        self.visits: dict[str, Attempts] = {}
        self.metrics: dict[str, float] = {}

    def earlier(self, sample_id: str) -> Attempts:
        """What earlier attempts at once at a sample count for now."""
        return self.visits.get(sample_id, Attempts()).faded(_KEPT_OF_VISIT)

    def count(self, groups: Mapping[str, Sequence[Episode]], prior: float) -> None:
        """Add the groups of an iteration, by sample."""
        tries = {sample_id: (at_once(members), with_operation(members)) for sample_id, members in groups.items()}
        estimates, certified = [], []
        for sample_id, (plain, looking) in tries.items():
            needs = groups[sample_id][0].needs_operation
            if needs is not None and self.mean is not None and self.mastered is not None:
                answered = solved(self.earlier(sample_id) + plain, self.mean, prior=prior)
                estimates.append(max(0.0, solved(looking, self.mastered, prior=prior) - answered))
                certified.append(needs)
        self.metrics = calibration(estimates, certified)
        shares = [plain.share for plain, _ in tries.values() if plain.share is not None]
        users = sum((looking for _, looking in tries.values()), Attempts()).share
        self.mean = _running(self.mean, float(np.mean(shares)) if shares else None)
        self.mastered = _running(self.mastered, users)
        for sample_id, (plain, _) in tries.items():
            attempts = self.earlier(sample_id) + plain
            self.visits.pop(sample_id, None)
            self.visits[sample_id] = attempts
        for oldest in list(islice(self.visits, max(0, len(self.visits) - _MOST_SAMPLES))):
            del self.visits[oldest]


def _running(before: float | None, now: float | None) -> float | None:
    if before is None or now is None:
        return before if now is None else now
    return _KEPT * before + (1.0 - _KEPT) * now


def calibration(estimates: Sequence[float], certified: Sequence[bool]) -> dict[str, float]:
    """How well the estimated need of samples agrees with the certified one: `need/auc`, the share of pairs of a needy
    and an easy sample of which the needy one is estimated higher (equal ones count half), and `need/brier`, the mean
    squared difference. {} unless there are both kinds."""
    need, truth = np.asarray(estimates, float), np.asarray(certified, bool)
    if truth.all() or not truth.any():
        return {}
    differences = need[truth][:, None] - need[~truth][None]
    auc = float(np.mean((differences > 0) + 0.5 * (differences == 0)))
    return {"need/auc": auc, "need/brier": float(np.mean((need - truth) ** 2))}


class ArmPlanner:
    """Counts the episodes of a run, and decides from the counts alone what comes next.

    A group that was lost with its process is sampled again with the same plan, even if episodes were counted since,
    and a resumed run goes on with those of an uninterrupted one. `rates` are the counts, of the latest
    `probes.window` iterations.
    """

    def __init__(self, recipe: PPORecipe, env: gymnasium.Env[Any, Any]) -> None:
        self._recipe, self._group_size = recipe, recipe.group_size
        # Decisions are made by the rates of the task; those of its samples would only be carried along.
        self.rates = UsageRates(max_samples=0, window=recipe.probes.window)
        #: Iteration -> what was decided for it, until its episodes are counted.
        self._planned: dict[int, dict[str, GroupPlan]] = {}
        self._env = recipe.env
        #: Of each environment by its name what decides, and the task that its episodes are counted under.
        self._revivals: dict[str, tuple[Revival, str]] = {}
        #: Of each environment by its name.
        self._needs = {name: Needs() for name in recipe.envs} if recipe.selective.enabled else {}
        for name, task in tasks_of(env).items():
            unwrapped: Any = task.unwrapped
            if recipe.selective.enabled and not hasattr(unwrapped, "without_operations"):
                raise ValueError(
                    f"selective.enabled is true, and {type(unwrapped).__name__} has no operations that could be "
                    f"withdrawn; expected a pixel environment"
                )
            if not recipe.probes.enabled:
                continue
            counted = name or (task.spec.id if task.spec is not None else type(unwrapped).__name__)
            self._revivals[name] = recipe.probes.revival(tuple(unwrapped.operations), seed=recipe.seed), counted

    def plan(self, sample_ids: Sequence[str], iteration: int) -> dict[str, GroupPlan]:
        """What was decided for the groups of these samples; {} without probes and arms."""
        if not self._revivals and not self._needs:
            return {}
        planned = self._planned.setdefault(iteration, {})
        for sample_id in sample_ids:
            if sample_id not in planned:
                planned[sample_id] = self._plan(sample_id, iteration)
        return {sample_id: planned[sample_id] for sample_id in sample_ids}

    def _plan(self, sample_id: str, iteration: int) -> GroupPlan:
        name, size = name_in(self._env, sample_id), self._group_size
        arms: list[str | None] = [None] * size
        if name in self._revivals:
            revival, task = self._revivals[name]
            arms = [
                revival.decide(self.rates, task, sample_id, rollout=k, group_size=size, iteration=iteration)
                for k in range(size)
            ]
        needs, selective = self._needs.get(name), self._recipe.selective
        if needs is None or not (opened := self._gate(name)):
            return GroupPlan(arms=tuple(arms))
        kept = arms[: size - selective.n_arms]
        return GroupPlan(
            arms=(*kept, *[ANSWER] * selective.answer, *[WITHDRAWN] * selective.withdrawn),
            gate=opened,
            mean=needs.mean or 0.0,
            earlier=needs.earlier(sample_id),
            prior=selective.prior,
        )

    def _gate(self, name: str) -> float:
        return gate(self._needs[name].mastered, self._recipe.selective.gate)

    def count(self, episodes: Sequence[Episode], iteration: int) -> None:
        """Add the episodes of an iteration, which is not earlier than any before."""
        self.rates.advance(iteration)
        self._planned = {later: plan for later, plan in self._planned.items() if later > iteration}
        groups: dict[str, dict[str, list[Episode]]] = {name: {} for name in self._needs}
        for episode in episodes:
            name = name_in(self._env, episode.sample_id)
            if name in groups:
                groups[name].setdefault(episode.sample_id, []).append(episode)
            if episode.error is None and not episode.withdrawn:
                task = name or episode.task
                self.rates.record(task, episode.sample_id, episode.usage, probe=episode.probe)
        for name, of_task in groups.items():
            self._needs[name].count(of_task, self._recipe.selective.prior)

    def state_dict(self) -> dict[str, Any]:
        needs = {name: {**vars(each), "visits": dict(each.visits)} for name, each in self._needs.items()}
        return {"rates": self.rates.to_dict(), "planned": copy.deepcopy(self._planned), "needs": needs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rates = UsageRates.from_dict(state["rates"])
        self._planned = copy.deepcopy(state["planned"])
        for name, needs in self._needs.items():
            vars(needs).update({**state["needs"][name], "visits": dict(state["needs"][name]["visits"])})

    def metrics(self) -> dict[str, float]:
        """`probes/OPERATION`: the probability with which a candidate is made to begin with it from now on, if it is the
        only one; `probe_rate`: 0, until there are probes (see `episode_statistics`). Nothing without probes.

        With `selective`: `selective/gate` of the next iteration, `selective/solved`, the share of samples that are
        solved at once, and where samples know their need, `need/auc` and `need/brier` (see `calibration`).

        Of several environments `env/NAME/...`."""
        odds = {
            f"{name and f'env/{name}/'}probes/{operation}": revival.probe_probability(self.rates, task, operation)
            for name, (revival, task) in self._revivals.items()
            for operation in revival.operations
        }
        numbers = {"probe_rate": 0.0, **odds} if odds else {}
        for name, needs in self._needs.items():
            told = {"selective/gate": self._gate(name), "selective/solved": needs.mean or 0.0, **needs.metrics}
            numbers |= {f"{name and f'env/{name}/'}{key}": value for key, value in told.items()}
        return numbers
