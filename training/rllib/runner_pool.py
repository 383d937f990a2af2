"""Remote env runners, which sample from a common queue and send every group as it finishes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..run_directory import Fault, TrainingError
from .env_runner import SampledGroup
from .owed import SamplingAttempt
from .sample_queue import Part, SampleQueue

# What closing environments may take before their processes are ended anyway.
_CLOSE_TIMEOUT = 10.0
# What is ready when it is asked for may still have to travel.
_SECONDS_TO_FETCH = 10.0


def equal_parts(sample_ids: Sequence[str], *, n_runners: int, capacity: int) -> list[list[str]]:
    """Samples that `n_runners` env runners take at once: equally many for each, and as few times as the `capacity` of
    its environments in groups allows. What shares a batch never follows from who is faster."""
    n = n_runners * max(1, math.ceil(len(sample_ids) / (n_runners * capacity)))
    return [list(part) for part in np.array_split(np.array(sample_ids, object), n) if len(part)]


@dataclass(eq=False, slots=True)
class _Call:
    """Of an env runner, which sends a stream."""

    worker: int
    stream: Any
    heard: float


class RunnerPool:
    """Remote env runners by their index, and the queue that they sample from. One that sends nothing for `timeout`
    seconds is killed, and started again by Ray."""

    def __init__(self, actors: Mapping[int, Any], *, timeout: float) -> None:
        self._actors, self._timeout = actors, timeout
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._queue: Any = ray.remote(SampleQueue).options(num_cpus=0, scheduling_strategy=here).remote()
        self._calls: list[_Call] = []
        self.under_way: set[str] = set()

    @property
    def busy(self) -> bool:
        return bool(self._calls)

    def set_weights(self, version: int, weights: list[ray.ObjectRef]) -> None:
        """Env runners have them before they begin with another part."""
        ray.get(self._queue.set_weights.remote(version, weights))

    def begin(self, parts: Sequence[Part], engines: Any, *, refill: bool) -> None:
        """Put parts into the queue and let all env runners take them, without waiting. One that is not up misses it."""
        ray.get(self._queue.put.remote(list(parts)))
        self.under_way.update(sample_id for part in parts for sample_id in part.sample_ids)
        for worker, actor in self._actors.items():
            if sum(call.worker == worker for call in self._calls) > 1:
                # The second one begins where the first finds the queue empty.
                continue
            stream = actor.sample_from.options(num_returns="streaming").remote(self._queue, engines, refill=refill)
            self._calls.append(_Call(worker, stream, time.monotonic()))

    def cancel(self) -> None:
        """Stop all that was begun: env runners notice it at their next turn."""
        for call in self._calls:
            ray.cancel(call.stream)
        self._calls = []
        self._settle()

    def poll(self, attempt: SamplingAttempt) -> None:
        """Wait until something comes, and add it to the attempt."""
        streams, asked = [call.stream for call in self._calls], time.monotonic()
        # While nobody listened, nobody could be heard.
        until = max(min(call.heard for call in self._calls) + self._timeout, asked + _SECONDS_TO_FETCH)
        ready = ray.wait(streams, timeout=until - asked, fetch_local=False)[0]
        if ready:
            ready = ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)[0]
        for call in list(self._calls):
            if call.stream in ready and call in self._calls:
                self._read(call, attempt)
        if not ready:
            silent = min(self._calls, key=lambda call: call.heard)
            # It may wait in native code, or for a machine that is gone.
            ray.kill(self._actors[silent.worker], no_restart=False)
            limit = f"rollout_timeout={self._timeout:g} s"
            self._lose(silent, f"env runner {silent.worker} did not come back within {limit} and was killed", attempt)
        if not self._calls:
            self._settle()

    def _settle(self) -> None:
        """Nothing is under way."""
        ray.get(self._queue.clear.remote())
        self.under_way.clear()

    def _read(self, call: _Call, attempt: SamplingAttempt) -> None:
        """What has come from an env runner: two values, of which the first may be a group, none at its end."""
        values = list(islice(call.stream, 2))
        for each in self._calls:
            if each.worker == call.worker:
                each.heard = time.monotonic()
        if not values:
            self._calls.remove(call)
            return
        try:
            piece = ray.get(values[-1])
        except RayTaskError as error:
            # It is well; its environment could not be made anew, or gave something that cannot be sent.
            raise TrainingError(f"An env runner could not sample:\n{error}") from error
        except RayError:
            self._lose(call, f"env runner {call.worker} died", attempt)
            return
        if isinstance(piece, SampledGroup):
            piece = replace(piece, group=values[0])
            self.under_way.discard(piece.sample_id)
        elif isinstance(piece, Fault) and piece.sample_id is not None and piece.kind == "engine":
            self.under_way.discard(piece.sample_id)
        elif isinstance(piece, Fault):
            self.under_way.difference_update(self._begun_by(call.worker))
        attempt.add(piece)

    def _lose(self, call: _Call, how: str, attempt: SamplingAttempt) -> None:
        self._calls = [each for each in self._calls if each.worker != call.worker]
        attempt.workers.add(call.worker)
        # One that was not up has begun nothing.
        if lost := self._begun_by(call.worker):
            attempt.lost.append((lost, how))
            self.under_way.difference_update(lost)

    def _begun_by(self, worker: int) -> list[str]:
        """What an env runner that stops has begun and not finished."""
        taken: list[str] = ray.get(self._queue.release.remote(worker))
        return [sample_id for sample_id in dict.fromkeys(taken) if sample_id in self.under_way]

    def close(self) -> None:
        """Let env runners close their environments, and end those that hang: RLlib would wait for them for ever.

        What was begun and not waited for is ended, too.
        """
        closing = {} if self._calls else {actor.stop.remote(): worker for worker, actor in self._actors.items()}
        done = ray.wait(list(closing), num_returns=len(closing), timeout=_CLOSE_TIMEOUT)[0] if closing else []
        for worker in set(self._actors) - {closing[call] for call in done}:
            ray.kill(self._actors[worker])
        ray.kill(self._queue)
