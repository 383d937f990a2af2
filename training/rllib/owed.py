"""Which samples' groups are there, which are asked for again, and who is blamed: without Ray.

A sample is blamed by name, where its environment did not come back and could be interrupted, or could not show it; or
by elimination, where processes died: what was with two that died is then sampled alone. One that is blamed `BLAMES`
times is given up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..run_directory import RESUME, Fault, LostProcessError, TrainingError
from .env_runner import SampledGroup

BLAMES = 2
"""After so many times nobody tries a sample again."""
IDLE_ATTEMPTS = 5
"""So many attempts in a row may bring nothing."""


@dataclass(kw_only=True, slots=True)
class SamplingAttempt:
    """What came of asking for groups, of one env runner or of all.

    Attributes:
        groups: those that are there, and stay whatever process dies from now on.
        lost: of each env runner that did not come back, what it was sampling, with how it was lost.
        workers: the env runners that did not come back.
        faults: what else went wrong; those of a sample's environment are "stuck".
        seconds: what the env runner took that was at it longest.
    """

    groups: list[Any] = field(default_factory=list)
    lost: list[tuple[list[str], str]] = field(default_factory=list)
    workers: set[int] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, piece: SampledGroup | Fault | TrainingError | float | None) -> None:
        """Add a piece of `VLMEnvRunner.sample_from`; raises what is an error."""
        if isinstance(piece, SampledGroup):
            self.groups.append(piece)
        elif isinstance(piece, Fault):
            self.faults.append(piece)
        elif isinstance(piece, TrainingError):
            raise piece
        elif piece is not None:
            self.seconds = max(self.seconds, piece)

    def __bool__(self) -> bool:
        return bool(self.groups or self.lost or self.faults)


class Owed:
    """Samples whose groups are to be trained on: which groups are there, which are owed, and who is blamed for it.

    Args:
        another: names a sample that takes the place of one that is given up, and is none of those it is told.
        report: is told of every fault.

    Attributes:
        samples: all different, in the order in which they came, with those that took the place of others.
        done: the groups that are there, in the order in which they were finished.
    """

    def __init__(self, *, another: Callable[[Sequence[str]], str], report: Callable[[Fault], None]) -> None:
        self._another, self._report = another, report
        self.samples: list[str] = []
        self.done: dict[str, Any] = {}
        self._deaths: Counter[str] = Counter()
        self._blames: Counter[str] = Counter()
        self._given_up: dict[str, str] = {}
        self._idle, self._last = 0, ""

    def missing(self) -> list[str]:
        return [sample_id for sample_id in self.samples if sample_id not in self.done]

    def suspects(self) -> list[str]:
        """Missing ones that were with several processes that died. Those that were seldom there come first: where one
        succeeds, processes do not die of all."""
        found = [sample_id for sample_id in self.missing() if self._deaths[sample_id] >= BLAMES]
        return sorted(found, key=lambda sample_id: self._deaths[sample_id])

    def enter(self, attempt: SamplingAttempt, *, alone: bool) -> None:
        """Write down what came of an attempt; alone says that each sample had a process to itself.

        Raises:
            LostProcessError: nothing came of several attempts.
            TrainingError: more than a tenth of the samples had to be given up (and more than one).
        """
        given_up_before = len(self._given_up)
        self.done |= {group.sample_id: group for group in attempt.groups if group.sample_id in self.samples}
        blamed = {fault.sample_id: fault.text for fault in attempt.faults if fault.kind == "stuck" and fault.sample_id}
        for part, how in attempt.lost:
            self._deaths.update(part)
            self._tell(Fault("env runner", f"{how}; its samples are sampled again: {', '.join(part)}"))
            self._last = how
            if alone and len(part) == 1 and self.done:
                blamed[part[0]] = f"Alone with {part[0]}, {how}."
        for fault in attempt.faults:
            if fault.kind != "stuck":
                self._tell(fault)
        for sample_id, why in blamed.items():
            self._blame(sample_id, why)
        self._idle = 0 if attempt.groups or len(self._given_up) > given_up_before else self._idle + 1
        if self._idle >= IDLE_ATTEMPTS:
            raise LostProcessError(
                f"{len(self.missing())} of {len(self.samples)} groups could not be sampled in {self._idle} attempts"
                f"{f' ({self._last})' if self._last else ''}"
            )

    def remove(self, samples: Sequence[str]) -> None:
        """They had their turn."""
        self.samples = [sample_id for sample_id in self.samples if sample_id not in samples]
        for sample_id in samples:
            self.done.pop(sample_id, None)
            del self._deaths[sample_id], self._blames[sample_id]
        self._given_up.clear()
        self._idle = 0

    def drop_older(self, weights_version: int, max_staleness: int) -> int:
        """Groups that are too old are owed again; returns how many."""
        ages = {sample_id: group.staleness(weights_version) for sample_id, group in self.done.items()}
        old = [sample_id for sample_id, age in ages.items() if age > max_staleness]
        for sample_id in old:
            del self.done[sample_id]
        if old:
            text = f"Groups are more than {max_staleness} versions old and are sampled again: {', '.join(old)}"
            self._tell(Fault("too old", text))
        return len(old)

    def _blame(self, sample_id: str, why: str) -> None:
        self._tell(Fault("stuck", why, sample_id=sample_id))
        self._blames[sample_id] += 1
        if self._blames[sample_id] < BLAMES or sample_id not in self.samples:
            return
        self._given_up[sample_id] = why
        if len(self._given_up) > max(1, len(self.samples) // 10):
            raise TrainingError(
                f"{len(self._given_up)} of {len(self.samples)} samples of this iteration could not be sampled: "
                f"{', '.join(self._given_up)}. {' '.join(self._given_up.values())} Repair the environment or "
                f"its data, or raise env_timeout. The newest checkpoint is whole. {RESUME}"
            )
        new = self._another([*self.samples, *self._given_up])
        self.samples[self.samples.index(sample_id)] = new
        self._tell(Fault("given up", f"{sample_id} is left out, and {new} takes its place. {why}", sample_id=sample_id))

    def _tell(self, fault: Fault) -> None:
        self._last = fault.text
        self._report(fault)
