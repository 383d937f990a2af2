"""What episodes earn beyond their environment: curiosity and rewards of whole groups, and those of your own function.

An episode whose reward cannot be known (a judge is away) has an `error` and teaches nothing: it is no 0.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from numbers import Real
from typing import Any

from pxr_agents.chat_client import ServerRefused, Unanswered, event_loop
from pxr_agents.groups import Group, add_terms, settle, with_group_reward
from pxr_agents.statistics import is_free, term_returns
from pxr_agents.types import Episode
from pxr_env.curiosity import group_reward
from pxr_env.errors import show
from pxr_env.tasks import import_function
from .arms import GroupPlan
from .config import OWN_REWARDS, PPORecipe
from .run_directory import RESUME, Fault, LostProcessError, NonFiniteError, TrainingError, first_line, samples_named

REWARD_FAILED = "reward: "
"""How the `error` of an episode begins whose reward is not known."""

# What a function raises that cannot know the reward of this episode. All else is a mistake, and ends the run.
_OUTAGES = (OSError, Unanswered, CancelledError)


class Rewards:
    """The `reward` of a recipe for the episodes of one rollout: asked as each ends, added when all are over. And its
    `group_rewards`.

        rewards = Rewards(recipe)
        groups = settled_groups(rollout(envs, agent, jobs, rewards.begin), recipe, rewards)

    Raises:
        ValueError: there is no such function, or it does not take its keyword arguments.
    """

    def __init__(self, recipe: PPORecipe) -> None:
        self.of_groups = [group_reward(name, **constants) for name, constants in recipe.group_rewards.items()]
        self._name, self._kwargs, self._timeout = recipe.reward, recipe.reward_kwargs, recipe.reward_timeout
        self._function = None if (name := recipe.reward) is None else import_function(OWN_REWARDS.get(name, name))
        self._asked: dict[int, Future[Any]] = {}
        if self._function is not None:
            try:
                inspect.signature(self._function).bind(None, **self._kwargs)
            except TypeError as error:
                raise ValueError(
                    f"reward={self._name} with reward_kwargs={show(self._kwargs)}: {error}; expected a function of an "
                    f"episode that takes these keyword arguments"
                ) from error

    def begin(self, episode: Episode) -> None:
        """Ask for the terms of an episode that is over and has a turn; an async function is not waited for."""
        if self._function is None or not episode.steps:
            return
        asked: Future[Any] = Future()
        try:
            terms = self._function(episode, **self._kwargs)
            if inspect.isawaitable(terms):
                # Not the clients' own loop: who waits for their answer in its threads would keep them from asking.
                asked = asyncio.run_coroutine_threadsafe(self._within_timeout(terms), event_loop("rewards"))
            else:
                asked.set_result(terms)
        except _OUTAGES as error:
            asked.set_exception(error)
        self._asked[id(episode)] = asked

    def known(self, episodes: Sequence[Episode]) -> bool:
        """Whether the terms of all these are there, so that nobody would wait for them."""
        return all(self._asked[id(each)].done() for each in episodes if id(each) in self._asked)

    def add_to(self, settled: Episode, episode: Episode) -> Episode:
        """The settled copy of an episode with its terms, earned by the last turn; with an `error` if they are unknown.

        Raises:
            NonFiniteError: a term is no finite number.
            TrainingError: the function did not return terms, or its server takes no request at all.
        """
        if (asked := self._asked.pop(id(episode), None)) is None or not settled.steps:
            return settled
        try:
            terms = asked.result()
        except _OUTAGES as error:
            return replace(settled, error=f"{REWARD_FAILED}{first_line(error)}")
        except ServerRefused as error:
            raise TrainingError(f"reward={self._name} got no answer: {error}. {RESUME}") from error
        if not isinstance(terms, Mapping) or not all(isinstance(value, Real) for value in terms.values()):
            raise TrainingError(f"reward={self._name} returned {show(terms)}; expected a dict of numbers by name")
        return add_terms(settled, terms)

    async def _within_timeout(self, terms: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await terms
        except TimeoutError as error:
            raise TimeoutError(str(error) or f"not known within reward_timeout={self._timeout:g} s") from error


def settled_groups(
    episodes: Sequence[Episode],
    recipe: PPORecipe,
    rewards: Rewards | None = None,
    plans: Mapping[str, GroupPlan] | None = None,
) -> list[Group]:
    """The groups of a rollout of `group_jobs`, with their curiosity terms and those of `rewards`.

    Curiosity is settled first, over all rollouts of a group: whether they used an operation is known of each. `plans`
    are those of `training.arms`, by sample; their gate lowers the share H of a group that curiosity asks for.

    Raises:
        NonFiniteError: a reward is no finite number; names its samples.
        TrainingError: as `Rewards.add_to`.
        ValueError: a reward of groups did not return terms.
    """
    _check_finite(episodes, "The environment gave", "Look at its scorer and its reward terms")
    groups: list[Group] = []
    asked = iter(episodes)
    for start in range(0, len(episodes), recipe.group_size):
        members = episodes[start : start + recipe.group_size]
        plan = (plans or {}).get(members[0].sample_id, GroupPlan())
        curiosity = plan.faded(recipe.curiosity_of(members[0].sample_id), members)
        [group] = settle(members, len(members), preset=curiosity.preset, overrides=curiosity.overrides)
        groups.append(replace(group, first_id=plan.first_id(members, recipe.selective.relocation)))
    given = [f"reward={recipe.reward}"] * (recipe.reward is not None) + list(recipe.group_rewards)
    if rewards is None or not given:
        return groups
    for reward in rewards.of_groups:
        groups = [with_group_reward(group, reward) for group in groups]
    if recipe.reward is not None:
        groups = [replace(g, episodes=[rewards.add_to(each, next(asked)) for each in g.episodes]) for g in groups]
    every = [episode for group in groups for episode in group.episodes]
    _check_finite(every, " or ".join(given) + " gave", "Look at its terms")
    return groups


def _check_finite(episodes: Sequence[Episode], who: str, advice: str) -> None:
    bad = [episode for episode in episodes if not math.isfinite(episode.reward)]
    if bad:
        told = [
            {
                "sample_id": episode.sample_id,
                "reward": episode.reward,
                "reward_terms": term_returns(episode),
                "turns": [step.turn for step in episode.steps],
                "answer": episode.answer,
                "target": episode.target,
            }
            for episode in bad
        ]
        named = samples_named([episode.sample_id for episode in bad])
        raise NonFiniteError(f"{who} a reward of {bad[0].reward} for {named}; expected finite numbers. {advice}", told)


def scored(group: Group, recipe: PPORecipe) -> Group:
    """The group as learners get it: without episodes whose reward is unknown, and empty where too few are left to be
    compared: fewer than two, or (with a critic) than one, or none that was left alone."""
    known = [k for k, episode in enumerate(group.episodes) if episode.error is None]
    if len(known) <= (recipe.advantage == "group") or not any(is_free(group.episodes[k]) for k in known):
        known = []
    first_id = tuple(group.first_id[k] for k in known) if group.first_id else ()
    return replace(group, episodes=[group.episodes[k] for k in known], first_id=first_id)


def check_enough(n_groups: int, recipe: PPORecipe, episodes: Sequence[Episode]) -> None:
    """Raises LostProcessError if fewer groups than this are needed were left by an outage."""
    needed = max(recipe.num_learners, 1) * (1 if recipe.minibatch_tokens else recipe.num_minibatches)
    errors = [episode.error for episode in episodes if episode.error is not None]
    if errors and n_groups < needed:
        raise LostProcessError(
            f"{len(errors)} of {len(episodes)} episodes have no reward ({errors[0]}), and {n_groups} groups are left "
            f"of {needed} that a step needs"
        )


def reward_faults(episodes: Sequence[Episode]) -> list[Fault]:
    """What was left out because its reward is not known, a fault for each reason."""
    by_reason: dict[str, list[str]] = {}
    for episode in episodes:
        if episode.error is not None:
            by_reason.setdefault(episode.error.removeprefix(REWARD_FAILED), []).append(episode.sample_id)
    return [
        Fault("reward", f"{len(ids)} episodes of {samples_named(ids)} teach nothing, their reward is unknown: {reason}")
        for reason, ids in by_reason.items()
    ]
