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
from training.rllib.env_runner import SampledGroup

AHEAD = "ahead"
"""Folder of a checkpoint with the groups that were sampled for the next iteration, one file each."""

# Attempts at a group count on where it was sampled ahead: noise never comes twice.
_LATER_ATTEMPTS = 1000


class SamplingPipeline:
    """Hands out the groups of every iteration, and has the next ones sampled ahead if the recipe wants that.

    Args:
        recipe: its `max_staleness`, `groups_per_iteration` and `iterations`.
        take: the next so many sample ids.
        sample: `sample(sample_ids, iteration=..., first_attempt=...)`: a group of each, whatever it takes.
        begin: `begin(sample_ids, iteration)` lets env runners start with them.
        finish: `finish(sample_ids, iteration)`: the groups that were begun, when all are there, and the seconds that
            the env runner took that was at it longest.
    """

    def __init__(
        self,
        recipe: PPORecipe,
        *,
        take: Callable[[int], list[str]],
        sample: Callable[..., list[SampledGroup]],
        begin: Callable[[Sequence[str], int], None],
        finish: Callable[[Sequence[str], int], tuple[list[SampledGroup], float]],
    ) -> None:
        self._recipe = recipe
        self._take, self._sample, self._begin, self._finish = take, sample, begin, finish
        self._ids: list[str] = []
        self._ready: list[SampledGroup] = []
        self._begun: int | None = None
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
        fresh = [group for group in self._ready if staleness(group, weights_version) <= self._recipe.max_staleness]
        kept = {group.sample_id: group for group in fresh}
        missing = [sample_id for sample_id in ids if sample_id not in kept]
        if missing:
            first_attempt = _LATER_ATTEMPTS if self._ids else 0
            sampled = self._sample(missing, iteration=iteration, first_attempt=first_attempt)
            # Not by their own names: a sample that was given up has another in its place.
            kept |= dict(zip(missing, sampled, strict=True))
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
        self._begun = iteration + 1
        self._begin(self._ids, iteration + 1)

    def finish(self) -> None:
        """Wait for what was begun; what a lost env runner owed is sampled by the others, with the same weights."""
        if self._begun is None:
            return
        start = time.perf_counter()
        self._ready, seconds = self._finish(self._ids, self._begun)
        self._ids = [group.sample_id for group in self._ready]
        self._begun = None
        self._books["seconds/sample"] += seconds
        self._books["seconds/wait"] += time.perf_counter() - start

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
        self._ready = [replace(each, group=ray.put(each.group)) for each in saved]


def staleness(group: SampledGroup, weights_version: int) -> int:
    """How many versions older than `weights_version` the oldest weights are that sampled in a group."""
    versions = [step.weights_version for episode in group.episodes for step in episode.steps]
    return max((weights_version - version for version in versions if version is not None), default=0)
