"""Groups: the rollouts of one sample, which are compared with each other, and rewarded where they are made.

jobs = group_jobs(["train-0", "train-1"], 8, seed=(0, 3))
groups = settle(rollout(envs, agent, jobs), 8)      # two groups of eight
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pxr_agents.statistics import evidence_shown, is_free, term_returns
from pxr_agents.types import Episode, Job, episode_seed
from pxr_env.curiosity import WITHDRAWN, Rollout, settle_group


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The episodes of one sample; the unit that travels, is settled, trained on, and resampled when lost.

    `first_id` is added to the advantage of the first id that each episode's model wrote; () for nothing.
    """

    sample_id: str
    episodes: list[Episode]
    first_id: tuple[float, ...] = ()


def group_jobs(
    sample_ids: Sequence[str],
    size: int,
    *,
    seed: Sequence[int],
    arms: Mapping[str, Sequence[str | None]] | None = None,
) -> list[Job]:
    """`size` rollouts of each sample, group after group.

    Args:
        seed: numbers that the noise follows from, with each sample and member of a group.
        arms: sample -> of each rollout what it is made to begin with (an operation, or "answer"), `WITHDRAWN`, or None;
            by default the environments, which need no wrapper for it, are told nothing.
    """
    return [
        Job(
            sample_id=sample_id,
            seed=episode_seed(tuple(seed), sample_id, member),
            group=k,
            options={} if arms is None else _options(arms[sample_id][member] if sample_id in arms else None),
        )
        for k, sample_id in enumerate(sample_ids)
        for member in range(size)
    ]


def _options(arm: str | None) -> dict[str, Any]:
    """What the wrappers of `pxr_env.curiosity` are told of a rollout."""
    return {"probe": None, "withdrawn": True} if arm == WITHDRAWN else {"probe": arm}


def settle(
    episodes: Sequence[Episode], size: int, *, preset: str = "paper", overrides: Mapping[str, float | str] | None = None
) -> list[Group]:
    """Groups of `size` consecutive episodes, with the curiosity terms of each group added (`settle_group`).

    What a settlement changes is known only when all episodes are over, so it is earned by each one's last turn. An
    episode without a turn (not even the question left room for one) earns nothing, and counts with that.

    `preset` and `overrides` are the curiosity formula and its constants (`pxr_env.curiosity.curiosity_formula`).
    """
    constants: dict[str, Any] = dict(overrides or {})
    groups = []
    for start in range(0, len(episodes), size):
        members = episodes[start : start + size]
        settled = settle_group(
            [episode.n_operations for episode in members],
            [term_returns(episode) for episode in members],
            unrepaired=[episode.unrepaired for episode in members],
            probed=[not is_free(episode) for episode in members],
            preset=preset,
            **constants,
        )
        with_terms = [_with_terms(episode, terms) for episode, terms in zip(members, settled, strict=True)]
        groups.append(Group(sample_id=members[0].sample_id, episodes=with_terms))
    return groups


def _with_terms(episode: Episode, terms: Mapping[str, float]) -> Episode:
    """A copy whose last turn makes the episode's terms add up to `terms`; without a turn there is nothing to carry."""
    if not episode.steps:
        return episode
    *earlier, last = episode.steps
    before = term_returns(replace(episode, steps=earlier))
    own = {name: value - before.get(name, 0.0) for name, value in terms.items()}
    return replace(episode, steps=[*earlier, replace(last, reward_terms=own, reward=sum(own.values()))])


def with_group_reward(group: Group, reward: Callable[[Sequence[Rollout]], Sequence[Mapping[str, float]]]) -> Group:
    """The group with the terms that a reward of groups pays (`pxr_env.curiosity.group_reward`)."""
    terms = reward([rollout_facts(episode) for episode in group.episodes])
    return replace(group, episodes=[add_terms(*paid) for paid in zip(group.episodes, terms, strict=True)])


def rollout_facts(episode: Episode) -> Rollout:
    """What rewards of a group need to know of an episode."""
    return Rollout(
        correct=episode.correct,
        n_operations=episode.n_operations,
        n_failed=sum(episode.failures.values()),
        n_turns=len(episode.steps),
        free=is_free(episode),
        truncated_by=episode.truncated_by,
        looks=evidence_shown(episode),
    )


def add_terms(episode: Episode, terms: Mapping[str, float]) -> Episode:
    """A copy whose last turn earned these terms, too; without a turn there is nothing to carry them."""
    if not episode.steps:
        return episode
    *earlier, last = episode.steps
    added = {name: last.reward_terms.get(name, 0.0) + float(value) for name, value in terms.items()}
    reward = last.reward + sum(map(float, terms.values()))
    return replace(episode, steps=[*earlier, replace(last, reward_terms=last.reward_terms | added, reward=reward)])
