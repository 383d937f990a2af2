"""The algorithm as RLlib sees it: its configuration, and one iteration: sample whole groups, update, sync."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import LEARNER_RESULTS, WEIGHTS_SEQ_NO

from pxr_agents.statistics import episode_statistics
from pxr_agents.types import Episode
from training.alarm import AlarmRule, AlarmState, Notice, usage_rates, watch_usage
from training.config import PPORecipe
from training.cursor import SampleCursor
from training.logs import combine_metrics
from training.probes import ProbePlan, ProbePlanner
from training.rllib.deepspeed_learner import DeepSpeedLearner
from training.rllib.engines import EngineGroup
from training.rllib.env_runner import SampledGroup, VLMEnvRunner, process_id, sampling_costs, weights_bytes
from training.rllib.group_selection import GroupSelection, training_data
from training.rllib.learner import TokenPPOLearner
from training.rllib.module import VLMModule
from training.rllib.pipeline import SamplingPipeline, staleness
from training.rllib.remote_engine import EngineHandles
from training.rllib.weight_sync import make_weight_sync
from training.rllib.weights import learner_state, learner_version, load_shards, save_shards

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
        self.rl_module(
            model_config={
                "path": recipe.model,
                "critic": recipe.advantage == "gae",
                "temperature": recipe.temperature,
                "learner": recipe.learner,
                "seed": recipe.seed,
            }
        )
        self.fault_tolerance(restart_failed_env_runners=True)
        self.debugging(seed=recipe.seed, log_level="ERROR")
        return self

    def get_default_learner_class(self) -> type[TokenPPOLearner]:
        return TokenPPOLearner if self.ppo is None or self.ppo.learner.kind == "ddp" else DeepSpeedLearner

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
        last_iteration: its numbers, unsmoothed.
        last_episodes: its episodes, without tokens.
        last_notices: what the alarm has to say of it (see `training.alarm`).
    """

    @classmethod
    def get_default_config(cls) -> Any:
        return VLMPPOConfig()

    engines: EngineGroup | None = None
    # A reference to what env runners with an engine of their own got last.
    _pushed: ray.ObjectRef | None = None

    def setup(self, config: Any) -> None:
        super().setup(config)
        ppo = self.config.ppo
        if ppo.engine.kind == "vllm":
            self.engines = EngineGroup.start(ppo.model, ppo.engine)
            self._weight_sync = make_weight_sync(self.engines, ppo.engine.vllm.weight_transfer)
        data: Any = self.env_runner.env.unwrapped.data
        self.cursor = SampleCursor(data.sample_ids(), seed=ppo.seed)
        self.n_bad_rows = len(getattr(data, "skipped", ()))
        self.probes = ProbePlanner(ppo, self.env_runner.env)
        self.selection = GroupSelection(ppo)
        self.pipeline = SamplingPipeline(
            ppo,
            self.env_runner_group,
            take=self.cursor.take,
            calls=lambda ids, iteration, n: self._calls(ids, (ppo.seed, 3, iteration, 0), n),
            sample=self._sample,
            processes=self._answering_processes,
        )
        self.last_iteration: dict[str, float] = {}
        self.last_episodes: list[Episode] = []
        self.last_notices: list[Notice] = []
        self.alarm = AlarmState()
        self._sync()

    def training_step(self) -> None:
        ppo, start = self.config.ppo, time.perf_counter()
        groups = self.pipeline.groups(self.iteration, self._weights_version)
        self.pipeline.begin(self.iteration)
        sampled = time.perf_counter()
        learned = self._learn(groups)
        updated = time.perf_counter()
        self.pipeline.finish()
        joined = time.perf_counter()
        moved = self._sync()
        episodes = [episode for group in groups for episode in group.episodes]
        self.probes.count(episodes, self.iteration)
        self.last_episodes = episodes
        rule = AlarmRule(rate=ppo.alarm_rate, iterations=ppo.alarm_iterations)
        self.alarm, self.last_notices = watch_usage(self.alarm, episodes, iteration=self.iteration + 1, rule=rule)
        self.last_iteration = {
            "iteration": float(self.iteration + 1),
            **self.probes.metrics(),
            **episode_statistics(episodes),
            **usage_rates(episodes),
            **self.alarm.flags(),
            **learned,
            **sampling_costs(groups),
            "bytes/weights": float(moved),
            **({"data/bad_rows": float(self.n_bad_rows)} if self.n_bad_rows else {}),
            "seconds/sample": sampled - start,
            "seconds/learn": updated - sampled,
            "seconds/sync": time.perf_counter() - joined,
            **self.pipeline.books(),
        }

    def _sample(
        self,
        sample_ids: Sequence[str],
        *,
        iteration: int | None = None,
        attempts: Sequence[int] = range(3),
        first: Callable[[], list[Any]] | None = None,
    ) -> list[SampledGroup]:
        """Every sample becomes a group. What a lost runner owed is sampled again by those that are left.

        The arguments are those of `SamplingPipeline`.
        """
        iteration = self.iteration if iteration is None else iteration
        done: dict[str, SampledGroup] = {}
        for attempt in attempts:
            missing = [s for s in sample_ids if s not in done]
            if missing:
                if first is not None and attempt == attempts[0]:
                    groups = self._received(first(), missing)
                else:
                    groups = self._sample_once(missing, (self.config.ppo.seed, 3, iteration, attempt))
                done |= {group.sample_id: group for group in groups}
                # References die with the runner that made them, even after it has answered.
                alive = self._answering_processes()
                done = {sample_id: group for sample_id, group in done.items() if group.process in alive}
        lost = [s for s in sample_ids if s not in done]
        if lost:
            raise RuntimeError(
                f"{len(lost)} of {len(sample_ids)} groups could not be sampled in {len(attempts)} attempts: env "
                f"runners died or took longer than rollout_timeout={self.config.sample_timeout_s:g} s. The last "
                f"checkpoint is whole; start the same command again to resume."
            )
        return [done[s] for s in sample_ids]

    def _sample_once(self, sample_ids: Sequence[str], seed: tuple[int, ...]) -> list[SampledGroup]:
        if not self.config.num_env_runners:
            if self.engines is not None:
                self.env_runner.connect(self.engines.handles())
            return self.env_runner.sample_groups(sample_ids, seed=(*seed, 0))
        workers = self._healthy_runners()
        if not workers:
            return []
        results = self.env_runner_group.foreach_env_runner(
            self._calls(sample_ids, seed, len(workers)),
            local_env_runner=False,
            remote_worker_ids=workers,
            timeout_seconds=self.config.sample_timeout_s,
        )
        return self._received(results, sample_ids)

    def _calls(self, sample_ids: Sequence[str], seed: tuple[int, ...], n: int) -> list[Callable[[Any], Any]]:
        """What each of n env runners is to run, so that together they sample all groups."""
        engines = None if self.engines is None else self.engines.handles()
        parts = np.array_split(np.array(sample_ids, object), n)
        return [
            functools.partial(
                _sample_groups,
                sample_ids=list(part),
                seed=(*seed, k),
                probes=probes,
                weights_version=self._weights_version,
                engines=engines,
            )
            for k, part in enumerate(parts)
        ]

    def _received(self, results: list[list[SampledGroup] | str], sample_ids: Sequence[str]) -> list[SampledGroup]:
        """The groups in the answers to `_calls`; env runners that owe some are made ready to sample them."""
        groups: list[SampledGroup] = []
        for result in results:
            if isinstance(result, str):
                raise RuntimeError(f"An env runner could not sample:\n{result}")
            groups += result
        if len(groups) < len(sample_ids):
            # A runner that was restarted has the weights it began with, and refused to sample with them.
            self.restore_env_runners(self.env_runner_group)
            self._push()
        return groups

    def _healthy_runners(self) -> list[int]:
        """Indices of the env runners that are up, after waiting for a restart if there is none."""
        deadline = time.monotonic() + self.config.sample_timeout_s
        while not (healthy := list(self.env_runner_group.healthy_worker_ids())) and time.monotonic() < deadline:
            time.sleep(0.5)
            self.restore_env_runners(self.env_runner_group)
        return healthy

    def _answering_processes(self) -> set[str]:
        """Ids of the env runners' processes that live; the local one's groups may have stayed in it."""
        if not self.config.num_env_runners:
            return {"", process_id()}
        return set(
            self.env_runner_group.foreach_env_runner(
                _process, local_env_runner=False, timeout_seconds=self.config.sample_timeout_s
            )
        )

    def _learn(self, groups: Sequence[SampledGroup]) -> dict[str, float]:
        age = max(staleness(group, self._weights_version) for group in groups)
        selected, books = self.selection.select(groups, self.iteration, age=age)
        results = self.learner_group.update(
            training_data=training_data(selected, self.config.ppo),
            iteration=self.iteration,
            weights_version=self._weights_version,
            timesteps={},
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        updates = [result.get() for result in self.learner_group.foreach_learner(_last_update)]
        return {f"learner/{name}": value for name, value in combine_metrics(updates).items()} | books

    def _sync(self) -> int:
        """Give every env runner or engine the learners' weights, and wait until all have them.

        Returns the bytes of the one copy that left the learners; 0 where nothing leaves this process.
        """
        if self.engines is not None:
            self._weights_version = learner_version(self.learner_group)
            return self._weight_sync.sync(self.learner_group, self._weights_version)
        weights = learner_state(self.learner_group)
        self._weights_version = weights[WEIGHTS_SEQ_NO]
        if not self.config.num_env_runners:
            self.env_runner.set_state(weights)
            return weights_bytes(weights) if self.config.num_learners else 0
        self._pushed = ray.put(weights)
        self._push()
        return weights_bytes(weights)

    def _push(self) -> None:
        """Give every env runner the weights of the last `_sync`, whatever the learners have by now."""
        if self._pushed is not None:
            self.env_runner_group.foreach_env_runner(
                "set_state",
                kwargs={"state": self._pushed},
                local_env_runner=False,
                timeout_seconds=self.config.sample_timeout_s,
            )

    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        saved = str(super().save_to_path(path, **kwargs))
        save_shards(self.learner_group, Path(saved))
        self.pipeline.save(Path(saved))
        return saved

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        # First: what RLlib restores last is the state, whose weights go to the env runners.
        load_shards(self.learner_group, Path(path))
        super().restore_from_path(path, *args, **kwargs)
        self.pipeline.load(Path(path))

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        state[STATE] = {
            "cursor": self.cursor.state_dict(),
            "probes": self.probes.state_dict(),
            "alarm": self.alarm.to_dict(),
            "replay": self.selection.state_dict(),
            "ahead": self.pipeline.state_dict(),
        }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if STATE in state:
            self.cursor.load_state_dict(state[STATE]["cursor"])
            self.probes.load_state_dict(state[STATE]["probes"])
            self.alarm = AlarmState.from_dict(state[STATE]["alarm"])
            self.selection.load_state_dict(state[STATE]["replay"])
            self.pipeline.load_state_dict(state[STATE]["ahead"])
        self._sync()

    def cleanup(self) -> None:
        if hasattr(self, "pipeline"):
            self.pipeline.abandon()
        super().cleanup()
        if self.engines is not None:
            self.engines.close()


def _sample_groups(
    runner: VLMEnvRunner,
    *,
    sample_ids: list[str],
    seed: tuple[int, ...],
    probes: ProbePlan,
    weights_version: int,
    engines: EngineHandles | None,
) -> list[SampledGroup] | str:
    """Runs on an env runner; returns nothing if its weights are old, and the traceback of an exception.

    RLlib would restart a runner that raises one, again and again, and keep its cause to itself.
    """
    if not sample_ids:
        return []
    try:
        if engines is not None:
            runner.connect(engines)
        if runner.weights_version != weights_version:
            return []
        return runner.sample_groups(sample_ids, seed=seed, probes=probes)
    except Exception:
        return traceback.format_exc()


def _process(runner: VLMEnvRunner) -> str:
    return process_id()


def _last_update(learner: TokenPPOLearner) -> dict[str, float]:
    return learner.last_update
