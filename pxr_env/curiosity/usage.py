"""How often pixel operations are used, and which rollouts are forced to begin with one that has died out.

A bonus pays for use, so it cannot bring back what nobody uses: at a rate of 0 in every group there is no rollout to
pay. `UsageRates` counts; `Revival` decides from it which rollouts of which samples are probes; `ProbeOperations`
carries it out, and docs/curiosity.md says what is learned from it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pxr_env.errors import show

Key = TypeVar("Key")
#: Rollouts that have to be left to the policy: their mean reward is what a probe is compared with.
MAX_SHARE = 0.5


@dataclass(kw_only=True)
class UsageCount:
    """Episodes in which the policy chose by itself, those that used any operation, and those that used each.

    `probes`: operation -> episodes that were forced to begin with it; they are not among `episodes`.
    """

    episodes: int = 0
    used: int = 0
    by_operation: Counter[str] = field(default_factory=Counter)
    probes: Counter[str] = field(default_factory=Counter)

    def add(self, other: UsageCount) -> None:
        """Adds the counts of other episodes."""
        self.episodes += other.episodes
        self.used += other.used
        self.by_operation.update(other.by_operation)
        self.probes.update(other.probes)


#: Counts by tick; without a window they are all kept under tick 0.
Tally = dict[int, UsageCount]


class UsageRates:
    """How often operations are used: counts of finished episodes by sample, task and operation.

    The rate of an operation in a task (or a sample) is

        rate = sum of used(t) / sum of episodes(t)    over the ticks t with  tick - window < t <= tick

    where used(t) counts the episodes of tick t that executed the operation at least once; without a window both sums
    go over the whole past. A tick is whatever `advance` says, as a rule the training iteration.

    Counts are integers, so that merging is exact in every order and grouping.

    Args:
        max_samples: number of samples whose own counts are kept, over all tasks: the ones met last (after `merge`,
            those with most episodes); None for all. A forgotten sample starts again at 0; tasks stay exact.
        window: number of latest ticks that count; None for the whole past.

    Attributes:
        tick: the tick of what is recorded now.
    """

    def __init__(self, *, max_samples: int | None = 100_000, window: int | None = None) -> None:
        _check_limit("max_samples", max_samples, least=0, none="to keep all samples")
        _check_limit("window", window, least=1, none="to count the whole past")
        self.max_samples = max_samples
        self.window = window
        self.tick = 0
        self._tasks: dict[str, Tally] = {}
        #: The sample met last is at the end.
        self._samples: dict[tuple[str, str], Tally] = {}

    def advance(self, tick: int) -> None:
        """Says that what is recorded from now on belongs to `tick`, such as the training iteration.

        Raises:
            ValueError: `tick` is no int, or earlier than the current one.
        """
        if isinstance(tick, bool) or not isinstance(tick, int) or tick < self.tick:
            raise ValueError(f"got tick {tick!r} at tick {self.tick}; expected an int that is not smaller")
        self.tick = tick
        self._tasks, self._samples = self._current(self._tasks), self._current(self._samples)

    def record(self, task: str, sample_id: str, usage: Mapping[str, int], *, probe: str | None = None) -> None:
        """Counts one finished episode.

        Args:
            task: the registered id of its environment.
            sample_id: its sample.
            usage: operation -> executed calls, as in `info["usage"]`.
            probe: the operation it was forced to begin with. Such an episode is counted as a probe only, since a
                forced use is no evidence of what the policy uses.
        """
        names = [name for name, executed in usage.items() if executed > 0]
        if probe is None:
            count = UsageCount(episodes=1, used=int(bool(names)), by_operation=Counter(names))
        else:
            count = UsageCount(probes=Counter([probe]))
        tick = 0 if self.window is None else self.tick
        _add(self._tasks, task, {tick: count})
        _add(self._samples, (task, sample_id), {tick: count})
        if self.max_samples is not None and len(self._samples) > self.max_samples:
            del self._samples[next(iter(self._samples))]

    def rate(self, task: str, sample_id: str | None = None, *, operation: str | None = None) -> float | None:
        """Share of the episodes of a sample, or of the task, that used `operation`, or any; None if there are none."""
        total = self._total(task, sample_id)
        if total.episodes == 0:
            return None
        return (total.used if operation is None else total.by_operation[operation]) / total.episodes

    def episodes(self, task: str, sample_id: str | None = None) -> int:
        """Number of episodes counted for a sample, or the whole task, probes excluded."""
        return self._total(task, sample_id).episodes

    def probes(self, task: str, sample_id: str | None = None, *, operation: str | None = None) -> int:
        """Number of probes counted for a sample, or the whole task, of one operation or of all."""
        probes = self._total(task, sample_id).probes
        return probes.total() if operation is None else probes[operation]

    def merge(self, other: UsageRates) -> UsageRates:
        """Returns the counts of both, changing neither, such as those of two processes.

        Order and grouping of merges do not matter as long as the samples fit. Of two limits of samples the larger
        holds, and None is the largest.

        Raises:
            ValueError: the windows differ.
        """
        if other.window != self.window:
            raise ValueError(
                f"got counts with window={other.window} to merge into counts with window={self.window}; expected the "
                "same: a rate over both would have no meaning. Give every process the same window."
            )
        limits = (self.max_samples, other.max_samples)
        limit = None if None in limits else max(limit for limit in limits if limit is not None)
        merged = UsageRates(max_samples=limit, window=self.window)
        for rates in (self, other):
            for task, tally in rates._tasks.items():
                _add(merged._tasks, task, tally)
            for key, tally in rates._samples.items():
                _add(merged._samples, key, tally)
        merged.advance(max(self.tick, other.tick))
        if limit is not None:
            # A choice that does not depend on the order of merges.
            by_episodes = sorted(merged._samples, key=lambda key: (merged.episodes(*key), key))
            for key in by_episodes[: max(len(by_episodes) - limit, 0)]:
                del merged._samples[key]
        return merged

    def to_dict(self) -> dict[str, Any]:
        """The whole state as JSON-ready values; lists keep the order in which samples were met."""
        return {
            "max_samples": self.max_samples,
            "window": self.window,
            "tick": self.tick,
            "tasks": [[task, _tally_state(tally)] for task, tally in self._tasks.items()],
            "samples": [[*key, _tally_state(tally)] for key, tally in self._samples.items()],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> UsageRates:
        """Rebuilds what `to_dict` wrote. Raises ValueError if `state` is something else."""
        try:
            rates = cls(max_samples=state["max_samples"], window=state["window"])
            rates.tick = int(state["tick"])
            rates._tasks = {task: _read_tally(tally) for task, tally in state["tasks"]}
            rates._samples = {(task, sample_id): _read_tally(tally) for task, sample_id, tally in state["samples"]}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{show(state)} are not usage rates ({error!r}); expected what UsageRates.to_dict wrote. "
                "Start with new rates, UsageRates(), if there is no such state."
            ) from error
        return rates

    def __eq__(self, other: object) -> bool:
        """Whether both know the same counts, so that they will answer alike."""
        return vars(self) == vars(other) if isinstance(other, UsageRates) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        totals = {task: self._total(task, None) for task in self._tasks}
        tasks = ", ".join(f"{task}: {count.used}/{count.episodes}" for task, count in totals.items())
        return f"UsageRates({tasks or 'nothing counted'}; {len(self._samples)} samples)"

    def _total(self, task: str, sample_id: str | None) -> UsageCount:
        tally = self._tasks.get(task) if sample_id is None else self._samples.get((task, sample_id))
        total = UsageCount()
        for count in (tally or {}).values():
            total.add(count)
        return total

    def _current(self, tallies: dict[Key, Tally]) -> dict[Key, Tally]:
        """What is not out of the window."""
        if self.window is None:
            return tallies
        first = self.tick - self.window + 1
        kept = {key: {t: count for t, count in tally.items() if t >= first} for key, tally in tallies.items()}
        return {key: tally for key, tally in kept.items() if tally}


def _add(tallies: dict[Key, Tally], key: Key, new: Tally) -> None:
    """Adds to the counts of a key, which becomes the last one."""
    tally = tallies.pop(key, {})
    for tick, count in new.items():
        tally.setdefault(tick, UsageCount()).add(count)
    tallies[key] = tally


def _tally_state(tally: Tally) -> list[list[Any]]:
    return [
        [tick, vars(count) | {"by_operation": dict(count.by_operation), "probes": dict(count.probes)}]
        for tick, count in sorted(tally.items())
    ]


def _read_tally(state: Iterable[Any]) -> Tally:
    return {
        int(tick): UsageCount(
            episodes=int(count["episodes"]),
            used=int(count["used"]),
            by_operation=Counter(dict(count["by_operation"])),
            probes=Counter(dict(count["probes"])),
        )
        for tick, count in state
    }


def _check_limit(name: str, value: object, *, least: int, none: str) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ValueError(f"{name} is {value!r}; expected an int >= {least}, or None {none}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Revival:
    """Decides which rollouts are probes. Pure: equal rates and arguments give equal decisions in every process.

    A candidate becomes a probe of operation o with a probability that rises linearly as the operation dies:

        p(o) = probability * max(floor - rate(o), 0) / floor

    where rate(o) is its rate in the task, probes excluded; 0 until `min_episodes` episodes have been counted, and less
    once there were more probes than `patience`. Of several operations the largest p decides whether there is a probe,
    and it goes to o with odds p(o). Candidates are the first floor(share * group_size) rollouts of a group, which are
    exchangeable. Count with a window (`UsageRates(window=...)`): the whole past reacts too late.

    Args:
        operations: operations that may be probed.
        floor: the rate below which an operation is probed. At .05, a third of the groups of 8 hold a voluntary use
            (1 - .95^8 = .34).
        probability: that a candidate is a probe at rate 0.
        share: the largest share of a group that is probed, at most 1/2; of single episodes, their mean share.
        patience: number of counted probes of an operation from which on its p falls as patience / probes, for one that
            does not come back because it does not pay. None for no end.
        min_episodes: episodes of the task that have to be counted first. With a true rate of .05, 64 episodes show no
            use with probability .95^64 = .04.
        seed: of the decisions.

    Raises:
        ValueError: an argument is out of range.
    """

    operations: tuple[str, ...]
    floor: float = 0.05
    probability: float = 1.0
    share: float = 0.25
    patience: int | None = None
    min_episodes: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.operations, str) or not self.operations:
            raise ValueError(f"operations is {self.operations!r}; expected the names of one operation or more")
        for name, low, high in (("floor", 0.0, 1.0), ("probability", 0.0, 1.0), ("share", 0.0, MAX_SHARE)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
                raise ValueError(f"{name} is {value!r}; expected a number above {low:g}, at most {high:g}")
        for name, number in (("min_episodes", self.min_episodes), ("patience", self.patience)):
            if number is None and name == "patience":
                continue
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} is {number!r}; expected an int >= 1")

    def probe_probability(self, rates: UsageRates, task: str, operation: str) -> float:
        """Returns p(operation), the probability that a candidate is a probe of it if it is the only one."""
        rate = rates.rate(task, operation=operation)
        if rate is None or rates.episodes(task) < self.min_episodes:
            return 0.0
        tired = 1.0
        if self.patience is not None:
            tired = min(1.0, self.patience / max(rates.probes(task, operation=operation), 1))
        return self.probability * tired * max(self.floor - rate, 0.0) / self.floor

    def n_candidates(self, group_size: int) -> int:
        """Returns how many rollouts of a group may be probes: floor(share * group_size)."""
        # A share such as 1/3 is not exact: 1/3 of 3 rollouts is one.
        return math.floor(self.share * group_size + 1e-9)

    def decide(
        self,
        rates: UsageRates,
        task: str,
        sample_id: str,
        *,
        rollout: int,
        group_size: int | None = None,
        iteration: int = 0,
    ) -> str | None:
        """Returns the operation that a rollout has to begin with, or None for a rollout that is left alone.

        Args:
            rates: what was counted so far. Processes agree as far as their counts do: decide in one place.
            task: the task.
            sample_id: the sample.
            rollout: index of the rollout in its group, from 0; without groups, of the episode in its stream.
            group_size: rollouts of the group; None for single episodes, each a candidate with probability `share`.
            iteration: makes the decisions of another visit to the sample others.
        """
        if group_size is not None and rollout >= self.n_candidates(group_size):
            return None
        odds = {name: self.probe_probability(rates, task, name) for name in self.operations}
        probability = max(odds.values()) * (1.0 if group_size is not None else self.share)
        # Two numbers in [0, 1) that depend on the seed and the rollout only, on every machine.
        where = json.dumps([self.seed, task, sample_id, rollout, iteration]).encode()
        digest = hashlib.blake2b(where, digest_size=16).digest()
        whether, which = ((int.from_bytes(part, "big") >> 11) / 2**53 for part in (digest[:8], digest[8:]))
        if whether >= probability:
            return None
        rest = which * sum(odds.values())
        likely = [name for name, weight in odds.items() if weight > 0.0]
        for name in likely:
            rest -= odds[name]
            if rest < 0.0:
                return name
        # Rounding of the sum.
        return likely[-1]
