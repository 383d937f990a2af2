"""Every sample becomes a group, whatever dies or hangs meanwhile; what cannot be sampled is named and given up.

What env runners owe is asked for again, of those that are left, as long as anything comes of it. A sample is blamed

- by name, where its environment did not come back and could be interrupted;
- by elimination, where processes died: what was with two that died is then sampled alone.

One that is blamed `BLAMES` times is given up: another takes its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from training.errors import RESUME, LostProcessError, TrainingError
from training.fault_log import Fault

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
        stuck: samples whose environment did not come back, with what is known of it.
        lost: of each env runner that did not come back, what it was sampling, with how it was lost.
        faults: what else went wrong.
    """

    groups: list[Any] = field(default_factory=list)
    stuck: dict[str, str] = field(default_factory=dict)
    lost: list[tuple[list[str], str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


Once = Callable[[Sequence[str], int, bool], Attempt]
"""Asks env runners for samples: which, the number of the attempt, and whether each goes to an env runner alone."""


def sample_all(
    sample_ids: Sequence[str], once: Once, *, replace: Callable[[Sequence[str]], str], report: Callable[[Fault], None]
) -> list[Any]:
    """A group of each sample, in their order.

    Args:
        sample_ids: the samples, all different.
        once: see `Once`.
        replace: names a sample that takes the place of one that is given up, and is none of those in the batch.
        report: is told of every fault.

    Raises:
        LostProcessError: nothing came of several attempts.
        TrainingError: more than a tenth of the samples had to be given up (and more than one).
    """
    places, done = list(sample_ids), dict[str, Any]()
    blames, deaths, given_up = Counter[str](), Counter[str](), dict[str, str]()
    idle, attempt, last = 0, 0, ""
    while missing := [s for s in places if s not in done]:
        # Those that were seldom there when a process died come first: where one succeeds, processes do not die of all.
        suspects = sorted((s for s in missing if deaths[s] >= BLAMES), key=lambda s: deaths[s])
        asked = suspects or missing
        result = once(asked, attempt, bool(suspects))
        attempt, already = attempt + 1, len(given_up)
        done |= {group.sample_id: group for group in result.groups}
        blamed = dict(result.stuck)
        for sample_ids_with_it, how in result.lost:
            deaths.update(sample_ids_with_it)
            if suspects and len(sample_ids_with_it) == 1 and done:
                blamed[sample_ids_with_it[0]] = f"Alone with {sample_ids_with_it[0]}, {how}."
            report(Fault("env runner", f"{how}; its samples are sampled again: {', '.join(sample_ids_with_it)}"))
            last = how
        for fault in result.faults:
            report(fault)
            last = fault.text
        blames.update(blamed.keys())
        for sample_id, why in blamed.items():
            last = why
            report(Fault("stuck", why, sample_id=sample_id))
            if blames[sample_id] >= BLAMES and sample_id in places:
                given_up[sample_id] = why
                _check_share(given_up, len(places))
                new = replace([*places, *given_up])
                places[places.index(sample_id)] = new
                report(
                    Fault("given up", f"{sample_id} is left out, and {new} takes its place. {why}", sample_id=sample_id)
                )
        idle = 0 if result.groups or len(given_up) > already else idle + 1
        if idle >= IDLE_ATTEMPTS:
            raise LostProcessError(
                f"{len(missing)} of {len(places)} groups could not be sampled in {attempt} attempts"
                f"{f' ({last})' if last else ''}. The newest checkpoint is whole. {RESUME}"
            )
    return [done[s] for s in places]


def _check_share(given_up: dict[str, str], n: int) -> None:
    if len(given_up) > max(1, n // 10):
        reasons = " ".join(given_up.values())
        raise TrainingError(
            f"{len(given_up)} of {n} samples of this iteration could not be sampled: {', '.join(given_up)}. {reasons} "
            f"Repair the environment, or raise env_timeout. The newest checkpoint is whole. {RESUME}"
        )
