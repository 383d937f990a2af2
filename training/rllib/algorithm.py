"""The algorithm as RLlib sees it: its configuration, one iteration (sample whole groups, choose, update, sync), and
which groups are trained on, on which learner."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import LEARNER_RESULTS, WEIGHTS_SEQ_NO

from pxr_agents.types import Episode
from ..batch import balanced
from ..config import PPORecipe
from ..logs import combine_metrics
from ..policy import policy_arguments
from ..ppo_run import Books
from ..rewards import check_enough
from ..run_directory import NonFiniteError
from .engines import EngineGroup
from .env_runner import SampledGroup, VLMEnvRunner, sampling_costs
from .learner import DeepSpeedPPOLearner, LearnerWatch, TokenPPOLearner, VLMModule, failed_batch
from .sampling import Sampler
from .weights import WeightSync, export, learner_gpus, learner_state, learner_version, load_shards, save_shards

STATE = "pxr"


class VLMPPOConfig(PPOConfig):
    """`VLMPPOConfig().recipe(recipe).build_algo()` is a trainer; everything of ours is in the recipe, `ppo`."""

    def __init__(self, algo_class: Any = None) -> None:
        super().__init__(algo_class or VLMPPO)
        self.ppo: PPORecipe | None = None
        self.env_runner_cls = VLMEnvRunner
        self.use_gae = False
        self.use_critic = False
        self.batch_mode = "complete_episodes"

    def recipe(self, recipe: PPORecipe) -> Self:
        """Take every setting from a recipe."""
        self.ppo = recipe
        # RLlib wants one; env runners make all of them.
        env = next(iter(recipe.envs.values()))
        self.environment(env.id, env_config=env.kwargs)
        self.env_runners(
            num_env_runners=recipe.num_env_runners,
            # Fractions: where env runners and learners take turns, together they may claim more than there is.
            num_cpus_per_env_runner=recipe.num_cpus_per_env_runner,
            create_env_on_local_worker=True,
            sample_timeout_s=recipe.rollout_timeout,
        )
        self.learners(
            num_learners=recipe.num_learners,
            num_cpus_per_learner=recipe.num_cpus_per_learner,
            num_gpus_per_learner=recipe.num_gpus_per_learner,
        )
        self.training(lr=recipe.lr, grad_clip=recipe.max_grad_norm, grad_clip_by="global_norm")
        self.rl_module(model_config={"policy": policy_arguments(recipe)})
        self.fault_tolerance(restart_failed_env_runners=True)
        self.debugging(seed=recipe.seed, log_level="ERROR")
        return self

    def get_default_learner_class(self) -> type[TokenPPOLearner]:
        return TokenPPOLearner if self.ppo is None or self.ppo.learner.kind == "ddp" else DeepSpeedPPOLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=VLMModule)

    # Our data plane has no connectors.
    def build_learner_connector(self, *args: Any, **kwargs: Any) -> None:
        return None

    def build_env_to_module_connector(self, *args: Any, **kwargs: Any) -> None:
        return None

    def build_module_to_env_connector(self, *args: Any, **kwargs: Any) -> None:
        return None


class VLMPPO(PPO):
    """PPO on groups of VLM episodes. `train()` runs one iteration.

    Attributes:
        last_iteration, last_episodes, books: as of `training.ppo_run.Trainer`; the episodes come without tokens.
        sampler: has the groups of every iteration.
        selection: chooses those that are trained on.
        learner_watch: ends waits for learners that die or hang.
    """

    @classmethod
    def get_default_config(cls) -> Any:
        return VLMPPOConfig()

    engines: EngineGroup | None = None
    # What `cleanup` needs; `setup` may fail before they are there.
    sampler: Any = None

    def setup(self, config: Any) -> None:
        super().setup(config)
        ppo = self.config.ppo
        if ppo.engine.kind == "vllm":
            homes = learner_gpus(self.learner_group) if ppo.engine.colocate else []
            self.engines = EngineGroup.start(ppo.model, ppo.aligned_engine, homes)
            self._weight_sync = WeightSync(self.engines, ppo.engine.vllm.weight_transfer)
        self.books = Books(ppo, self.env_runner.env)
        actors = self.env_runner_group.foreach_env_runner(
            lambda runner: (runner.worker_index, ray.get_runtime_context().current_actor),
            local_env_runner=False,
            timeout_seconds=ppo.rollout_timeout,
        )
        self.sampler = Sampler(ppo, self.books, self.env_runner, dict(actors), engines=self.engines)
        self.selection = GroupSelection(ppo)
        self.last_iteration: dict[str, float] = {}
        self.last_episodes: list[Episode] = []
        self.learner_watch = LearnerWatch(self.learner_group, ppo.learner_timeout)
        self._sync()

    def training_step(self) -> None:
        self.books.faults = []
        start = time.perf_counter()
        groups = self.sampler.groups(self.iteration)
        self.sampler.begin()
        sampled = time.perf_counter()
        if self.engines is not None:
            self.engines.sleep()
        with self.learner_watch.bounded():
            learned, chosen = self._learn(groups)
        updated = time.perf_counter()
        self.sampler.finish()
        joined = time.perf_counter()
        with self.learner_watch.bounded():
            moved = self._sync()
        self.last_episodes = [episode for group in groups for episode in group.episodes]
        self.last_iteration = {
            **self.books.count(self.last_episodes, learned, self.iteration),
            **chosen,
            **sampling_costs(groups),
            "bytes/weights": float(moved),
            "seconds/sample": sampled - start,
            "seconds/learn": updated - sampled,
            "seconds/sync": time.perf_counter() - joined,
            **self.sampler.metrics(),
        }

    def _learn(self, groups: Sequence[SampledGroup]) -> tuple[dict[str, float], dict[str, float]]:
        """One update; returns what the learners say of it, and the books of the selection."""
        version = self.sampler.weights_version
        age = max(group.staleness(version) for group in groups)
        known = [group for group in groups if group.n_bytes]
        check_enough(len(known), self.config.ppo, [episode for group in groups for episode in group.episodes])
        chosen, books = self.selection.select(known, self.iteration, age=age)
        try:
            results = self.learner_group.update(
                training_data=training_data(chosen, self.config.ppo),
                iteration=self.iteration,
                weights_version=version,
                timesteps={},
            )
        except NonFiniteError as error:
            raise failed_batch(error, self.learner_group) from error
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        updates = self.learner_group.foreach_learner(lambda learner: learner.ppo.metrics())
        return combine_metrics([result.get() for result in updates]), books

    def _sync(self) -> int:
        """Give engines the learners' weights and wait until all have them; env runners take them when they begin with
        the next groups.

        Returns the bytes of the one copy that left the learners; 0 where nothing leaves this process.
        """
        if self.engines is not None:
            version = learner_version(self.learner_group)
            moved = self._weight_sync.sync(self.learner_group, version)
            self.sampler.set_weights(version)
            return moved
        # The old ones make room for the new ones.
        self.sampler.set_weights(self.sampler.weights_version)
        weights = learner_state(self.learner_group)
        version, moved = weights[WEIGHTS_SEQ_NO], int(weights[COMPONENT_RL_MODULE].n_bytes)
        if self.config.num_env_runners:
            self.sampler.set_weights(version, ray.put(weights))
            return moved
        self.env_runner.set_state(weights)
        self.sampler.set_weights(version)
        return moved if self.config.num_learners else 0

    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        with self.learner_watch.bounded():
            saved = str(super().save_to_path(path, **kwargs))
            save_shards(self.learner_group, Path(saved))
        self.sampler.save(Path(saved))
        return saved

    def export(self, path: Path) -> None:
        """Write the trained model as a plain checkpoint."""
        with self.learner_watch.bounded():
            export(self.learner_group, self.config.ppo, path)

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        # First: what RLlib restores last is the state, whose weights go to the env runners.
        load_shards(self.learner_group, Path(path))
        super().restore_from_path(path, *args, **kwargs)
        self.sampler.load(Path(path))

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        own = {"replay": self.selection.state_dict(), "ahead": self.sampler.state_dict()}
        state[STATE] = self.books.state_dict() | own
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if STATE in state:
            self.books.load_state_dict(state[STATE])
            self.selection.load_state_dict(state[STATE]["replay"])
            self.sampler.load_state_dict(state[STATE]["ahead"])
        self._sync()

    def cleanup(self) -> None:
        if self.sampler is not None:
            self.sampler.close()
        super().cleanup()
        if self.engines is not None:
            self.engines.close()


@dataclass(frozen=True, slots=True)
class Replayed:
    """A kept group, and the iteration that it was sampled in."""

    group: SampledGroup
    iteration: int


class ReplayBuffer:
    """Selective sample replay (SSR, VL-Rethinker, arXiv 2504.08837): keeps the newest groups within bounds of number,
    bytes and age, and draws from them with probability proportional to their weights (`training.batch.replay_weight`).

    Args:
        size: groups, at most.
        max_bytes: bytes, at most; a group that is larger alone is not kept.
        staleness: iterations after which a group is dropped.
    """

    def __init__(self, *, size: int, max_bytes: int, staleness: int) -> None:
        self._size, self._max_bytes, self._staleness = size, max_bytes, staleness
        # Oldest first.
        self.kept: list[Replayed] = []

    @property
    def n_bytes(self) -> int:
        return sum(entry.group.n_bytes for entry in self.kept)

    def add(self, group: SampledGroup, *, iteration: int) -> None:
        """Keep a group that was sampled in `iteration`; the oldest ones make room. One without weight is not kept."""
        if group.weight <= 0 or group.n_bytes > self._max_bytes:
            return
        self.kept.append(Replayed(group, iteration))
        while len(self.kept) > self._size or self.n_bytes > self._max_bytes:
            del self.kept[0]

    def draw(self, n: int, *, iteration: int, seed: int) -> list[Replayed]:
        """Up to `n` different groups that are not stale; they stay in the buffer.

        The same (seed, iteration) draws the same out of the same buffer. Stale groups are dropped.
        """
        self.kept = [entry for entry in self.kept if iteration - entry.iteration <= self._staleness]
        n = min(n, len(self.kept))
        if not n:
            return []
        weights = np.array([entry.group.weight for entry in self.kept])
        rng = np.random.default_rng([seed, 5, iteration])
        return [self.kept[k] for k in rng.choice(len(self.kept), n, replace=False, p=weights / weights.sum())]


class GroupSelection:
    """Leaves out groups whose rollouts all score alike, or replays earlier groups in their place, as the recipe's
    `uniform_groups` and `replay_...` say.

    Every minibatch of every learner needs a group. Where too few are left, uniform ones stay to fill up; they carry no
    loss.
    """

    def __init__(self, recipe: PPORecipe) -> None:
        self._recipe = recipe
        self._buffer = ReplayBuffer(
            size=recipe.replay_size, max_bytes=recipe.replay_bytes, staleness=recipe.replay_staleness
        )

    def select(
        self, groups: Sequence[SampledGroup], iteration: int, *, age: int = 0
    ) -> tuple[list[SampledGroup], dict[str, float]]:
        """Returns what to train on in an iteration, and the books of it. The groups were sampled `age` iterations
        before.

        The books: "groups/uniform" and "groups/dropped" (numbers), with replay also "groups/replayed" (number),
        "replay/share" (of the groups that are trained on), "replay/age" (mean iterations since they were sampled),
        "replay/size" (groups that are kept) and "replay/bytes".
        """
        recipe, buffer = self._recipe, self._buffer
        if recipe.uniform_groups == "keep":
            return list(groups), {}
        useful = [group for group in groups if group.weight > 0]
        uniform = [group for group in groups if group.weight <= 0]
        books, replayed = {"groups/uniform": float(len(uniform))}, []
        if recipe.uniform_groups == "replay":
            replayed = buffer.draw(len(uniform), iteration=iteration, seed=recipe.seed)
            ages = [iteration - entry.iteration for entry in replayed]
            books |= {"groups/replayed": float(len(replayed)), "replay/age": float(np.mean(ages or [0]))}
            for group in useful:
                buffer.add(replace(group, episodes=[]), iteration=iteration - age)
            books |= {"replay/size": float(len(buffer.kept)), "replay/bytes": float(buffer.n_bytes)}
        chosen = useful + [entry.group for entry in replayed]
        per_learner = 1 if recipe.minibatch_tokens else recipe.num_minibatches
        fill = uniform[: max(0, per_learner * max(recipe.num_learners, 1) - len(chosen))]
        books["groups/dropped"] = float(len(uniform) - len(fill))
        if recipe.uniform_groups == "replay":
            books["replay/share"] = len(replayed) / (len(chosen) + len(fill))
        return chosen + fill, books

    def state_dict(self) -> list[Replayed]:
        """The replayed groups themselves, to be pickled: up to `replay_bytes`."""
        return [replace(entry, group=entry.group.loaded()) for entry in self._buffer.kept]

    def load_state_dict(self, state: list[Replayed]) -> None:
        """Go on where `state_dict` was taken, with learners here or elsewhere."""
        elsewhere = self._recipe.num_learners > 0 or self._recipe.num_env_runners > 0
        self._buffer.kept = [replace(e, group=e.group.stored()) if elsewhere else e for e in state]


class AssignedGroups(TrainingData):
    """References to groups that are already assigned to learners (RLlib would cut the list into equal lengths)."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        super().__init__(episodes_refs=[ref for part in parts for ref in part])
        self._parts = parts

    def shard(self, num_shards: int, **kwargs: Any) -> list[tuple[TrainingData, dict[str, Any]]]:
        return [(TrainingData(episodes_refs=list(part)), {}) for part in self._parts]


def training_data(groups: Sequence[SampledGroup], recipe: PPORecipe) -> TrainingData:
    """What the learners get: whole groups, spread over them so that each has about as much to do.

    With `minibatch_tokens` the numbers of ids of two learners' shares differ by at most the largest group (see
    `training.batch.balanced`); else the numbers of groups differ by at most one.
    """
    data = [group.group for group in groups]
    if not recipe.num_env_runners and not recipe.num_learners:
        return TrainingData(episodes=data)
    if recipe.num_learners < 2 or (recipe.minibatch_tokens is None and recipe.uniform_groups == "keep"):
        return TrainingData(episodes_refs=data)
    sizes = [group.n_tokens if recipe.minibatch_tokens else 1.0 for group in groups]
    return AssignedGroups([[data[k] for k in part] for part in balanced(sizes, recipe.num_learners)])
