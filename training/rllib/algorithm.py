"""The algorithm as RLlib sees it: its configuration, and one iteration: sample whole groups, update, sync."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import LEARNER_RESULTS

from pxr_agents.statistics import episode_statistics
from pxr_env.curiosity import UsageRates
from training.config import PPORecipe
from training.cursor import SampleCursor
from training.rllib.env_runner import SampledGroup, VLMEnvRunner
from training.rllib.learner import TokenPPOLearner
from training.rllib.module import VLMModule

STATE = "pxr"


class VLMPPOConfig(PPOConfig):
    """`VLMPPOConfig().recipe(recipe).build_algo()` is a trainer; everything of ours is in `self.ppo`.

    Attributes:
        ppo: the recipe.
        threads_per_env_runner: torch threads of each remote env runner.
    """

    def __init__(self, algo_class: Any = None) -> None:
        super().__init__(algo_class or VLMPPO)
        self.ppo: PPORecipe | None = None
        self.threads_per_env_runner = 1
        self.env_runner_cls = VLMEnvRunner
        self.use_gae = False
        self.use_critic = False
        self.batch_mode = "complete_episodes"

    def recipe(self, recipe: PPORecipe) -> Self:
        """Take every setting from a recipe."""
        self.ppo = recipe
        self.environment(recipe.env.id, env_config=recipe.env.kwargs)
        self.env_runners(
            num_env_runners=recipe.num_env_runners,
            # Fractions: env runners and learners take turns, so together they may claim more than there is.
            num_cpus_per_env_runner=recipe.num_cpus_per_env_runner,
            create_env_on_local_worker=True,
        )
        self.learners(
            num_learners=recipe.num_learners,
            num_cpus_per_learner=recipe.num_cpus_per_learner,
            num_gpus_per_learner=0,
        )
        self.training(lr=recipe.lr, grad_clip=recipe.max_grad_norm, grad_clip_by="global_norm")
        self.rl_module(
            model_config={
                "path": recipe.model,
                "critic": recipe.advantage == "gae",
                "temperature": recipe.temperature,
            }
        )
        self.fault_tolerance(restart_failed_env_runners=True)
        self.debugging(seed=recipe.seed, log_level="ERROR")
        return self

    def get_default_learner_class(self) -> type[TokenPPOLearner]:
        return TokenPPOLearner

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
    """PPO on groups of VLM episodes. `train()` runs one iteration; `last_iteration` holds its numbers, unsmoothed."""

    @classmethod
    def get_default_config(cls) -> Any:
        return VLMPPOConfig()

    def setup(self, config: Any) -> None:
        super().setup(config)
        ppo = self.config.ppo
        data: Any = self.env_runner.env.unwrapped.data
        self.cursor = SampleCursor(data.sample_ids(), seed=ppo.seed)
        self.usage_rates = UsageRates(max_samples=10_000)
        self.last_iteration: dict[str, float] = {}
        self._sync()

    def training_step(self) -> None:
        ppo, start = self.config.ppo, time.perf_counter()
        groups = self._sample(self.cursor.take(ppo.groups_per_iteration))
        sampled = time.perf_counter()
        learned = self._learn(groups)
        updated = time.perf_counter()
        self._sync()
        episodes = [episode for group in groups for episode in group.episodes]
        for episode in episodes:
            self.usage_rates.record(episode.task, episode.sample_id, episode.usage)
        self.last_iteration = {
            "iteration": float(self.iteration + 1),
            **episode_statistics(episodes),
            **learned,
            "seconds/sample": sampled - start,
            "seconds/learn": updated - sampled,
            "seconds/sync": time.perf_counter() - updated,
        }

    def _sample(self, sample_ids: Sequence[str]) -> list[SampledGroup]:
        """Every sample becomes a group. What a lost runner owed is sampled again by those that are left."""
        ppo, attempts = self.config.ppo, 3
        done: dict[str, SampledGroup] = {}
        for attempt in range(attempts):
            missing = [s for s in sample_ids if s not in done]
            if not missing:
                break
            seed = (ppo.seed, 3, self.iteration, attempt)
            for group in self._sample_once(missing, seed):
                done[group.sample_id] = group
        lost = [s for s in sample_ids if s not in done]
        if lost:
            raise RuntimeError(
                f"{len(lost)} of {len(sample_ids)} groups could not be sampled in {attempts} attempts: env runners died "
                f"or took longer than sample_timeout_s={self.config.sample_timeout_s}. The last checkpoint is intact; "
                f"start the same command again to resume."
            )
        return [done[s] for s in sample_ids]

    def _sample_once(self, sample_ids: Sequence[str], seed: tuple[int, ...]) -> list[SampledGroup]:
        runners = self.env_runner_group
        if runners.num_remote_env_runners() == 0:
            return self.env_runner.sample_groups(sample_ids, seed=(*seed, 0))
        workers = runners.healthy_worker_ids()
        if not workers:
            # Replacements are being started; wait for one of them.
            self.restore_env_runners(runners)
            time.sleep(1.0)
            return []
        parts = np.array_split(np.array(sample_ids, object), len(workers))
        calls = [
            functools.partial(_sample_groups, sample_ids=list(part), seed=(*seed, k)) for k, part in enumerate(parts)
        ]
        results = runners.foreach_env_runner(
            calls,
            local_env_runner=False,
            remote_worker_ids=workers,
            timeout_seconds=self.config.sample_timeout_s,
        )
        return [group for result in results for group in result]

    def _learn(self, groups: Sequence[SampledGroup]) -> dict[str, float]:
        refs = [group.ref for group in groups]
        results = self.learner_group.update(
            training_data=TrainingData(episodes_refs=refs), iteration=self.iteration, timesteps={}
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        learned: dict[str, float] = {}
        for name, value in self.metrics.peek((LEARNER_RESULTS, DEFAULT_MODULE_ID)).items():
            number = value.peek() if hasattr(value, "peek") else value
            if np.ndim(number) == 0:
                learned[f"learner/{name}"] = float(number)
        return learned

    def _sync(self) -> None:
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, policies=[DEFAULT_MODULE_ID], inference_only=True
        )

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        state[STATE] = {"cursor": self.cursor.state_dict(), "usage_rates": self.usage_rates.to_dict()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if STATE in state:
            self.cursor.load_state_dict(state[STATE]["cursor"])
            self.usage_rates = UsageRates.from_dict(state[STATE]["usage_rates"])
        self._sync()


def _sample_groups(runner: VLMEnvRunner, *, sample_ids: list[str], seed: tuple[int, ...]) -> list[SampledGroup]:
    return runner.sample_groups(sample_ids, seed=seed) if sample_ids else []
