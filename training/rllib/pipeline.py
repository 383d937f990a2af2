"""Rollouts one iteration ahead: env runners sample the next groups while learners work at these.

    iteration          1                  2                3
    env runners   | 1 || 2        |  | 3         |  |              ...
    learners           | 1    |      | 2     |      | 3     |
    weights       0                  1              2              3

The groups of iteration k + 1 are begun with the weights that iteration k starts from, and waited for before the new
ones leave the learners: every episode has one version, and what is trained on is one version older than the learners'
weights. Between iterations nothing is under way, so a checkpoint holds everything.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from training.config import PPORecipe
from training.rllib.env_runner import SampledGroup, process_id

AHEAD = "ahead"
"""Folder of a checkpoint with the groups that were sampled for the next iteration, one file each."""

# What is ready when it is asked for may still have to travel.
_SECONDS_TO_FETCH = 10.0
# Attempts at a group count on where it was sampled ahead: noise never comes twice.
_LATER_ATTEMPTS = range(3, 6)

Call = Callable[[Any], Any]


class SamplingPipeline:
    """Hands out the groups of every iteration, and has the next ones sampled ahead if the recipe wants that.

    Args:
        recipe: its `max_staleness`, `groups_per_iteration`, `iterations` and `rollout_timeout`.
        runners: RLlib's group of env runners.
        take: the next so many sample ids.
        calls: `calls(sample_ids, iteration, n)`: what each of n env runners is to run.
        sample: `sample(sample_ids, iteration=..., attempts=..., first=...)`: all groups, whatever it takes; `first` is
            called instead of the first attempt and returns what answers came to calls that were made before.
        processes: ids of the processes that answer now; groups of others are lost.
    """

    def __init__(
        self,
        recipe: PPORecipe,
        runners: Any,
        *,
        take: Callable[[int], list[str]],
        calls: Callable[[Sequence[str], int, int], list[Call]],
        sample: Callable[..., list[SampledGroup]],
        processes: Callable[[], set[str]],
    ) -> None:
        self._recipe, self._runners = recipe, runners
        self._take, self._calls, self._sample, self._processes = take, calls, sample, processes
        self._ids: list[str] = []
        self._ready: list[SampledGroup] = []
        self._begun: tuple[int, float] | None = None
        self._books: dict[str, float] = {}

    def groups(self, iteration: int, weights_version: int) -> list[SampledGroup]:
        """The groups to train in this iteration: those that were sampled ahead, or freshly sampled ones.

        Groups that are lost, or older than `max_staleness` allows, are sampled again with the weights of now.

        Args:
            iteration: from 0.
            weights_version: of the learners' weights.
        """
        start = time.perf_counter()
        ids = self._ids or self._take(self._recipe.groups_per_iteration)
        kept = self._usable(weights_version) if self._ready else {}
        missing = [sample_id for sample_id in ids if sample_id not in kept]
        if missing:
            attempts = _LATER_ATTEMPTS if self._ids else range(3)
            kept |= {group.sample_id: group for group in self._sample(missing, iteration=iteration, attempts=attempts)}
        waited = time.perf_counter() - start
        groups = [kept[sample_id] for sample_id in ids]
        ages = [staleness(group, weights_version) for group in groups]
        self._books = {
            "async/staleness_mean": float(np.mean(ages)),
            "async/staleness_max": float(max(ages)),
            "async/resampled": float(len(missing) if self._ids else 0),
            "seconds/sample": waited if missing else 0.0,
            "seconds/wait": waited,
        }
        self._ids, self._ready = [], []
        return groups

    def begin(self, iteration: int) -> None:
        """Let env runners start with the groups of the iteration after this one, unless this is the last."""
        if not self._recipe.max_staleness or iteration + 1 >= self._recipe.iterations:
            return
        self._ids = self._take(self._recipe.groups_per_iteration)
        self._begun = iteration + 1, time.perf_counter()
        workers = list(self._runners.healthy_worker_ids())
        if workers:
            calls = self._calls(self._ids, iteration + 1, len(workers))
            self._runners.foreach_env_runner_async(
                [_Timed(call) for call in calls], tag=_tag(iteration + 1), remote_worker_ids=workers
            )

    def finish(self) -> None:
        """Wait for what was begun; what a lost env runner owed is sampled by the others, with the same weights."""
        if self._begun is None:
            return
        start = time.perf_counter()
        self._ready = self._sample(self._ids, iteration=self._begun[0], first=self._answers)
        self._begun = None
        self._books["seconds/wait"] += time.perf_counter() - start

    def _answers(self) -> list[Any]:
        assert self._begun is not None
        iteration, since = self._begun
        left = self._recipe.rollout_timeout - (time.perf_counter() - since)
        answers = self._runners.fetch_ready_async_reqs(
            tags=_tag(iteration), timeout_seconds=max(left, _SECONDS_TO_FETCH)
        )
        self._books["seconds/sample"] += max((seconds for _, (_, seconds) in answers), default=0.0)
        return [answer for _, (answer, _) in answers]

    def _usable(self, weights_version: int) -> dict[str, SampledGroup]:
        alive = self._processes() | {process_id()}
        return {
            group.sample_id: group
            for group in self._ready
            if group.process in alive and staleness(group, weights_version) <= self._recipe.max_staleness
        }

    def books(self) -> dict[str, float]:
        """Numbers of the iteration, nothing where nothing is sampled ahead.

        `async/staleness_mean` and `_max` (versions between the weights that sampled a group and those that it
        trains), `async/resampled` (groups that were sampled ahead in vain), `seconds/sample` (the env runner that took
        longest), `seconds/wait` (what the iteration waited for rollouts) and `async/overlap`: the share of
        `seconds/sample` that nobody waited for.
        """
        if not self._recipe.max_staleness:
            return {}
        sample, wait = self._books["seconds/sample"], self._books["seconds/wait"]
        return self._books | ({"async/overlap": max(0.0, 1.0 - wait / sample)} if sample else {})

    def abandon(self) -> None:
        """Stop env runners that are still sampling: the run ends before anybody wants it."""
        if self._begun is not None:
            self._begun = None
            self._runners.reset([])

    def state_dict(self) -> dict[str, Any]:
        """The samples that the next iteration owes, without their groups (see `save`)."""
        return {"sample_ids": self._ids}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; without `load`, groups are sampled again."""
        self._ids, self._ready = list(state["sample_ids"]), []

    def save(self, path: Path) -> None:
        """Write the groups that are ready into a checkpoint, one after the other: `bytes/groups` on disk."""
        if not self._ready:
            return
        folder = path / AHEAD
        folder.mkdir()
        for k, sampled in enumerate(self._ready):
            try:
                whole = ray.get(sampled.group)
            except RayError:
                # Its env runner is gone: it will be sampled again, here and by whoever resumes.
                continue
            (folder / f"{k}.pkl").write_bytes(pickle.dumps(replace(sampled, group=whole)))

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        files = sorted((path / AHEAD).glob("*.pkl"), key=lambda file: int(file.stem))
        saved: list[SampledGroup] = [pickle.loads(file.read_bytes()) for file in files]
        self._ready = [replace(each, group=ray.put(each.group), process=process_id()) for each in saved]


class _Timed:
    """A call on an env runner that says how many seconds it took, too."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self, runner: Any) -> tuple[Any, float]:
        start = time.perf_counter()
        answer = self._call(runner)
        return answer, time.perf_counter() - start


def staleness(group: SampledGroup, weights_version: int) -> int:
    """How many versions older than `weights_version` the oldest weights are that sampled in a group."""
    versions = [step.weights_version for episode in group.episodes for step in episode.steps]
    return max((weights_version - version for version in versions if version is not None), default=0)


def _tag(iteration: int) -> str:
    # An answer that comes after its timeout finds nobody who asks for it.
    return f"{AHEAD}-{iteration}"
