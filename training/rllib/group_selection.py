"""Which groups of an iteration are trained on, and which learner gets which of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.rllib.core.learner.training_data import TrainingData

from pxr_agents.groups import Group
from pxr_agents.types import Episode
from training.batch import NO_ADVANTAGE, balanced, episode_advantages, group_bytes
from training.config import PPORecipe
from training.replay import ReplayBuffer
from training.rllib.env_runner import SampledGroup

# Rough shares of an id: pixels of a shown image (28x28 or 32x32 pixels each), characters of text.
_PIXELS_PER_ID, _CHARACTERS_PER_ID = 900, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedGroup:
    """A group (or a reference to one) that is trained on, with about how many ids it has."""

    group: Any
    size: float


class GroupSelection:
    """Leaves out groups whose rollouts all score alike, or replays earlier groups in their place, as the recipe says.

    Every minibatch of every learner needs a group. Where too few are left, uniform ones stay to fill up; they carry
    no loss.

    Args:
        recipe: its `uniform_groups` and `replay_...` keys.
    """

    def __init__(self, recipe: PPORecipe) -> None:
        self._recipe = recipe
        self._buffer = ReplayBuffer(
            size=recipe.replay_size,
            max_bytes=recipe.replay_bytes,
            alpha=recipe.replay_alpha,
            staleness=recipe.replay_staleness,
        )

    def select(
        self, groups: Sequence[SampledGroup], iteration: int, *, age: int = 0
    ) -> tuple[list[SelectedGroup], dict[str, float]]:
        """Returns what to train on, and the books of it.

        Args:
            groups: of this iteration.
            iteration: which one.
            age: iterations since they were sampled.

        The books: "groups/uniform" and "groups/dropped" (numbers), with replay also "groups/replayed" (number),
        "replay/share" (of the groups that are trained on), "replay/age" (mean iterations since they were sampled),
        "replay/size" (groups that are kept) and "replay/bytes".
        """
        recipe = self._recipe
        if recipe.uniform_groups == "keep":
            return [_selected(group) for group in groups], {}
        advantages = [episode_advantages(group.episodes, normalize_std=recipe.normalize_std) for group in groups]
        differ = [bool(np.abs(a).max(initial=0.0) > NO_ADVANTAGE) for a in advantages]
        useful = [_selected(group) for group, d in zip(groups, differ, strict=True) if d]
        uniform = [_selected(group) for group, d in zip(groups, differ, strict=True) if not d]
        books = {"groups/uniform": float(len(uniform))}
        if recipe.uniform_groups == "replay":
            drawn = self._buffer.draw(len(uniform), iteration=iteration, seed=recipe.seed)
            useful += [entry.item for entry in drawn]
            ages = [iteration - entry.iteration for entry in drawn]
            books |= {"groups/replayed": float(len(drawn)), "replay/age": float(np.mean(ages or [0]))}
            for group, a, d in zip(groups, advantages, differ, strict=True):
                if d:
                    self._keep(group, a, iteration - age)
            books |= {"replay/size": float(len(self._buffer)), "replay/bytes": float(self._buffer.n_bytes)}
        fill = uniform[: max(0, self._least_groups() - len(useful))]
        books["groups/dropped"] = float(len(uniform) - len(fill))
        if recipe.uniform_groups == "replay":
            books["replay/share"] = books["groups/replayed"] / (len(useful) + len(fill))
        return useful + fill, books

    def _least_groups(self) -> int:
        per_learner = 1 if self._recipe.minibatch_tokens else self._recipe.num_minibatches
        return per_learner * max(self._recipe.num_learners, 1)

    def _keep(self, group: SampledGroup, advantages: np.ndarray, iteration: int) -> None:
        whole = _load(group.group)
        # A reference dies with the process that made it; this process lives as long as the run.
        item = SelectedGroup(group=whole if group.group is whole else ray.put(whole), size=_size(group.episodes))
        self._buffer.add(item, advantages=advantages, iteration=iteration, n_bytes=group_bytes(whole))

    def state_dict(self) -> Any:
        """The replayed groups themselves, to be pickled: up to `replay_bytes`."""
        return self._buffer.state_dict(lambda item: SelectedGroup(group=_load(item.group), size=item.size))

    def load_state_dict(self, state: Any) -> None:
        """Go on where `state_dict` was taken, with learners here or elsewhere."""
        elsewhere = self._recipe.num_learners > 0 or self._recipe.num_env_runners > 0

        def store(item: SelectedGroup) -> SelectedGroup:
            return SelectedGroup(group=ray.put(item.group) if elsewhere else item.group, size=item.size)

        self._buffer.load_state_dict(state, store)


class AssignedGroups(TrainingData):
    """References to groups that are already assigned to learners (RLlib would cut the list into equal lengths)."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        super().__init__(episodes_refs=[ref for part in parts for ref in part])
        self._parts = parts

    def shard(self, num_shards: int, **kwargs: Any) -> list[tuple[TrainingData, dict[str, Any]]]:
        return [(TrainingData(episodes_refs=list(part)), {}) for part in self._parts]


def training_data(groups: Sequence[SelectedGroup], recipe: PPORecipe) -> TrainingData:
    """What the learners get: whole groups, spread over them so that each has about as much to do.

    With `minibatch_tokens` the estimated sizes of two learners' shares differ by at most the largest group (see
    `training.batch.balanced`); else the numbers of groups differ by at most one.
    """
    data = [group.group for group in groups]
    if not recipe.num_env_runners and not recipe.num_learners:
        return TrainingData(episodes=data)
    if recipe.num_learners < 2 or (recipe.minibatch_tokens is None and recipe.uniform_groups == "keep"):
        return TrainingData(episodes_refs=data)
    sizes = [group.size if recipe.minibatch_tokens else 1.0 for group in groups]
    return AssignedGroups([[data[k] for k in part] for part in balanced(sizes, recipe.num_learners)])


def _selected(group: SampledGroup) -> SelectedGroup:
    return SelectedGroup(group=group.group, size=_size(group.episodes))


def _load(group: Any) -> Group:
    whole: Group = ray.get(group) if isinstance(group, ray.ObjectRef) else group
    return whole


def _size(episodes: Sequence[Episode]) -> float:
    """About how many ids: the driver has an episode's text and the sizes of its views, but not its tokens."""
    pixels = sum(view["size"][0] * view["size"][1] for episode in episodes for view in episode.views)
    steps = [step for episode in episodes for step in episode.steps]
    characters = sum(len(step.turn) + len(step.reply) for step in steps) + sum(len(e.prompt) for e in episodes)
    return pixels / _PIXELS_PER_ID + characters / _CHARACTERS_PER_ID
