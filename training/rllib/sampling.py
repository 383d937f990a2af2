"""Every sample becomes a group, whatever dies or hangs meanwhile; what cannot be sampled is named and given up.

`sample_all` decides, without Ray, what is asked for again and who is blamed; `RunnerPool` asks env runners; `Sampler`
has the groups of every iteration.

What env runners owe is asked for again, of those that are left, as long as anything comes of it. A sample is blamed by
name, where its environment did not come back and could be interrupted, or could not show it; or by elimination, where
processes died: what was with two that died is then sampled alone. One that is blamed `BLAMES` times is given up.

With `max_staleness = 1` env runners sample the next groups while learners work at these:

    iteration          1                  2                3
    env runners   | 1 || 2        |  | 3         |  |              ...
    learners           | 1    |      | 2     |      | 3     |
    weights       0                  1              2              3

They are begun with the weights that the iteration starts from, and waited for before the new ones leave the learners:
every episode has one version, one older than the weights that it trains. Between iterations nothing is under way, so a
checkpoint holds everything.
"""

from __future__ import annotations

import contextlib
import pickle
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from training.config import PPORecipe
from training.ppo_run import Books
from training.rllib.engines import EngineGroup
from training.rllib.env_runner import (
    SampledGroup,
    SamplingAttempt,
    SamplingCall,
    VLMEnvRunner,
    sample_apart,
    sample_on,
)
from training.run_directory import RESUME, Fault, LostProcessError, TrainingError

AHEAD = "ahead"
"""Folder of a checkpoint with the groups that were sampled for the next iteration, one file each."""
BLAMES = 2
"""After so many times nobody tries a sample again."""
IDLE_ATTEMPTS = 5
"""So many attempts in a row may bring nothing."""

# What closing environments may take before their processes are ended anyway.
_CLOSE_TIMEOUT = 10.0
# What is ready when it is asked for may still have to travel.
_SECONDS_TO_FETCH = 10.0
# Attempts at a group count on where it was sampled ahead: noise never comes twice.
_LATER_ATTEMPTS = 1000


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
    batch = _Batch(list(sample_ids), another, report)
    while missing := batch.missing():
        # Those that were seldom there when a process died come first: where one succeeds, processes do not die of all.
        suspects = sorted((s for s in missing if batch.deaths[s] >= BLAMES), key=lambda s: batch.deaths[s])
        attempt = once(suspects or missing, first_attempt + batch.attempts, bool(suspects))
        batch.enter(attempt, alone=bool(suspects))
    return [batch.done[s] for s in batch.places]


class _Batch:
    """What is there, what is owed, and who is blamed for it.

    Attributes:
        places: the samples, with those that took the place of others.
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
        self.attempts = self._idle = 0
        self._blames: Counter[str] = Counter()
        self._given_up: dict[str, str] = {}
        self._last = ""

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


class RunnerPool:
    """The remote env runners of RLlib's `group`: one that has not come back after `timeout` seconds is killed and
    started again, and `restore` brings it back into service."""

    def __init__(self, group: Any, *, timeout: float, restore: Callable[[], object]) -> None:
        self._group, self._timeout, self._restore = group, timeout, restore
        # RLlib's group hands out no actors, and its own calls bring one result each; here every group is one.
        self._manager = group._worker_manager
        # Env runner -> what it was asked for, and references to an attempt and its groups.
        self._calls: dict[int, tuple[list[str], list[ray.ObjectRef]]] = {}
        self._since = 0.0

    def sample(self, sample_ids: Sequence[str], call: SamplingCall, *, alone: bool) -> SamplingAttempt:
        """Ask every env runner for its part of the groups, or (alone) for one at most.

        Raises:
            LostProcessError: there are none any more.
        """
        deadline = time.monotonic() + self._timeout
        while not (workers := self._group.healthy_worker_ids()):
            if time.monotonic() > deadline:
                raise LostProcessError(f"No env runner came back within rollout_timeout={self._timeout:g} s")
            time.sleep(0.5)
            self._restore()
        self.begin(sample_ids[: len(workers)] if alone else sample_ids, call)
        return self.finish()

    def begin(self, sample_ids: Sequence[str], call: SamplingCall) -> None:
        """Ask the env runners that are up for their parts of the groups, and do not wait for them."""
        workers, actors = self._group.healthy_worker_ids(), self._manager.actors()
        parts = np.array_split(np.array(sample_ids, object), len(workers) or 1)
        self._calls, self._since = {}, time.monotonic()
        for worker, samples in zip(workers, parts, strict=False):
            if part := list(samples):
                remote = actors[worker].apply.options(num_returns=1 + len(part))
                self._calls[worker] = part, remote.remote(sample_apart, sample_ids=part, call=call)

    def finish(self) -> SamplingAttempt:
        """Wait for what was begun. Env runners that did not answer are started again."""
        calls, self._calls = self._calls, {}
        attempt = SamplingAttempt()
        firsts = [references[0] for _, references in calls.values()]
        left = max(self._timeout - (time.monotonic() - self._since), _SECONDS_TO_FETCH)
        ready = ray.wait(firsts, num_returns=len(firsts), timeout=left)[0] if firsts else []
        for worker, (part, (first, *groups)) in calls.items():
            how = f"env runner {worker} died"
            if first in ready:
                try:
                    answer: SamplingAttempt = ray.get(first)
                except RayError:
                    pass
                else:
                    answer.groups = [replace(s, group=ref) for s, ref in zip(answer.groups, groups, strict=False)]
                    attempt.add(answer)
                    continue
            else:
                # It may wait in native code, or for a machine that is gone.
                ray.kill(self._manager.actors()[worker], no_restart=False)
                how = f"env runner {worker} did not come back within rollout_timeout={self._timeout:g} s and was killed"
            self._manager.set_actor_state(worker, healthy=False)
            attempt.lost.append((part, how))
        return attempt

    def close(self) -> None:
        """Let env runners close their environments, and end those that hang: RLlib would wait for them for ever.

        What was begun and not waited for is ended, too.
        """
        closed: list[int] = []
        if not self._calls:
            closed = self._group.foreach_env_runner(_close, local_env_runner=False, timeout_seconds=_CLOSE_TIMEOUT)
        for worker, actor in self._manager.actors().items():
            if worker not in closed:
                ray.kill(actor)


def _close(runner: VLMEnvRunner) -> int:
    runner.stop()
    return int(runner.worker_index)


class Sampler:
    """The groups of every iteration, and with `max_staleness` of the next one.

    Args:
        recipe, books: of the run; who is left out is written into the books.
        local, runners: the env runner of this process, and RLlib's group of remote ones.
        engines: which sample, unless env runners do.
        make_ready: brings env runners that were started again into service, and gives all the weights of now.

    Attributes:
        weights_version: of the weights that are sampled with from now on. Who samples is told it with every call, and
            refuses if it has other weights.
    """

    def __init__(
        self,
        recipe: PPORecipe,
        books: Books,
        local: VLMEnvRunner,
        runners: Any,
        *,
        engines: EngineGroup | None,
        make_ready: Callable[[], object],
    ) -> None:
        self._recipe, self._books, self._local, self._engines = recipe, books, local, engines
        self._make_ready = make_ready
        self._runners = RunnerPool(runners, timeout=recipe.rollout_timeout, restore=make_ready)
        self.weights_version = 0
        self._iteration = 0
        # What the next iteration owes, of that what is there, and whether the rest is under way.
        self._ids: list[str] = []
        self._ready: list[SampledGroup] = []
        self._begun = False
        self._metrics: dict[str, float] = {}

    def groups(self, iteration: int) -> list[SampledGroup]:
        """The groups to train in an iteration (from 0): those that were sampled ahead, or freshly sampled ones.

        Groups that are lost, or older than `max_staleness` allows, are sampled again with the weights of now.
        """
        self._iteration, start = iteration, time.perf_counter()
        ahead, version = bool(self._ids), self.weights_version
        ids = self._ids or self._books.cursor.take(self._recipe.groups_per_iteration)
        kept = {each.sample_id: each for each in self._ready if each.staleness(version) <= self._recipe.max_staleness}
        missing = [sample_id for sample_id in ids if sample_id not in kept]
        # Not by their own names: a sample that was given up has another in its place.
        kept |= zip(missing, self.sample(missing, first_attempt=_LATER_ATTEMPTS if ahead else 0), strict=True)
        waited = time.perf_counter() - start
        groups = [kept[sample_id] for sample_id in ids]
        ages = [group.staleness(version) for group in groups]
        self._metrics = {
            "async/staleness_mean": float(np.mean(ages)),
            "async/staleness_max": float(max(ages)),
            "async/resampled": float(len(missing) if ahead else 0),
            "seconds/sample": waited if missing else 0.0,
            "seconds/wait": waited,
        }
        self._ids, self._ready = [], []
        return groups

    def begin(self) -> None:
        """Let env runners start with the groups of the iteration after this one, unless this is the last."""
        if self._recipe.max_staleness and self._iteration + 1 < self._recipe.iterations:
            self._ids, self._begun = self._books.cursor.take(self._recipe.groups_per_iteration), True
            self._iteration += 1
            self._runners.begin(self._ids, self._call(self._ids, 0))

    def finish(self) -> None:
        """Wait for what was begun; what a lost env runner owed is sampled by the others, with the same weights."""
        if self._begun:
            start = time.perf_counter()
            attempt = self._runners.finish()
            self._ready = self.sample(self._ids, begun=attempt)
            self._ids, self._begun = [group.sample_id for group in self._ready], False
            self._metrics["seconds/sample"] += attempt.seconds
            self._metrics["seconds/wait"] += time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """Numbers of the iteration, nothing where nothing is sampled ahead.

        `async/staleness_mean` and `_max` (versions between the weights that sampled a group and those that it trains),
        `async/resampled` (groups that were sampled ahead in vain), `seconds/sample` (the env runner that took longest),
        `seconds/wait` (what the iteration waited for rollouts) and `async/overlap`: the share of `seconds/sample` that
        nobody waited for.
        """
        if not self._recipe.max_staleness:
            return {}
        sample, wait = self._metrics["seconds/sample"], self._metrics["seconds/wait"]
        return self._metrics | ({"async/overlap": max(0.0, 1.0 - wait / sample)} if sample else {})

    def sample(
        self, sample_ids: Sequence[str], *, first_attempt: int = 0, begun: SamplingAttempt | None = None
    ) -> list[SampledGroup]:
        """A group of every sample.

        Args:
            sample_ids: the samples.
            first_attempt: the number that attempts are counted from, so that noise never comes twice.
            begun: what came of the first attempt, if that was begun earlier.

        Raises:
            LostProcessError, TrainingError: as `sample_all`, or an environment raised an exception.
        """

        def once(asked: Sequence[str], number: int, alone: bool) -> SamplingAttempt:
            if begun is not None and number == first_attempt:
                attempt = begun
            elif self._recipe.num_env_runners:
                attempt = self._runners.sample(asked, self._call(asked, number), alone=alone)
            else:
                attempt = SamplingAttempt()
                attempt.add(sample_on(self._local, sample_ids=asked, call=self._call(asked, number)))
            if len(attempt.groups) < len(asked):
                if self._engines is not None and any(fault.kind == "engine" for fault in attempt.faults):
                    self._engines.check(timeout=min(60.0, self._recipe.engine.turn_timeout))
                # An env runner that was started again has the weights it began with, and refused to sample with them.
                self._make_ready()
            return attempt

        report = self._books.faults.append
        return sample_all(sample_ids, once, another=self._another, report=report, first_attempt=first_attempt)

    def _call(self, sample_ids: Sequence[str], attempt: int) -> SamplingCall:
        return SamplingCall(
            seed=(self._recipe.seed, 3, self._iteration, attempt),
            weights_version=self.weights_version,
            engines=None if self._engines is None else self._engines.handles,
            probes=self._books.probes.plan(sample_ids, self._iteration),
        )

    def _another(self, taken: Sequence[str]) -> str:
        """The next sample that is none of these."""
        while (sample_id := self._books.cursor.take(1)[0]) in taken:
            continue
        return sample_id

    def state_dict(self) -> dict[str, Any]:
        """The samples that the next iteration owes, without their groups (see `save`)."""
        return {"sample_ids": self._ids}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; without `load`, groups are sampled again."""
        self._ids, self._ready = list(state["sample_ids"]), []

    def save(self, path: Path) -> None:
        """Write the groups that are ready into a checkpoint, one after the other: `bytes/groups` on disk."""
        for k, sampled in enumerate(self._ready):
            # One whose node is gone will be sampled again, here and by whoever resumes.
            with contextlib.suppress(RayError):
                whole = pickle.dumps(sampled.loaded())
                (path / AHEAD).mkdir(exist_ok=True)
                (path / AHEAD / f"{k}.pkl").write_bytes(whole)

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        files = sorted((path / AHEAD).glob("*.pkl"), key=lambda file: int(file.stem))
        saved: list[SampledGroup] = [pickle.loads(file.read_bytes()) for file in files]
        self._ready = [each.stored() for each in saved]

    def close(self) -> None:
        self._runners.close()
