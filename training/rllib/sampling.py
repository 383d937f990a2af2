"""Every sample becomes a group, whatever dies or hangs meanwhile; what cannot be sampled is named and given up.

What env runners owe is asked for again, of those that are left, as long as anything comes of it (`owed.py`).

With `max_staleness = 1` env runners sample the next groups while learners work at these:

    iteration          1                  2                3
    env runners   | 1 || 2        |  | 3         |  |              ...
    learners           | 1    |      | 2     |      | 3     |
    weights       0                  1              2              3

They are begun with the weights that the iteration starts from, and waited for before the new ones leave the learners:
every episode has one version, one older than the weights that it trains. Between iterations nothing is under way, so a
checkpoint holds everything.

With more, env runners go on while weights change. The queue always holds the groups of `max_staleness` iterations to
come, and an iteration trains on those that are finished first. A checkpoint holds these; the rest is sampled again.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, TaskCancelledError

from ..config import PPORecipe
from ..ppo_run import Books
from ..run_directory import Fault, LostProcessError
from .engines import EngineGroup
from .env_runner import SampledGroup, VLMEnvRunner
from .owed import Owed, SamplingAttempt
from .runner_pool import RunnerPool, equal_parts
from .sample_queue import Part

AHEAD = "ahead"
"""Folder of a checkpoint with the groups that were sampled for the next iterations, one file each."""
# Attempts at a group count on where it was sampled ahead: noise never comes twice.
_LATER_ATTEMPTS = 1000


class Sampler:
    """The groups of every iteration, and with `max_staleness` of those to come.

    Args:
        recipe, books: of the run; who is left out is written into the books.
        local, actors: the env runner of this process, and the remote ones, if there are any, which then sample.
        engines: which sample, unless env runners do.

    Attributes:
        weights_version: of the weights that are sampled with from now on.
    """

    def __init__(
        self,
        recipe: PPORecipe,
        books: Books,
        local: VLMEnvRunner,
        actors: Mapping[int, Any],
        *,
        engines: EngineGroup | None,
    ) -> None:
        self._recipe, self._books, self._local, self._engines = recipe, books, local, engines
        self._runners = RunnerPool(actors, timeout=recipe.rollout_timeout) if actors else None
        self._owed = self._new_owed()
        self._n_asked = math.ceil(recipe.groups_per_iteration * recipe.oversample)
        # Env runners go on sampling while weights change.
        self._goes_on = recipe.max_staleness > 1
        # Groups that teach nothing do not count, and what is under way when there is enough is cancelled.
        self._stops_early = recipe.oversample > 1
        self.weights_version = 0
        self._iteration = self._attempts = self._n_dropped = 0
        self._alone = self._begun = False
        self._metrics: dict[str, float] = {}

    def _new_owed(self) -> Owed:
        return Owed(
            another=lambda taken: self._books.cursor.take(1, besides=taken)[0],
            report=lambda fault: self._books.faults.append(fault),
        )

    def set_weights(self, version: int, weights: ray.ObjectRef | None = None) -> None:
        """Sample with these from now on; without a reference to them, whoever samples has them already."""
        self.weights_version = version
        if self._runners is not None:
            self._runners.set_weights(version, [] if weights is None else [weights])

    def groups(self, iteration: int) -> list[SampledGroup]:
        """The groups to train in an iteration (from 0): those that were sampled ahead, or freshly sampled ones.

        Groups that are lost, or older than `max_staleness` allows, are sampled again with the weights of now.
        """
        recipe, owed, start = self._recipe, self._owed, time.perf_counter()
        self._iteration, was_owed = iteration, set(owed.samples)
        self._n_dropped = owed.drop_older(self.weights_version, recipe.max_staleness)
        self._owe(max(1, min(recipe.max_staleness + 1, recipe.iterations - iteration)) if self._goes_on else 1)
        self._attempts = _LATER_ATTEMPTS if was_owed else 0
        waits = not self._enough()
        again = [sample_id for sample_id in self._to_ask() if sample_id in was_owed] if waits else []
        self._sample(self._enough)
        groups, n_cancelled = self._choose()
        waited = time.perf_counter() - start
        ages = [group.staleness(self.weights_version) for group in groups]
        self._metrics = {
            "async/staleness_mean": float(np.mean(ages)),
            "async/staleness_max": float(max(ages)),
            "async/resampled": float(len(again)),
            "async/dropped": float(self._n_dropped),
            "groups/cancelled": float(n_cancelled),
            "seconds/sample": waited if waits or self._goes_on else 0.0,
            "seconds/wait": waited,
        }
        return groups

    def begin(self) -> None:
        """Let env runners start with the groups of the iteration after this one, unless this is the last."""
        if self._recipe.max_staleness == 1 and self._iteration + 1 < self._recipe.iterations:
            self._iteration, self._attempts, self._begun = self._iteration + 1, 0, True
            self._owe(1)
            self._ask(self._owed.missing())

    def finish(self) -> None:
        """Wait for what was begun; what a lost env runner owed is sampled by the others, with the same weights."""
        if self._begun:
            start, self._begun = time.perf_counter(), False
            self._metrics["seconds/sample"] += self._sample(self._enough)
            self._metrics["seconds/wait"] += time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """Numbers of the iteration; those that begin with "async/" only where something is sampled ahead.

        `groups/cancelled` (groups that were asked for and not needed, with `oversample`), `async/staleness_mean` and
        `_max` (versions between the oldest weights that sampled in a group and those that it trains),
        `async/resampled` (groups that were sampled ahead in vain), `async/dropped` (those of them that were too old),
        `seconds/sample` (the env runner that took longest), `seconds/wait` (what the iteration waited for rollouts) and
        `async/overlap`: the share of `seconds/sample` that nobody waited for (`max_staleness = 1`).
        """
        found = dict(self._metrics)
        if not self._stops_early:
            del found["groups/cancelled"]
        if not self._recipe.max_staleness:
            return {name: value for name, value in found.items() if name.startswith("groups/")}
        sample, wait = found["seconds/sample"], found["seconds/wait"]
        return found | ({"async/overlap": max(0.0, 1.0 - wait / sample)} if sample and not self._goes_on else {})

    def sample(self, sample_ids: Sequence[str]) -> list[SampledGroup]:
        """A group of every one of these samples, beside what is owed otherwise; not while something is under way.

        Raises:
            LostProcessError, TrainingError: as `Owed.enter`, or an environment raised an exception.
        """
        kept, self._owed = self._owed, self._new_owed()
        self._owed.samples = list(sample_ids)
        try:
            self._sample(lambda more=(): not self._owed.missing())
            return [self._owed.done[sample_id] for sample_id in self._owed.samples]
        finally:
            self._owed = kept

    def _owe(self, iterations: int) -> None:
        """Take samples until there are enough for so many iterations."""
        owed = self._owed
        owed.samples += self._books.cursor.take(max(0, iterations * self._n_asked - len(owed.samples)), owed.samples)

    def _to_ask(self) -> list[str]:
        under_way = self._runners.under_way if self._runners is not None else ()
        return [sample_id for sample_id in self._owed.missing() if sample_id not in under_way]

    def _enough(self, more: Sequence[SampledGroup] = ()) -> bool:
        """Whether there is enough to train on, with these groups that have come since."""
        groups = [*self._owed.done.values(), *more]
        teaching = [group for group in groups if group.weight > 0] if self._stops_early else groups
        return len(teaching) >= self._recipe.groups_per_iteration or len(groups) >= self._n_asked

    def _sample(self, enough: Callable[..., bool]) -> float:
        """Ask, take what comes and ask again for what was lost, until there is enough. Returns the seconds that the env
        runner took that was at it longest."""
        owed, seconds, heard = self._owed, 0.0, time.monotonic()
        if self._goes_on and not owed.suspects() and (ask := self._to_ask()):
            self._ask(ask)
        while not enough():
            attempt = self._sample_here(enough) if self._runners is None else self._sample_there(self._runners, enough)
            seconds += attempt.seconds
            if attempt:
                self._enter(attempt)
                heard = time.monotonic()
            elif time.monotonic() > heard + self._recipe.rollout_timeout:
                limit = f"rollout_timeout={self._recipe.rollout_timeout:g} s"
                raise LostProcessError(f"No env runner came back within {limit}")
            elif self._runners is not None and not self._runners.busy:
                # Those that died are being started again.
                time.sleep(0.5)
        return seconds

    def _sample_here(self, enough: Callable[..., bool]) -> SamplingAttempt:
        attempt = SamplingAttempt()
        part, self._attempts = self._part(self._owed.missing()), self._attempts + 1
        try:
            with contextlib.closing(self._local.sample_groups([part])) as pieces:
                for piece in pieces:
                    attempt.add(piece)
                    if self._stops_early and enough(attempt.groups):
                        raise TaskCancelledError
        except Exception as error:
            attempt.add(self._local.survive(error))
        return attempt

    def _sample_there(self, runners: RunnerPool, enough: Callable[..., bool]) -> SamplingAttempt:
        """What env runners bring until all of them are done, or there is enough; if they go on, what comes next."""
        attempt, suspects = SamplingAttempt(), self._owed.suspects()
        if not runners.busy:
            self._ask(suspects or self._owed.missing(), alone=bool(suspects))
        elif self._goes_on and not suspects and (ask := self._to_ask()):
            self._ask(ask)
        start = time.perf_counter()
        while runners.busy:
            runners.poll(attempt)
            if self._goes_on:
                break
            if self._stops_early and runners.busy and enough(attempt.groups):
                attempt.seconds = max(attempt.seconds, time.perf_counter() - start)
                runners.cancel()
        return attempt

    def _ask(self, sample_ids: Sequence[str], *, alone: bool = False) -> None:
        """Let env runners begin with these; alone gives each a process to itself."""
        recipe, runners = self._recipe, self._runners
        assert runners is not None
        refill = self._engines is not None and not alone
        capacity = 1 if refill or alone else max(1, recipe.max_envs_per_runner // recipe.group_size)
        parts = equal_parts(sample_ids, n_runners=recipe.num_env_runners, capacity=capacity)
        handles = None if self._engines is None else self._engines.handles
        runners.begin([self._part(part) for part in parts], handles, refill=refill)
        self._alone, self._attempts = alone, self._attempts + 1

    def _part(self, sample_ids: Sequence[str]) -> Part:
        seed = (self._recipe.seed, 3, self._iteration, self._attempts)
        return Part(sample_ids, seed, self._books.arms.plan(sample_ids, self._iteration))

    def _enter(self, attempt: SamplingAttempt) -> None:
        owed = self._owed
        owed.enter(attempt, alone=self._alone)
        for sample_id, group in list(owed.done.items()):
            if group.worker in attempt.workers:
                # What it had finished outlives it, unless its node is gone, too.
                try:
                    owed.done[sample_id] = group.loaded().stored()
                except RayError:
                    del owed.done[sample_id]
                    text = f"The group of {sample_id} is gone with its node and is sampled again"
                    self._books.faults.append(Fault("env runner", text, sample_id=sample_id))
        self._n_dropped += owed.drop_older(self.weights_version, self._recipe.max_staleness)
        if self._engines is not None and any(fault.kind == "engine" for fault in attempt.faults):
            self._engines.check(timeout=min(60.0, self._recipe.engine.turn_timeout))

    def _choose(self) -> tuple[list[SampledGroup], int]:
        """What to train on, of what is there: the first groups, with `oversample` the first that teach, in the order of
        their samples; and how many were asked for in vain, whose samples stay owed."""
        owed, n = self._owed, self._recipe.groups_per_iteration
        groups = list(owed.done.values())
        if self._stops_early:
            groups.sort(key=lambda group: group.weight <= 0)
        chosen = {group.sample_id for group in groups[:n]}
        trained = [owed.done[sample_id] for sample_id in owed.samples if sample_id in chosen]
        # The others that teach nothing had their turn.
        uniform = [group.sample_id for group in groups[n:] if group.weight <= 0] if self._stops_early else []
        owed.remove([*chosen, *uniform])
        if self._goes_on:
            return trained, 0
        owed.done.clear()
        return trained, len(owed.samples)

    def state_dict(self) -> dict[str, Any]:
        """The samples that are owed, without the groups that are there (see `save`)."""
        return {"sample_ids": self._owed.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; without `load`, groups are sampled again."""
        if self._runners is not None:
            self._runners.cancel()
        self._owed = self._new_owed()
        self._owed.samples = list(state["sample_ids"])

    def save(self, path: Path) -> None:
        """Write the groups that are there into a checkpoint, one after the other: `bytes/groups` on disk."""
        for k, sampled in enumerate(self._owed.done.values()):
            # One whose node is gone will be sampled again, here and by whoever resumes.
            with contextlib.suppress(RayError):
                loaded = sampled.loaded()
                # Without the name of its class: a checkout and a wheel call this package differently (setup.py).
                whole = pickle.dumps({name: getattr(loaded, name) for name in SampledGroup.__slots__})
                (path / AHEAD).mkdir(exist_ok=True)
                (path / AHEAD / f"{k}.pkl").write_bytes(whole)

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        files = sorted((path / AHEAD).glob("*.pkl"), key=lambda file: int(file.stem))
        saved = [SampledGroup(**pickle.loads(file.read_bytes())) for file in files]
        self._owed.done = {each.sample_id: each.stored() for each in saved}

    def close(self) -> None:
        if self._runners is not None:
            self._runners.close()
