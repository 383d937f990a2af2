"""How often pixel operations are used: integer counts of finished episodes by task, sample and operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pxr_env.errors import show

Key = TypeVar("Key")


@dataclass(kw_only=True, slots=True)
class UsageCount:
    """What was counted of some episodes.

    Args:
        episodes: those in which the policy chose by itself.
        used: those of them that used any operation.
        by_operation: operation -> those of them that used it.
        probes: operation -> episodes that were forced to begin with it; they are not among `episodes`.
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

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON-ready values."""
        counts = {"episodes": self.episodes, "used": self.used}
        return counts | {"by_operation": dict(self.by_operation), "probes": dict(self.probes)}


#: Counts by tick; without a window they are all kept under tick 0.
Tally = dict[int, UsageCount]


class UsageRates:
    """How often operations are used: counts of finished episodes by sample, task and operation.

    The rate of an operation in a task (or a sample) is

        rate = sum of used(t) / sum of episodes(t)    over the ticks t with  tick - window < t <= tick

    where used(t) counts the episodes of tick t that executed the operation at least once; without a window both sums
    go over the whole past. A tick is whatever `advance` says, as a rule the training iteration.

    Why a window: over the whole past, an operation that was used by 20% of 10,000 episodes and then never again falls
    below 5% only 30,000 episodes later; a window of W ticks has noticed after at most W. Counts are integers, so that
    merging is exact in every order and grouping.

    Memory: per task `window` counts; per sample the same, for at most `max_samples` samples: the ones met last (after
    `merge`, those with most episodes). A forgotten sample starts again at 0; counts of tasks stay exact.

    Args:
        max_samples: number of samples whose own counts are kept, over all tasks; None for all.
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
        """Share of the episodes of a sample (of a task without `sample_id`) that used `operation`, or any operation.
        None if no such episode has been counted."""
        total = self._total(task, sample_id)
        if total.episodes == 0:
            return None
        return (total.used if operation is None else total.by_operation[operation]) / total.episodes

    def episodes(self, task: str, sample_id: str | None = None) -> int:
        """Number of episodes counted for a sample (for a task without `sample_id`), probes excluded."""
        return self._total(task, sample_id).episodes

    def probes(self, task: str, sample_id: str | None = None, *, operation: str | None = None) -> int:
        """Number of probes counted for a sample (for a task without `sample_id`), of one operation or of all."""
        probes = self._total(task, sample_id).probes
        return probes.total() if operation is None else probes[operation]

    def merge(self, other: UsageRates) -> UsageRates:
        """Returns the counts of both, changing neither, such as those of two processes. Order and grouping of merges do
        not matter as long as the samples fit. Of two limits of samples the larger holds, and None is the largest.

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
        if not isinstance(other, UsageRates):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in vars(self))

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
    return [[tick, count.to_dict()] for tick, count in sorted(tally.items())]


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
