"""The env runners of a run, asked for groups: which of them came back with what, and which have to be started again."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from pxr_agents.engines.vllm.errors import EngineError
from training.errors import LostProcessError, TrainingError
from training.faults import Fault
from training.probes import ProbePlan
from training.rllib.env_runner import SampledGroup, VLMEnvRunner
from training.rllib.remote_engine import EngineHandles
from training.rllib.sampling import Attempt
from training.watchdog import StuckEnvironmentError

# What closing environments may take before their processes are ended anyway.
_CLOSE_TIMEOUT = 10.0
# What is ready when it is asked for may still have to travel.
_SECONDS_TO_FETCH = 10.0


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


@dataclass(frozen=True, kw_only=True, slots=True)
class RunnerReport:
    """What an env runner says when it is done.

    Attributes:
        part: the number of the part it was asked for.
        groups: what it sampled; nothing if its weights are old.
        actor: itself, where it is remote.
        stuck: the sample whose environment did not come back, and what is known of it.
        engine_error: why its engine, or those it shares, did not complete its turns.
        error: traceback of any other exception. RLlib would start an env runner that raises one again, and again, and
            keep its cause to itself.
        seconds: what sampling took.
    """

    part: int
    groups: list[SampledGroup]
    actor: Any = None
    stuck: tuple[str, str] | None = None
    engine_error: str | None = None
    error: str | None = None
    seconds: float = 0.0


def sample_on(runner: VLMEnvRunner, *, sample_ids: Sequence[str], call: SamplingCall, part: int = 0) -> RunnerReport:
    """Runs where the env runner is."""
    actor = ray.get_runtime_context().current_actor if runner.worker_index else None
    nothing = RunnerReport(part=part, groups=[], actor=actor)
    if not sample_ids:
        return nothing
    try:
        if call.engines is not None:
            runner.connect(call.engines)
        if runner.weights_version != call.weights_version:
            return nothing
        start = time.perf_counter()
        groups = runner.sample_groups(sample_ids, seed=call.seed, probes=call.probes)
        return replace(nothing, groups=groups, seconds=time.perf_counter() - start)
    except StuckEnvironmentError as error:
        return replace(nothing, stuck=(error.sample_id, str(error)))
    except EngineError as error:
        return replace(nothing, engine_error=str(error))
    except Exception:
        return replace(nothing, error=traceback.format_exc())


def attempt_of(reports: Sequence[RunnerReport]) -> Attempt:
    """What came of it, all in all.

    Raises:
        TrainingError: an env runner raised an exception, which it would raise again.
    """
    attempt = Attempt(seconds=max((report.seconds for report in reports), default=0.0))
    for report in reports:
        if report.error is not None:
            raise TrainingError(f"An env runner could not sample:\n{report.error}")
        attempt.groups += report.groups
        if report.stuck is not None:
            attempt.stuck[report.stuck[0]] = report.stuck[1]
        if report.engine_error is not None:
            attempt.faults.append(Fault("engine", report.engine_error))
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
    """Remote env runners.

    Args:
        group: RLlib's.
        timeout: seconds after which one that has not come back is killed, and started again.
        restore: brings those back into service that were started again.
    """

    def __init__(self, group: Any, *, timeout: float, restore: Callable[[], object]) -> None:
        self._group, self._timeout, self._restore = group, timeout, restore
        self._actors: dict[int, Any] = dict(group.foreach_env_runner(_itself, local_env_runner=False))
        self._begun: _Order | None = None
        self._n_orders = 0

    def sample(self, sample_ids: Sequence[str], call: SamplingCall, *, alone: bool) -> Attempt:
        """Ask every env runner for its part of the groups, or (alone) for one at most.

        Raises:
            TrainingError: as `attempt_of`.
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

    def finish(self) -> Attempt:
        """Wait for what was begun.

        Raises:
            TrainingError: as `attempt_of`.
        """
        order, self._begun = self._begun, None
        if order is None or not order.workers:
            return Attempt()
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

    def _attempt(self, order: _Order, reports: Sequence[RunnerReport]) -> Attempt:
        """What came of it; env runners that did not answer are started again."""
        silent = [k for k in range(len(order.parts)) if k not in {report.part for report in reports}]
        kept, dropped = self._take(reports)
        attempt = attempt_of(kept)
        for k in silent:
            attempt.lost.append((order.parts[k], self._give_up(order.workers[k])))
        attempt.lost += [
            (order.parts[k], f"env runner {order.workers[k]} died before it handed its groups over") for k in dropped
        ]
        attempt.lost = [(part, how) for part, how in attempt.lost if part]
        return attempt

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

    def _take(self, reports: Sequence[RunnerReport]) -> tuple[list[RunnerReport], list[int]]:
        """Reports with references to their groups that outlive the env runners; and the parts that were lost."""
        calls = {
            report.part: report.actor.hand_over.options(num_returns=1 + len(report.groups)).remote(
                [group.sample_id for group in report.groups]
            )
            for report in reports
            if report.groups
        }
        kept, dropped = [], []
        for report in reports:
            if report.part in calls:
                receipt, *references = calls[report.part]
                try:
                    ray.get(receipt, timeout=self._timeout)
                except RayError:
                    dropped.append(report.part)
                    continue
                groups = [replace(group, group=ref) for group, ref in zip(report.groups, references, strict=True)]
                report = replace(report, groups=groups)
            kept.append(report)
        return kept, dropped


def _close(runner: VLMEnvRunner) -> int:
    runner.stop()
    return int(runner.worker_index)


def _itself(runner: VLMEnvRunner) -> tuple[int, Any]:
    return int(runner.worker_index), ray.get_runtime_context().current_actor
