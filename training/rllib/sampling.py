"""Every sample becomes a group, whatever dies or hangs meanwhile; what cannot be sampled is named and given up.

What env runners owe is asked for again, of those that are left, as long as anything comes of it. A sample is blamed

- by name, where its environment did not come back and could be interrupted, or could not show it;
- by elimination, where processes died: what was with two that died is then sampled alone.

One that is blamed `BLAMES` times is given up: another takes its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from training.errors import RESUME, LostProcessError, TrainingError
from training.faults import Fault

BLAMES = 2
"""After so many times nobody tries a sample again."""
IDLE_ATTEMPTS = 5
"""So many attempts in a row may bring nothing."""


class HasSampleId(Protocol):
    """A group, or what stands for one."""

    @property
    def sample_id(self) -> str: ...


@dataclass(kw_only=True, slots=True)
class Attempt:
    """What came of asking for groups once.

    Attributes:
        groups: those that are there, and stay whatever dies from now on.
        stuck: samples whose environment did not come back, or could not show them, with what is known of it.
        lost: of each env runner that did not come back, what it was sampling, with how it was lost.
        faults: what else went wrong.
        seconds: what the env runner took that was at it longest.
    """

    groups: list[Any] = field(default_factory=list)
    stuck: dict[str, str] = field(default_factory=dict)
    lost: list[tuple[list[str], str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0


Once = Callable[[Sequence[str], int, bool], Attempt]
"""Asks env runners for samples: which, the number of the attempt, and whether each goes to an env runner alone."""


def sample_all(
    sample_ids: Sequence[str],
    once: Once,
    *,
    replace: Callable[[Sequence[str]], str],
    report: Callable[[Fault], None],
    first_attempt: int = 0,
) -> list[Any]:
    """A group of each sample, in their order; in the place of one that is given up, that of another.

    Args:
        sample_ids: the samples, all different.
        once: see `Once`.
        replace: names a sample that takes the place of one that is given up, and is none of those in the batch.
        report: is told of every fault.
        first_attempt: the number of the first attempt.

    Raises:
        LostProcessError: nothing came of several attempts.
        TrainingError: more than a tenth of the samples had to be given up (and more than one).
    """
    books = _Books(list(sample_ids), replace, report)
    while missing := books.missing():
        # Those that were seldom there when a process died come first: where one succeeds, processes do not die of all.
        suspects = sorted((s for s in missing if books.deaths[s] >= BLAMES), key=lambda s: books.deaths[s])
        books.enter(once(suspects or missing, books.attempts, bool(suspects)), alone=bool(suspects))
    return [books.done[s] for s in books.places]


class _Books:
    """What is there, what is owed, and who is blamed for it.

    Attributes:
        places: the samples of the batch, with those that took the place of others.
        done: their groups.
        deaths: how many processes died while they had a sample.
        attempts: how many there were.
    """

    def __init__(
        self, places: list[str], replace: Callable[[Sequence[str]], str], report: Callable[[Fault], None]
    ) -> None:
        self.places, self._replace, self._report = places, replace, report
        self.done: dict[str, Any] = {}
        self.deaths: Counter[str] = Counter()
        self.attempts = 0
        self._blames: Counter[str] = Counter()
        self._given_up: dict[str, str] = {}
        self._idle, self._last = 0, ""

    def missing(self) -> list[str]:
        return [s for s in self.places if s not in self.done]

    def enter(self, attempt: Attempt, *, alone: bool) -> None:
        """Write down what came of an attempt; alone says that each sample had a process to itself.

        Raises:
            LostProcessError, TrainingError: as `sample_all`.
        """
        self.attempts += 1
        given_up_before = len(self._given_up)
        self.done |= {group.sample_id: group for group in attempt.groups}
        blamed = dict(attempt.stuck)
        for part, how in attempt.lost:
            self.deaths.update(part)
            self._tell(Fault("env runner", f"{how}; its samples are sampled again: {', '.join(part)}"))
            self._last = how
            if alone and len(part) == 1 and self.done:
                blamed[part[0]] = f"Alone with {part[0]}, {how}."
        for fault in attempt.faults:
            self._tell(fault)
        for sample_id, why in blamed.items():
            self._blame(sample_id, why)
        self._idle = 0 if attempt.groups or len(self._given_up) > given_up_before else self._idle + 1
        if self._idle >= IDLE_ATTEMPTS:
            raise LostProcessError(
                f"{len(self.missing())} of {len(self.places)} groups could not be sampled in {self.attempts} attempts"
                f"{f' ({self._last})' if self._last else ''}"
            )

    def _blame(self, sample_id: str, why: str) -> None:
        self._tell(Fault("stuck", why, sample_id=sample_id))
        self._blames[sample_id] += 1
        if self._blames[sample_id] < BLAMES or sample_id not in self.places:
            return
        self._given_up[sample_id] = why
        if len(self._given_up) > max(1, len(self.places) // 10):
            raise TrainingError(
                f"{len(self._given_up)} of {len(self.places)} samples of this iteration could not be sampled: "
                f"{', '.join(self._given_up)}. {' '.join(self._given_up.values())} Repair the environment or "
                f"its data, or raise env_timeout. The newest checkpoint is whole. {RESUME}"
            )
        new = self._replace([*self.places, *self._given_up])
        self.places[self.places.index(sample_id)] = new
        self._tell(Fault("given up", f"{sample_id} is left out, and {new} takes its place. {why}", sample_id=sample_id))

    def _tell(self, fault: Fault) -> None:
        self._last = fault.text
        self._report(fault)
