"""Every sample becomes a group, whatever dies or hangs meanwhile; what cannot be sampled is named and given up.

`sample_all` decides, without Ray, what is asked for again and who is blamed; `RunnerPool` asks env runners.

What env runners owe is asked for again, of those that are left, as long as anything comes of it. A sample is blamed

- by name, where its environment did not come back and could be interrupted, or could not show it;
- by elimination, where processes died: what was with two that died is then sampled alone.

One that is blamed `BLAMES` times is given up: another takes its place.
"""

from __future__ import annotations

import functools
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from pxr_agents.engines.vllm.arguments import EngineError
from training.faults import Fault
from training.probes import ProbePlan
from training.rllib.engines import EngineHandles
from training.rllib.env_runner import VLMEnvRunner
from training.run_directory import RESUME, LostProcessError, TrainingError
from training.watchdog import StuckEnvironmentError

# What closing environments may take before their processes are ended anyway.
_CLOSE_TIMEOUT = 10.0
# What is ready when it is asked for may still have to travel.
_SECONDS_TO_FETCH = 10.0

BLAMES = 2
"""After so many times nobody tries a sample again."""
IDLE_ATTEMPTS = 5
"""So many attempts in a row may bring nothing."""


@dataclass(kw_only=True, slots=True)
class SamplingAttempt:
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


Once = Callable[[Sequence[str], int, bool], SamplingAttempt]
"""Asks env runners for samples: which, the number of the attempt, and whether each goes to an env runner alone."""


def sample_all(
    sample_ids: Sequence[str],
    once: Once,
    *,
    another: Callable[[Sequence[str]], str],
    report: Callable[[Fault], None],
    first_attempt: int = 0,
) -> list[Any]:
    """A group of each sample, in their order; in the place of one that is given up, that of another.

    Args:
        sample_ids: the samples, all different.
        once: see `Once`.
        another: names a sample that takes the place of one that is given up, and is none of those in the batch.
        report: is told of every fault.
        first_attempt: the number of the first attempt.

    Raises:
        LostProcessError: nothing came of several attempts.
        TrainingError: more than a tenth of the samples had to be given up (and more than one).
    """
    books = _Books(list(sample_ids), another, report)
    while missing := books.missing():
        # Those that were seldom there when a process died come first: where one succeeds, processes do not die of all.
        suspects = sorted((s for s in missing if books.deaths[s] >= BLAMES), key=lambda s: books.deaths[s])
        attempt = once(suspects or missing, first_attempt + books.attempts, bool(suspects))
        books.enter(attempt, alone=bool(suspects))
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
        self, places: list[str], another: Callable[[Sequence[str]], str], report: Callable[[Fault], None]
    ) -> None:
        self.places, self._another, self._report = places, another, report
        self.done: dict[str, Any] = {}
        self.deaths: Counter[str] = Counter()
        self.attempts = 0
        self._blames: Counter[str] = Counter()
        self._given_up: dict[str, str] = {}
        self._idle, self._last = 0, ""

    def missing(self) -> list[str]:
        return [s for s in self.places if s not in self.done]

    def enter(self, attempt: SamplingAttempt, *, alone: bool) -> None:
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
        new = self._another([*self.places, *self._given_up])
        self.places[self.places.index(sample_id)] = new
        self._tell(Fault("given up", f"{sample_id} is left out, and {new} takes its place. {why}", sample_id=sample_id))

    def _tell(self, fault: Fault) -> None:
        self._last = fault.text
        self._report(fault)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingCall:
    """How groups are to be sampled.

    Attributes:
        seed: numbers that make the sampling noise unique and repeatable; the number of the env runner's part is added.
        weights_version: of the weights to sample with.
        engines: where they are, unless every env runner has its own.
        probes: which rollouts are made to begin with which operation.
    """

    seed: tuple[int, ...]
    weights_version: int
    engines: EngineHandles | None
    probes: ProbePlan


@dataclass(kw_only=True, slots=True)
class RunnerReport(SamplingAttempt):
    """What an env runner says when it is done.

    Attributes:
        part: the number of the part it was asked for.
        actor: itself, where it is remote.
        error: traceback of an exception that it would raise again. RLlib would start an env runner that raises one
            again, and again, and keep its cause to itself.
    """

    part: int
    actor: Any = None
    error: str | None = None


def sample_on(runner: VLMEnvRunner, *, sample_ids: Sequence[str], call: SamplingCall, part: int = 0) -> RunnerReport:
    """Runs where the env runner is; brings nothing if its weights are not those that were asked for."""
    report = RunnerReport(part=part, actor=ray.get_runtime_context().current_actor if runner.worker_index else None)
    try:
        if sample_ids and call.engines is not None:
            runner.connect(call.engines, call.weights_version)
        if sample_ids and runner.weights_version == call.weights_version:
            start = time.perf_counter()
            report.groups = runner.sample_groups(sample_ids, seed=call.seed, probes=call.probes)
            report.seconds = time.perf_counter() - start
    except StuckEnvironmentError as error:
        report.stuck[error.sample_id] = str(error)
    except EngineError as error:
        report.faults.append(Fault("engine", str(error)))
    except Exception:
        report.error = traceback.format_exc()
    return report


def attempt_of(reports: Sequence[RunnerReport]) -> SamplingAttempt:
    """What came of it, all in all.

    Raises:
        TrainingError: an env runner raised an exception, which it would raise again.
    """
    attempt = SamplingAttempt(seconds=max((report.seconds for report in reports), default=0.0))
    for report in reports:
        if report.error is not None:
            raise TrainingError(f"An env runner could not sample:\n{report.error}")
        attempt.groups += report.groups
        attempt.stuck |= report.stuck
        attempt.faults += report.faults
    return attempt


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """What was asked of which env runner: of the k-th of `workers` the samples in the k-th of `parts`."""

    workers: list[int]
    parts: list[list[str]]
    calls: list[Callable[[VLMEnvRunner], RunnerReport]]
    tag: str
    since: float


class RunnerPool:
    """The remote env runners of RLlib's `group`: one that has not come back after `timeout` seconds is killed and
    started again, and `restore` brings it back into service."""

    def __init__(self, group: Any, *, timeout: float, restore: Callable[[], object]) -> None:
        self._group, self._timeout, self._restore = group, timeout, restore
        self._actors: dict[int, Any] = dict(group.foreach_env_runner(_itself, local_env_runner=False))
        self._begun: _Order | None = None
        self._n_orders = 0

    def sample(self, sample_ids: Sequence[str], call: SamplingCall, *, alone: bool) -> SamplingAttempt:
        """Ask every env runner for its part of the groups, or (alone) for one at most.

        Raises:
            LostProcessError: there are none any more.
        """
        workers = self._healthy()
        if not workers:
            raise LostProcessError(f"No env runner came back within rollout_timeout={self._timeout:g} s")
        order = self._order(workers, sample_ids[: len(workers)] if alone else sample_ids, call)
        reports: list[RunnerReport] = self._group.foreach_env_runner(
            order.calls, local_env_runner=False, remote_worker_ids=workers, timeout_seconds=self._timeout
        )
        return self._attempt(order, reports)

    def begin(self, sample_ids: Sequence[str], call: SamplingCall) -> None:
        """Ask the env runners that are up for their parts of the groups, and do not wait for them."""
        self._begun = order = self._order(list(self._group.healthy_worker_ids()), sample_ids, call)
        if order.workers:
            self._group.foreach_env_runner_async(order.calls, tag=order.tag, remote_worker_ids=order.workers)

    def finish(self) -> SamplingAttempt:
        """Wait for what was begun."""
        order, self._begun = self._begun, None
        if order is None or not order.workers:
            return SamplingAttempt()
        left = self._timeout - (time.monotonic() - order.since)
        answers = self._group.fetch_ready_async_reqs(tags=order.tag, timeout_seconds=max(left, _SECONDS_TO_FETCH))
        return self._attempt(order, [report for _, report in answers])

    def close(self) -> None:
        """Let env runners close their environments, and end those that hang: RLlib would wait for them for ever.

        What was begun and not waited for is ended, too.
        """
        closed: list[int] = []
        if self._begun is None:
            closed = self._group.foreach_env_runner(_close, local_env_runner=False, timeout_seconds=_CLOSE_TIMEOUT)
        for worker, actor in self._actors.items():
            if worker not in closed:
                ray.kill(actor)

    def _order(self, workers: list[int], sample_ids: Sequence[str], call: SamplingCall) -> _Order:
        self._n_orders += 1
        parts = [list(part) for part in np.array_split(np.array(sample_ids, object), len(workers) or 1)]
        return _Order(
            workers=workers,
            parts=parts,
            calls=[functools.partial(sample_on, sample_ids=part, call=call, part=k) for k, part in enumerate(parts)],
            # An answer that comes after its timeout finds nobody who asks for it.
            tag=f"groups-{self._n_orders}",
            since=time.monotonic(),
        )

    def _attempt(self, order: _Order, reports: Sequence[RunnerReport]) -> SamplingAttempt:
        """What came of it, with references to groups that outlive env runners; those that did not answer are started
        again."""
        calls = [self._hand_over(report) if report.groups else [] for report in reports]
        lost = []
        for report, call in zip(reports, calls, strict=True):
            if not call:
                continue
            try:
                ray.get(call[0], timeout=self._timeout)
                report.groups = [replace(group, group=ref) for group, ref in zip(report.groups, call[1:], strict=True)]
            except RayError:
                report.groups = []
                how = f"env runner {order.workers[report.part]} died before it handed its groups over"
                lost.append((order.parts[report.part], how))
        answered = {report.part for report in reports}
        silent = [k for k in range(len(order.parts)) if k not in answered]
        attempt = attempt_of(reports)
        lost = [(order.parts[k], self._give_up(order.workers[k])) for k in silent] + lost
        attempt.lost = [(part, how) for part, how in lost if part]
        return attempt

    @staticmethod
    def _hand_over(report: RunnerReport) -> list[ray.ObjectRef]:
        """A receipt, and references to the groups, which belong to this process."""
        call = report.actor.hand_over.options(num_returns=1 + len(report.groups))
        references: list[ray.ObjectRef] = call.remote([group.sample_id for group in report.groups])
        return references

    def _healthy(self) -> list[int]:
        """Indices of the env runners that are up, after waiting for a restart if there is none."""
        deadline = time.monotonic() + self._timeout
        while not (healthy := list(self._group.healthy_worker_ids())) and time.monotonic() < deadline:
            time.sleep(0.5)
            self._restore()
        return healthy

    def _give_up(self, worker: int) -> str:
        if worker not in self._group.healthy_worker_ids():
            return f"env runner {worker} died"
        # It may wait in native code, or for a machine that is gone.
        ray.kill(self._actors[worker], no_restart=False)
        return f"env runner {worker} did not come back within rollout_timeout={self._timeout:g} s and was killed"


def _close(runner: VLMEnvRunner) -> int:
    runner.stop()
    return int(runner.worker_index)


def _itself(runner: VLMEnvRunner) -> tuple[int, Any]:
    return int(runner.worker_index), ray.get_runtime_context().current_actor
