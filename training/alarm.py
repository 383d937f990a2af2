"""Says when an operation is dying out, and why as far as the episodes tell (the learning trap of arXiv 2505.15966), and
when engine and learner disagree.

    state, notices = watch_usage(state, episodes, iteration=7, rule=AlarmRule())
    state, notices = watch_gap(state, metrics.get("logprob_gap_mean"), iteration=7, recipe=recipe)

Pure: the state is what was counted in the latest iterations, goes to JSON and back, and belongs into the checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from pxr_agents.statistics import own_episodes, term_returns
from pxr_agents.types import Episode
from pxr_env.rules import MALFORMED
from .config import PPORecipe

ANY = "any"
"""Stands for all operations of a task together."""
GAP = "logprob_gap"
"""The alarm about engine and learner, beside those about operations."""
HABIT = "habit"
"""The one about looking that is not needed (`training.habit`)."""
GAP_LIMITS = {"float32": 1e-4, "bfloat16": 1e-2}
"""Type of the learner's weights -> mean difference of log-probabilities, in nats, that is no longer rounding."""

# Shares this far apart are not chance at the numbers of episodes that an alarm is about.
CLEARLY_MORE = 0.2

Sums = Mapping[str, float]
"""What iterations came to, seen from one operation: "groups", and of these "live_groups", with a user among their
episodes (where they differ, there is something to learn from). Below "users/" for the episodes that executed it and
"others/" for the rest: how many "episodes", of these "correct", "truncated" and "failed" ones (in which a call of the
operation was refused), the sum of their "reward" and of each reward term, "term/NAME"."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AlarmRule:
    """When to warn."""

    rate: float = 0.05
    """Share of the episodes that execute the operation, below which it is dying; 0 never warns."""
    iterations: int = 5
    """How many in a row have to be below, and above again for a recovery."""
    habit: float = 0.5
    """Share of the rollouts that look first where answers at once are right, above which it is a habit; 1 never
    warns."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AlarmState:
    """What is known of earlier iterations."""

    history: Mapping[str, tuple[Sums, ...]] = dataclasses.field(default_factory=dict)
    """Operation -> its latest iterations, at most twice as many as the rule asks for: those that alarm, and as many
    before them. HABIT -> `training.habit.solved_sums` of as many."""
    warned: frozenset[str] = frozenset()
    """Operations that are low and have been warned of, and GAP and HABIT if they have been."""
    least_gap: float | None = None
    """The smallest difference between engine and learner that an iteration had, if it was ever known."""

    def flags(self) -> dict[str, float]:
        """`alarm/OPERATION`, and if known `alarm/habit` and `alarm/logprob_gap`: 1 from a warning to the recovery."""
        names = [*self.history, *([] if self.least_gap is None else [GAP])]
        return {f"alarm/{name}": float(name in self.warned) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values."""
        history = {name: [dict(sums) for sums in rows] for name, rows in self.history.items()}
        return {"history": history, "warned": sorted(self.warned), "least_gap": self.least_gap}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Rebuilds what `to_dict` wrote."""
        history = {name: tuple(rows) for name, rows in state["history"].items()}
        return cls(history=history, warned=frozenset(state["warned"]), least_gap=state["least_gap"])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """An operation fell below the rate ("low"), looking is a "habit", engine and learner disagree ("gap"), or one of
    these is over ("recovered").

    The text is one line for a log, the `headline`, for "low" and "habit" followed by two kinds of episodes side by side
    and the likely cause, for "gap" by likely causes.
    """

    kind: Literal["low", "habit", "gap", "recovered"]
    operation: str
    text: str

    @property
    def headline(self) -> str:
        return self.text.partition("\n")[0]


def watch_usage(
    state: AlarmState, episodes: Sequence[Episode], *, iteration: int, rule: AlarmRule
) -> tuple[AlarmState, list[Notice]]:
    """Adds an iteration; returns the new state and what is to be said, once for each fall and each recovery.

    Where a task has several operations, each is watched, and all together as "any". Episodes with an error have no
    score and are left out, and so are probes, which were made to use an operation.
    """
    scored = own_episodes(episodes)
    if not scored or not rule.rate:
        return state, []
    operations = list(dict.fromkeys(name for episode in scored for name in episode.usage))
    history, warned, notices = dict(state.history), set(state.warned), []
    for name in [ANY, *(operations if len(operations) > 1 else [])]:
        rows = history[name] = (*history.get(name, ()), tally(scored, name))[-2 * rule.iterations :]
        below = [usage_rate(sums) < rule.rate for sums in rows[-rule.iterations :]]
        if len(below) < rule.iterations:
            continue
        if name not in warned and all(below):
            warned.add(name)
            notices.append(_low(name, rows, iteration, rule))
        elif name in warned and not any(below):
            warned.remove(name)
            text = (
                f"iteration {iteration}: {_title(name)} used by {usage_rate(rows[-1]):.1%} of the episodes, at "
                f"{rule.rate:.1%} or more for {rule.iterations} iterations again"
            )
            notices.append(Notice(kind="recovered", operation=name, text=text))
    return dataclasses.replace(state, history=history, warned=frozenset(warned)), notices


def watch_gap(
    state: AlarmState, gap: float | None, *, iteration: int, recipe: PPORecipe
) -> tuple[AlarmState, list[Notice]]:
    """Adds what engine and learner differed by on average before an iteration's first step (in nats; None if older
    weights sampled); returns the new state and what is to be said: a warning above the limit, once, until the
    difference is below half of it."""
    limit = GAP_LIMITS[recipe.learner.dtype] if recipe.alarm_gap is None else recipe.alarm_gap
    if gap is None or not limit:
        return state, []
    before, warned, notices = state.least_gap, set(state.warned), []
    if gap > limit and GAP not in warned:
        warned.add(GAP)
        earlier = "" if before is None else f"; {before:.2g} at best before"
        causes = gap_causes(recipe, agreed=before is not None and before <= limit)
        lines = [
            f"iteration {iteration}: engine and learner differ by {gap:.2g} nats per action id, above {limit:g}"
            f"{earlier}",
            "They should agree, since they have the same weights. Likely causes, in this order:",
            *(f"{k}. {cause}" for k, cause in enumerate(causes, 1)),
        ]
        notices.append(Notice(kind="gap", operation=GAP, text="\n".join(lines)))
    elif gap < limit / 2 and GAP in warned:
        warned.remove(GAP)
        text = f"iteration {iteration}: engine and learner differ by {gap:.2g} nats per action id again"
        notices.append(Notice(kind="recovered", operation=GAP, text=text))
    least = gap if before is None else min(gap, before)
    return dataclasses.replace(state, warned=frozenset(warned), least_gap=least), notices


def gap_causes(recipe: PPORecipe, *, agreed: bool) -> list[str]:
    """Why engine and learner may disagree, the likeliest first; `agreed` says that they did in an earlier iteration."""
    learner, engine = recipe.learner.dtype, recipe.engine
    computes = recipe.aligned_engine.vllm.dtype if engine.kind == "vllm" else "float32"
    types = f"the engine computes in {computes}, the learner in {learner}"
    vllm = "" if engine.kind != "vllm" else ': leave engine.vllm.dtype at "auto", which follows learner.dtype'
    causes = [
        "the engine sees other ids or pixels than the learner: chat template, image processor, positions of images.",
        "ids are drawn from another distribution than the one that is scored: temperature, top_p, top_k, penalties, or "
        "defaults out of the checkpoint's generation_config.json.",
        "a mixture of experts sends ids to other experts, or the engine's weights or cache are quantized: "
        "old_logprobs=learner importance_cap=2 corrects for what cannot be mended (docs/ppo.md).",
    ]
    stale = "new weights do not reach the engine, or not all of them (docs/engines.md)."
    causes = [stale, *causes] if agreed else [*causes[:2], stale, *causes[2:]]
    if computes != learner:
        return [f"{types}{vllm}.", *causes]
    return causes if learner == "float32" else [*causes, f"{types}: set both to float32 to see what rounding adds."]


def usage_rates(episodes: Sequence[Episode]) -> dict[str, float]:
    """`usage/OPERATION`: share of the scored episodes that executed it; `failures/OPERATION`: share in which a call of
    it was refused (`failures/malformed`: in which a turn could not be read). Probes do not count."""
    scored = own_episodes(episodes)
    operations = sorted({name for episode in scored for name in episode.usage})
    refused = sorted({MALFORMED, *operations, *(name for episode in scored for name in episode.failures)})
    rates = {f"usage/{name}": [_uses(episode, name) for episode in scored] for name in operations}
    rates |= {f"failures/{name}": [_failed(episode, name) for episode in scored] for name in refused}
    return {key: sum(flags) / len(flags) for key, flags in rates.items() if flags}


def tally(episodes: Sequence[Episode], operation: str) -> dict[str, float]:
    """The sums over the scored episodes of an iteration."""
    rows = [
        episode_sums(one, "users" if _uses(one, operation) else "others", failed=_failed(one, operation))
        for one in episodes
    ]
    live = {episode.sample_id for episode in episodes if _uses(episode, operation)}
    return add(rows) | {"groups": len({episode.sample_id for episode in episodes}), "live_groups": len(live)}


def episode_sums(episode: Episode, side: str, *, failed: bool) -> dict[str, float]:
    """An episode as the sums below "users/" or "others/"."""
    terms = term_returns(episode)
    row = {
        "episodes": 1.0,
        "correct": float(episode.correct),
        "failed": float(failed),
        "truncated": float(episode.truncated_by is not None),
        "reward": sum(terms.values()),
        **{f"term/{name}": value for name, value in terms.items()},
    }
    return {f"{side}/{name}": value for name, value in row.items()}


def add(rows: Iterable[Sums]) -> dict[str, float]:
    """Several iterations as one."""
    total: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            total[name] = total.get(name, 0.0) + value
    return total


def mean(sums: Sums, side: str, name: str) -> float | None:
    """The share or mean of `name` among "users" or "others"; None if there are no episodes."""
    n_episodes = sums.get(f"{side}/episodes")
    return sums.get(f"{side}/{name}", 0.0) / n_episodes if n_episodes else None


def usage_rate(sums: Sums) -> float:
    """Share of the episodes that used the operation."""
    return sums.get("users/episodes", 0) / max(_n_episodes(sums), 1)


def likely_cause(rows: Sequence[Sums], rule: AlarmRule) -> str:
    """The first of these that fits, in one sentence: calls are refused rather than avoided, nobody ever used it, users
    are cut off, users earn less (and by which term), or none of them. `rows` are the iterations below the rate of the
    rule and those before them."""
    total = add(rows)
    refused = total.get("others/failed", 0) / max(_n_episodes(total), 1)
    if refused >= max(rule.rate, usage_rate(total)):
        return (
            f"calls fail rather than being avoided: {refused:.0%} of the episodes tried and were refused. Look at the "
            f"replies in OUT/episodes: dialect, coordinates, arguments."
        )
    if not usage_rate(total):
        return "it was not used in any of these episodes, so there was nothing to learn from."
    truncated, reward = difference(total, "truncated"), difference(total, "reward")
    if truncated > CLEARLY_MORE:
        return (
            f"episodes with it are cut off {truncated:.0%} more often: raise max_turns, max_tokens or the limit that "
            f"truncated_by names in OUT/episodes."
        )
    if reward >= 0:
        return (
            f"users earned {reward:+.3f} against the others, so it is not the reward: too few users for a gradient, or "
            f"an easy way to answer without it. Look at entropy, learning rate and clipping."
        )
    differences = {name: difference(total, f"term/{name}") for name in term_names(total)}
    worst = min(differences, key=differences.__getitem__)
    if worst == "correct":
        return (
            f"the learning trap: users are less often right ({differences['correct']:+.3f}) and curiosity makes up for "
            f"{differences.get('curiosity', 0.0):+.3f} of it. Raise curiosity.overrides.alpha, or warm up longer on "
            f"traces that use it."
        )
    return (
        f"users earn {reward:+.3f} less, most of it by the term {worst} ({differences[worst]:+.3f}): lower its weight."
    )


def term_names(sums: Sums) -> list[str]:
    """The reward terms that somebody got."""
    return sorted({name.partition("/term/")[2] for name in sums} - {""})


def side_by_side(total: Sums, users: str = "users", others: str = "others", count: str = "episodes") -> list[str]:
    """A table of users and others, with the titles of both columns and of their sizes; a dash where there is nobody."""
    rows = {
        "answered correctly": "correct",
        "reward": "reward",
        **{f"  {name}": f"term/{name}" for name in term_names(total)},
        "had a refused call": "failed",
        "truncated": "truncated",
    }
    sides = ("users", "others")
    lines = [f"{'':<20}{users:>10}{others:>10}"]
    lines.append(f"{count:<20}" + "".join(f"{total.get(f'{side}/episodes', 0):>10.0f}" for side in sides))
    for title, name in rows.items():
        means = [mean(total, side, name) for side in sides]
        lines.append(f"{title:<20}" + "".join(f"{'-' if value is None else f'{value:.3f}':>10}" for value in means))
    return lines


def difference(total: Sums, name: str) -> float:
    """Users minus others; where one side is empty there is no difference."""
    one, other = mean(total, "users", name), mean(total, "others", name)
    return 0.0 if one is None or other is None else one - other


def _low(name: str, rows: Sequence[Sums], iteration: int, rule: AlarmRule) -> Notice:
    now, before = add(rows[-rule.iterations :]), add(rows[: -rule.iterations])
    earlier = f"; {usage_rate(before):.1%} before" if before else ""
    lines = [
        f"iteration {iteration}: {_title(name)} used by {usage_rate(now):.1%} of the episodes, below {rule.rate:.1%} "
        f"for {rule.iterations} iterations{earlier}",
        *side_by_side(add(rows)),
        f"Likely cause: {likely_cause(rows, rule)}",
    ]
    if not now["live_groups"]:
        lines.append(
            f"In none of the last {now['groups']:.0f} groups did anybody use it: curiosity pays nobody then, and it "
            f"stays dead unless rollouts are made to begin with it: probes.enabled does so (docs/curiosity.md)."
        )
    return Notice(kind="low", operation=name, text="\n".join(lines))


def _title(name: str) -> str:
    return "operations are" if name == ANY else f"{name} is"


def _n_episodes(sums: Sums) -> float:
    return sums.get("users/episodes", 0) + sums.get("others/episodes", 0)


def _uses(episode: Episode, operation: str) -> bool:
    return episode.n_operations > 0 if operation == ANY else episode.usage.get(operation, 0) > 0


def _failed(episode: Episode, operation: str) -> bool:
    return any(episode.failures.values()) if operation == ANY else episode.failures.get(operation, 0) > 0
