"""Says when an operation is dying out, and why as far as the episodes tell (the learning trap of arXiv 2505.15966).

    state, notices = watch_usage(state, episodes, iteration=7, rule=AlarmRule())

Pure: the state is what was counted in the latest iterations, goes to JSON and back, and belongs into the checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pxr_agents.statistics import own_episodes, term_returns
from pxr_agents.types import Episode
from pxr_env.episode import MALFORMED

ANY = "any"
"""Stands for all operations of a task together."""

# Shares this far apart are not chance at the numbers of episodes that an alarm is about.
CLEARLY_MORE = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AlarmRule:
    """When to warn.

    Args:
        rate: share of the episodes that execute the operation, below which it is dying; 0 never warns.
        iterations: how many in a row have to be below, and above again for a recovery.
    """

    rate: float = 0.05
    iterations: int = 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """What a set of episodes came to, as sums, so that sets can be added.

    Args:
        episodes: how many.
        correct: how many answered correctly.
        failed: in how many a call of the operation was refused (of any: or a turn could not be read).
        truncated: how many were cut off before an answer.
        terms: sum of every reward term.
    """

    episodes: int = 0
    correct: int = 0
    failed: int = 0
    truncated: int = 0
    terms: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, episodes: Sequence[Episode], operation: str) -> Self:
        """The sums over `episodes`; `operation` decides what counts as failed."""
        terms: dict[str, float] = {}
        for episode in episodes:
            for name, value in term_returns(episode).items():
                terms[name] = terms.get(name, 0.0) + value
        return cls(
            episodes=len(episodes),
            correct=sum(episode.correct for episode in episodes),
            failed=sum(_failed(episode, operation) for episode in episodes),
            truncated=sum(episode.truncated_by is not None for episode in episodes),
            terms=terms,
        )

    def __add__(self, other: Outcomes) -> Outcomes:
        names = dict.fromkeys([*self.terms, *other.terms])
        return Outcomes(
            episodes=self.episodes + other.episodes,
            correct=self.correct + other.correct,
            failed=self.failed + other.failed,
            truncated=self.truncated + other.truncated,
            terms={name: self.terms.get(name, 0.0) + other.terms.get(name, 0.0) for name in names},
        )

    def share(self, name: Literal["correct", "failed", "truncated"]) -> float | None:
        """Share of the episodes that are counted under `name`; None if there are none."""
        return getattr(self, name) / self.episodes if self.episodes else None

    def term(self, name: str) -> float | None:
        """Mean of a reward term over the episodes; None if there are none."""
        return self.terms.get(name, 0.0) / self.episodes if self.episodes else None

    @property
    def reward(self) -> float | None:
        """Mean sum of all reward terms; None if there are no episodes."""
        return sum(self.terms.values()) / self.episodes if self.episodes else None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One iteration, seen from one operation.

    Args:
        users: episodes that executed it.
        others: the rest.
        groups: samples.
        live_groups: samples with a user among their episodes: where they differ, there is something to learn from.
    """

    users: Outcomes = dataclasses.field(default_factory=Outcomes)
    others: Outcomes = dataclasses.field(default_factory=Outcomes)
    groups: int = 0
    live_groups: int = 0

    @classmethod
    def of(cls, episodes: Sequence[Episode], operation: str) -> Self:
        """Splits the scored episodes of an iteration."""
        users = [episode for episode in episodes if _uses(episode, operation)]
        others = [episode for episode in episodes if not _uses(episode, operation)]
        return cls(
            users=Outcomes.of(users, operation),
            others=Outcomes.of(others, operation),
            groups=len({episode.sample_id for episode in episodes}),
            live_groups=len({episode.sample_id for episode in users}),
        )

    def __add__(self, other: Split) -> Split:
        return Split(
            users=self.users + other.users,
            others=self.others + other.others,
            groups=self.groups + other.groups,
            live_groups=self.live_groups + other.live_groups,
        )

    @property
    def rate(self) -> float:
        """Share of the episodes that used the operation."""
        return self.users.episodes / max(self.users.episodes + self.others.episodes, 1)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AlarmState:
    """What is known of earlier iterations.

    Args:
        history: operation -> its latest iterations, at most twice as many as the rule asks for: those that alarm,
            and as many before them.
        warned: operations that are low and have been warned of.
    """

    history: Mapping[str, tuple[Split, ...]] = dataclasses.field(default_factory=dict)
    warned: frozenset[str] = frozenset()

    def flags(self) -> dict[str, float]:
        """`alarm/OPERATION`: 1 from a warning to the recovery, else 0."""
        return {f"alarm/{name}": float(name in self.warned) for name in self.history}

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values."""
        history = {name: [dataclasses.asdict(split) for split in splits] for name, splits in self.history.items()}
        return {"history": history, "warned": sorted(self.warned)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Rebuilds what `to_dict` wrote."""
        history = {name: tuple(_split(row) for row in rows) for name, rows in state["history"].items()}
        return cls(history=history, warned=frozenset(state["warned"]))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """An operation fell below the rate, or is back.

    Args:
        kind: "low" or "recovered".
        operation: its name, or "any".
        iteration: when it was noticed.
        headline: one line for a log.
        text: the headline, for "low" followed by users and others side by side and the likely cause.
    """

    kind: Literal["low", "recovered"]
    operation: str
    iteration: int
    headline: str
    text: str


def watch_usage(
    state: AlarmState, episodes: Sequence[Episode], *, iteration: int, rule: AlarmRule
) -> tuple[AlarmState, list[Notice]]:
    """Adds an iteration; returns the new state and what is to be said, once for each fall and each recovery.

    Where a task has several operations, each is watched, and all together as "any".

    Args:
        state: of the iteration before; `AlarmState()` at first.
        episodes: those of the iteration. Those with an error have no score and are left out, and so are probes,
            which were made to use an operation.
        iteration: its number.
        rule: when to warn.
    """
    scored = own_episodes(episodes)
    if not scored or not rule.rate:
        return state, []
    operations = list(dict.fromkeys(name for episode in scored for name in episode.usage))
    history = dict(state.history)
    warned, notices = set(state.warned), []
    for name in [ANY, *(operations if len(operations) > 1 else [])]:
        splits = (*history.get(name, ()), Split.of(scored, name))[-2 * rule.iterations :]
        history[name] = splits
        latest = [split.rate for split in splits[-rule.iterations :]]
        if len(latest) < rule.iterations:
            continue
        if name not in warned and all(rate < rule.rate for rate in latest):
            warned.add(name)
            notices.append(_low(name, splits, iteration, rule))
        elif name in warned and all(rate >= rule.rate for rate in latest):
            warned.remove(name)
            notices.append(_recovered(name, latest[-1], iteration, rule))
    return AlarmState(history=history, warned=frozenset(warned)), notices


def usage_rates(episodes: Sequence[Episode]) -> dict[str, float]:
    """`usage/OPERATION`: share of the scored episodes that executed it; `failures/OPERATION`: share in which a call of
    it was refused (`failures/malformed`: in which a turn could not be read). Probes do not count."""
    scored = own_episodes(episodes)
    operations = sorted({name for episode in scored for name in episode.usage})
    refused = sorted({MALFORMED, *operations, *(name for episode in scored for name in episode.failures)})
    rates = {f"usage/{name}": [_uses(episode, name) for episode in scored] for name in operations}
    rates |= {f"failures/{name}": [_failed(episode, name) for episode in scored] for name in refused}
    return {key: sum(flags) / len(flags) for key, flags in rates.items() if flags}


def likely_cause(splits: Sequence[Split], rule: AlarmRule) -> str:
    """The first of these that fits, in one sentence: calls are refused rather than avoided, nobody ever used it, users
    are cut off, users earn less (and by which term), or none of them.

    Args:
        splits: the iterations below the rate and those before them.
        rule: the rule they are below.
    """
    total = sum(splits, Split())
    users, others = total.users, total.others
    refused = others.failed / max(users.episodes + others.episodes, 1)
    if refused >= max(rule.rate, total.rate):
        return (
            f"calls fail rather than being avoided: {refused:.0%} of the episodes tried and were refused. Look at the "
            f"replies in OUT/episodes: dialect, coordinates, arguments."
        )
    if not users.episodes:
        return "it was not used in any of these episodes, so there was nothing to learn from."
    truncated = _minus(users.share("truncated"), others.share("truncated"))
    if truncated > CLEARLY_MORE:
        return (
            f"episodes with it are cut off {truncated:.0%} more often: raise max_turns, max_tokens or the limit that "
            f"truncated_by names in OUT/episodes."
        )
    reward = _minus(users.reward, others.reward)
    if reward < 0:
        return _costs_reward(users, others, reward)
    return (
        f"users earned {reward:+.3f} against the others, so it is not the reward: too few users for a gradient, or an "
        f"easy way to answer without it. Look at entropy, learning rate and clipping."
    )


def _costs_reward(users: Outcomes, others: Outcomes, reward: float) -> str:
    names = sorted({*users.terms, *others.terms})
    differences = {name: _minus(users.term(name), others.term(name)) for name in names}
    worst = min(names, key=differences.__getitem__)
    bonus = differences.get("curiosity", 0.0)
    if worst == "correct":
        return (
            f"the learning trap: users are less often right ({differences['correct']:+.3f}) and curiosity makes up for "
            f"{bonus:+.3f} of it. Raise curiosity.overrides.alpha, or warm up longer on traces that use it."
        )
    return (
        f"users earn {reward:+.3f} less, most of it by the term {worst} ({differences[worst]:+.3f}): lower its weight."
    )


def _low(name: str, splits: Sequence[Split], iteration: int, rule: AlarmRule) -> Notice:
    now, before = sum(splits[-rule.iterations :], Split()), sum(splits[: -rule.iterations], Split())
    earlier = f"; {before.rate:.1%} before" if before.groups else ""
    headline = (
        f"iteration {iteration}: {_title(name)} used by {now.rate:.1%} of the episodes, below {rule.rate:.1%} for "
        f"{rule.iterations} iterations{earlier}"
    )
    lines = [headline, *_table(sum(splits, Split())), f"Likely cause: {likely_cause(splits, rule)}"]
    if not now.live_groups:
        lines.append(
            f"In none of the last {now.groups} groups did anybody use it: curiosity pays nobody then, and it stays "
            f"dead unless rollouts are made to begin with it: probes.enabled does so (docs/curiosity.md)."
        )
    return Notice(kind="low", operation=name, iteration=iteration, headline=headline, text="\n".join(lines))


def _recovered(name: str, rate: float, iteration: int, rule: AlarmRule) -> Notice:
    headline = (
        f"iteration {iteration}: {_title(name)} used by {rate:.1%} of the episodes, at {rule.rate:.1%} or more for "
        f"{rule.iterations} iterations again"
    )
    return Notice(kind="recovered", operation=name, iteration=iteration, headline=headline, text=headline)


def _title(name: str) -> str:
    return "operations are" if name == ANY else f"{name} is"


def _table(total: Split) -> list[str]:
    """Users and others side by side; a dash where there is nobody."""
    users, others = total.users, total.others
    names = sorted({*users.terms, *others.terms})
    rows = [
        ("answered correctly", users.share("correct"), others.share("correct")),
        ("reward", users.reward, others.reward),
        *((f"  {name}", users.term(name), others.term(name)) for name in names),
        ("had a refused call", users.share("failed"), others.share("failed")),
        ("truncated", users.share("truncated"), others.share("truncated")),
    ]
    lines = [f"{'':<20}{'users':>10}{'others':>10}", f"{'episodes':<20}{users.episodes:>10}{others.episodes:>10}"]
    return lines + [f"{name:<20}{_number(one):>10}{_number(other):>10}" for name, one, other in rows]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _minus(one: float | None, other: float | None) -> float:
    """Users minus others; where one side is empty there is no difference."""
    return 0.0 if one is None or other is None else one - other


def _uses(episode: Episode, operation: str) -> bool:
    return episode.n_operations > 0 if operation == ANY else episode.usage.get(operation, 0) > 0


def _failed(episode: Episode, operation: str) -> bool:
    return any(episode.failures.values()) if operation == ANY else episode.failures.get(operation, 0) > 0


def _split(row: Mapping[str, Any]) -> Split:
    return Split(**{**row, "users": Outcomes(**row["users"]), "others": Outcomes(**row["others"])})
