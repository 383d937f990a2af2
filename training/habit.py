"""Says when an agent looks although it need not: the mirror of the trap alarm, from rollouts alone, without labels.

state, notices = watch_habit(state, episodes, iteration=7, rule=AlarmRule())
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence

from pxr_agents.statistics import answered_at_once, own_episodes, used
from pxr_agents.types import Episode
from .alarm import (
    CLEARLY_MORE,
    HABIT,
    AlarmRule,
    AlarmState,
    Notice,
    Sums,
    add,
    difference,
    episode_sums,
    mean,
    side_by_side,
    term_names,
)

MIN_SAMPLES = 8.0
"""Solved samples without which a window says nothing; one of whose answers at once half are right counts half."""
MIN_ACCURACY = 0.6
"""Of answers at once, below which nothing is solved by them, however clumsy those are that look."""


def watch_habit(
    state: AlarmState, episodes: Sequence[Episode], *, iteration: int, rule: AlarmRule
) -> tuple[AlarmState, list[Notice]]:
    """Adds an iteration; returns the new state and what is to be said, once for each habit and each recovery.

    A rollout *looks* if its first turn is not the answer: its call was executed, refused or broken. What answers at
    once can do is seen on all scored rollouts, also on those that were made to answer or had no operations; whether
    the policy looks, on its own. Samples with fewer than two answers at once say nothing.

    Every right answer at once is held against the *other* rollouts of its sample: how many of the policy's own look,
    how often those are right, and how often other answers at once are (this one may have been lucky). A sample with k
    answers at once weighs 1/k for each right one. It is a habit if over the last `rule.iterations` iterations

    - such samples weigh `MIN_SAMPLES` or more together,
    - more than `rule.habit` of the own rollouts look,
    - the other answers at once are right in `MIN_ACCURACY` or more, and no more than `CLEARLY_MORE` less often than
      those that look.

    It is over when for as many iterations in a row no more than `rule.habit` looked, or answers at once were right less
    often by more than twice `CLEARLY_MORE`.
    """
    if not own_episodes(episodes) or rule.habit >= 1:
        return state, []
    n, warned, notices = rule.iterations, set(state.warned), []
    rows = (*state.history.get(HABIT, ()), solved_sums(episodes))[-2 * n :]
    verdicts = [_is_habit(rows[end - n : end], rule) for end in range(n, len(rows) + 1)][-n:]
    now = add(rows[-n:])
    where = f"{looking_rate(now):.1%} of the rollouts look first where answers at once are right"
    if HABIT not in warned and verdicts[-1:] == [True]:
        warned.add(HABIT)
        lines = [
            f"iteration {iteration}: a habit: {where}, above {rule.habit:.1%} over {n} iterations",
            *side_by_side(now, "look first", "at once", count="samples"),
            f"Likely cause: {habit_cause(now)}",
        ]
        notices.append(Notice(kind="habit", operation=HABIT, text="\n".join(lines)))
    elif HABIT in warned and verdicts == [False] * n:
        warned.remove(HABIT)
        text = f"iteration {iteration}: {where}: no habit any more, for {n} iterations"
        notices.append(Notice(kind="recovered", operation=HABIT, text=text))
    return dataclasses.replace(state, history={**state.history, HABIT: rows}, warned=frozenset(warned)), notices


def solved_sums(episodes: Sequence[Episode]) -> dict[str, float]:
    """The sums over an iteration, each sample with the weight of `watch_habit`: "samples", the weights; "looked", the
    share of the other own rollouts that look. As in `training.alarm.Sums`, but a mean of each sample, "users", the own
    rollouts that look (of these "idle" executed nothing), and "others", other answers at once."""
    samples: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        if episode.error is None:
            samples[episode.sample_id].append(episode)
    return add(row for sample in samples.values() for row in _sample_sums(sample))


def looking_rate(sums: Sums) -> float:
    """Share of the own rollouts beside a right answer at once that look."""
    return sums.get("looked", 0.0) / max(sums.get("samples", 0.0), 1e-9)


def habit_cause(total: Sums) -> str:
    """The first of these that fits, in one sentence: calls are broken off or refused, looking is paid (and by which
    term), or nothing tells the two apart."""
    idle = mean(total, "users", "idle") or 0.0
    if idle > 0.5:
        return (
            f"{idle:.0%} of those that look execute nothing: a call is broken off or refused, and then comes the "
            f"answer. That evades what executed operations cost: charge for every turn before the answer, as "
            f"selective.enabled does (docs/selective_use.md)."
        )
    paid = {name: difference(total, f"term/{name}") for name in term_names(total) if name != "correct"}
    best = max(paid, key=paid.__getitem__, default="")
    if best and paid[best] > 0:
        return (
            f"looking is paid where it is not needed, by the term {best} ({paid[best]:+.3f}): selective.enabled lets "
            f"curiosity fade where samples are solved at once (docs/selective_use.md)."
        )
    return (
        "no reward tells the two apart: a group whose rollouts are all right teaches nothing, and the usage of samples "
        "that need it carries over. selective.enabled tells them apart (docs/selective_use.md)."
    )


def _sample_sums(sample: Sequence[Episode]) -> Iterator[dict[str, float]]:
    own, answers = own_episodes(sample), [one for one in sample if answered_at_once(one)]
    looks = [one for one in own if not answered_at_once(one)]
    n, k, right = len(own), len(answers), sum(one.correct for one in answers)
    if n < 2 or k < 2 or not right:
        return
    # Beside an own answer there are n - 1 own rollouts, beside one of a rollout that had to answer n.
    n_own = sum(one.correct and answered_at_once(one) for one in own)
    looked = len(looks) * (n_own / (n - 1) + (right - n_own) / n) / k
    yield {"samples": right / k, "looked": looked}
    for one in looks:
        idle = {"users/idle": float(not used(one))}
        yield _scaled(_sums(one, "users") | idle, right / k / len(looks))
    for one in answers:
        yield _scaled(_sums(one, "others"), (right - one.correct) / k / (k - 1))


def _sums(episode: Episode, side: str) -> dict[str, float]:
    return episode_sums(episode, side, failed=any(episode.failures.values()))


def _scaled(sums: Sums, weight: float) -> dict[str, float]:
    return {name: weight * value for name, value in sums.items()}


def _is_habit(rows: Sequence[Sums], rule: AlarmRule) -> bool | None:
    """What a window says; None if too little is solved in it to say, or looking may pay."""
    total = add(rows)
    if total.get("samples", 0.0) < MIN_SAMPLES:
        return None
    if looking_rate(total) <= rule.habit:
        return False
    at_once, loss = mean(total, "others", "correct") or 0.0, difference(total, "correct")
    if at_once >= MIN_ACCURACY and loss <= CLEARLY_MORE:
        return True
    # Twice as much, lest a warning comes and goes with chance.
    return False if loss > 2 * CLEARLY_MORE else None
