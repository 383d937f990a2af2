"""The algorithm as RLlib sees it: its configuration, and one iteration: sample whole groups, update, sync."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import ray
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import LEARNER_RESULTS, WEIGHTS_SEQ_NO

from pxr_agents.types import Episode
from training.alarm import Notice
from training.config import PPORecipe
from training.faults import Fault, check_rewards, count_faults, skipped_steps
from training.logs import combine_metrics
from training.policy import policy_arguments
from training.ppo_run import Books
from training.rllib.deepspeed_learner import DeepSpeedPPOLearner
from training.rllib.engines import EngineGroup
from training.rllib.env_runner import SampledGroup, VLMEnvRunner, sampling_costs, weights_bytes
from training.rllib.group_selection import GroupSelection, training_data
from training.rllib.learner import LearnerWatch, TokenPPOLearner, VLMModule, failed_batch
from training.rllib.pipeline import SamplingPipeline, staleness
from training.rllib.sampling import RunnerPool, SamplingAttempt, SamplingCall, attempt_of, sample_all, sample_on
from training.rllib.weights import WeightSync, export, learner_state, learner_version, load_shards, save_shards
from training.run_directory import NonFiniteError

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
        self.rl_module(model_config=policy_arguments(recipe))
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
        last_iteration, last_episodes, last_notices, last_faults: as of `training.ppo_run.Trainer`; the episodes come
            without tokens.
        books: which samples come next, and what was counted.
        weights_version: how many updates made the weights that are sampled with from now on. It is known here alone:
            who samples is told it with every call, and refuses if it has other weights.
        learner_watch: ends waits for learners that die or hang.
    """

    @classmethod
    def get_default_config(cls) -> Any:
        return VLMPPOConfig()

    engines: EngineGroup | None = None
    _runners: RunnerPool | None = None
    # A reference to what env runners with an engine of their own got last.
    _pushed: ray.ObjectRef | None = None

    def setup(self, config: Any) -> None:
        super().setup(config)
        ppo = self.config.ppo
        if ppo.engine.kind == "vllm":
            self.engines = EngineGroup.start(ppo.model, ppo.engine)
            self._weight_sync = WeightSync(self.engines, ppo.engine.vllm.weight_transfer)
        self.books = Books(ppo, self.env_runner.env)
        self.selection = GroupSelection(ppo)
        self.pipeline = SamplingPipeline(
            ppo, take=self.books.cursor.take, sample=self._sample, begin=self._begin, finish=self._finish
        )
        self.last_iteration: dict[str, float] = {}
        self.last_episodes: list[Episode] = []
        self.last_notices: list[Notice] = []
        self.last_faults: list[Fault] = []
        self._runners = RunnerPool(
            self.env_runner_group,
            timeout=ppo.rollout_timeout,
            restore=lambda: self.restore_env_runners(self.env_runner_group),
        )
        self.learner_watch = LearnerWatch(self.learner_group, ppo.learner_timeout)
        self._sync()

    def training_step(self) -> None:
        start = time.perf_counter()
        self.last_faults = []
        groups = self.pipeline.groups(self.iteration, self.weights_version)
        self.pipeline.begin(self.iteration)
        sampled = time.perf_counter()
        with self.learner_watch.bounded():
            learned = self._learn(groups)
        updated = time.perf_counter()
        self.pipeline.finish()
        joined = time.perf_counter()
        with self.learner_watch.bounded():
            moved = self._sync()
        episodes = [episode for group in groups for episode in group.episodes]
        self.last_episodes = episodes
        self.last_iteration = {
            **self.books.count(episodes, self.iteration),
            **learned,
            **sampling_costs(groups),
            "bytes/weights": float(moved),
            **count_faults(self.last_faults),
            "seconds/sample": sampled - start,
            "seconds/learn": updated - sampled,
            "seconds/sync": time.perf_counter() - joined,
            **self.pipeline.books(),
        }
        self.last_notices = self.books.notices

    def _sample(
        self,
        sample_ids: Sequence[str],
        *,
        iteration: int | None = None,
        first_attempt: int = 0,
        begun: SamplingAttempt | None = None,
    ) -> list[SampledGroup]:
        """A group of every sample (see `training.rllib.sampling`).

        Args:
            sample_ids: the samples.
            iteration: the one whose groups they are, by default the one under way.
            first_attempt: the number that attempts are counted from, so that noise never comes twice.
            begun: what came of the first attempt, if that was begun earlier.
        """

        def once(asked: Sequence[str], attempt: int, alone: bool) -> SamplingAttempt:
            if begun is not None and attempt == first_attempt:
                return self._ready_again(begun, len(asked))
            call = self._call(asked, self.iteration if iteration is None else iteration, attempt)
            if self._runners is not None and self.config.num_env_runners:
                result = self._runners.sample(asked, call, alone=alone)
            else:
                result = attempt_of([sample_on(self.env_runner, sample_ids=asked, call=call)])
            return self._ready_again(result, len(asked))

        groups: list[SampledGroup] = sample_all(
            sample_ids, once, another=self._another, report=self.last_faults.append, first_attempt=first_attempt
        )
        check_rewards([episode for group in groups for episode in group.episodes])
        return groups

    def _another(self, taken: Sequence[str]) -> str:
        """The next sample that is none of these."""
        while True:
            [sample_id] = self.books.cursor.take(1)
            if sample_id not in taken:
                return sample_id

    def _call(self, sample_ids: Sequence[str], iteration: int, attempt: int) -> SamplingCall:
        return SamplingCall(
            seed=(self.config.ppo.seed, 3, iteration, attempt),
            weights_version=self.weights_version,
            engines=None if self.engines is None else self.engines.handles,
            probes=self.books.probes.plan(sample_ids, iteration),
        )

    def _begin(self, sample_ids: Sequence[str], iteration: int) -> None:
        assert self._runners is not None
        self._runners.begin(sample_ids, self._call(sample_ids, iteration, 0))

    def _finish(self, sample_ids: Sequence[str], iteration: int) -> tuple[list[SampledGroup], float]:
        assert self._runners is not None
        attempt = self._runners.finish()
        return self._sample(sample_ids, iteration=iteration, begun=attempt), attempt.seconds

    def _ready_again(self, result: SamplingAttempt, n: int) -> SamplingAttempt:
        """What came of asking for n groups; whoever owes some is made ready to be asked for them."""
        if len(result.groups) < n:
            if self.engines is not None and any(fault.kind == "engine" for fault in result.faults):
                self.engines.check(timeout=min(60.0, self.config.ppo.engine.turn_timeout))
            # An env runner that was started again has the weights it began with, and refused to sample with them.
            self.restore_env_runners(self.env_runner_group)
            self._push()
        return result

    def _learn(self, groups: Sequence[SampledGroup]) -> dict[str, float]:
        age = max(staleness(group, self.weights_version) for group in groups)
        selected, books = self.selection.select(groups, self.iteration, age=age)
        try:
            results = self.learner_group.update(
                training_data=training_data(selected, self.config.ppo),
                iteration=self.iteration,
                weights_version=self.weights_version,
                timesteps={},
            )
        except NonFiniteError as error:
            raise failed_batch(error, self.learner_group) from error
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        updates = [result.get() for result in self.learner_group.foreach_learner(_metrics)]
        learned = combine_metrics(updates)
        self.last_faults += skipped_steps(learned)
        return {f"learner/{name}": value for name, value in learned.items()} | books

    def _sync(self) -> int:
        """Give every env runner or engine the learners' weights, and wait until all have them.

        Returns the bytes of the one copy that left the learners; 0 where nothing leaves this process.
        """
        if self.engines is not None:
            self.weights_version = learner_version(self.learner_group)
            return self._weight_sync.sync(self.learner_group, self.weights_version)
        weights = learner_state(self.learner_group)
        self.weights_version = weights[WEIGHTS_SEQ_NO]
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
        with self.learner_watch.bounded():
            saved = str(super().save_to_path(path, **kwargs))
            save_shards(self.learner_group, Path(saved))
        self.pipeline.save(Path(saved))
        return saved

    def export(self, path: Path) -> None:
        """Write the trained model as a plain checkpoint."""
        with self.learner_watch.bounded():
            export(self.learner_group, self.config.ppo, path)

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        # First: what RLlib restores last is the state, whose weights go to the env runners.
        load_shards(self.learner_group, Path(path))
        super().restore_from_path(path, *args, **kwargs)
        self.pipeline.load(Path(path))

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        state[STATE] = {
            **self.books.state_dict(),
            "replay": self.selection.state_dict(),
            "ahead": self.pipeline.state_dict(),
        }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if STATE in state:
            self.books.load_state_dict(state[STATE])
            self.selection.load_state_dict(state[STATE]["replay"])
            self.pipeline.load_state_dict(state[STATE]["ahead"])
        self._sync()

    def cleanup(self) -> None:
        if self._runners is not None:
            self._runners.close()
        super().cleanup()
        if self.engines is not None:
            self.engines.close()


def _metrics(learner: TokenPPOLearner) -> dict[str, float]:
    return learner.ppo.metrics()
