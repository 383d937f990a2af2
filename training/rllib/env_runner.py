"""Whole groups of episodes, sampled by the rollout loop inside an RLlib env runner, and what is said of them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import gymnasium
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

import pxr_env  # noqa: F401  (registers the tasks in the worker process)
from pxr_agents.agents import VLMAgent
from pxr_agents.chat import ChatFormat
from pxr_agents.checkpoint import read_checkpoint
from pxr_agents.engines import local_engine
from pxr_agents.engines.vllm.arguments import EngineError
from pxr_agents.groups import Group, group_jobs
from pxr_agents.rollout import rollout
from pxr_agents.types import Episode, LocalEngine, Sampling
from pxr_env.env import VisualReasoningEnv
from training.batch import group_bytes, replay_weight
from training.probes import ProbePlan, make_env
from training.rewards import Rewards, scored, settled_groups
from training.rllib.engines import EngineHandles, RemoteEngine
from training.rllib.store import StoredWeights, to_tensor
from training.run_directory import Fault, NonFiniteError, TrainingError
from training.watchdog import StuckEnvironmentError, Watchdog


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledGroup:
    """A group for the learners, and its episodes without tokens or images for the driver's books.

    Attributes:
        sample_id: the sample it belongs to.
        group: the `Group` (see `training.rewards.scored`), or a reference to it in the object store that belongs to
            the driver.
        episodes: its episodes.
        worker: index of the env runner.
        weight: see `training.batch.replay_weight`; 0 if its episodes all score alike.
        n_bytes: of its arrays; 0 for a group that is empty.
        settle_seconds: what its settlement took.
        n_tokens: ids of its episodes, context included.
        n_action_ids: those of them that were generated.
    """

    sample_id: str
    group: Any
    episodes: list[Episode]
    worker: int = 0
    weight: float = 0.0
    n_bytes: int = 0
    settle_seconds: float = 0.0
    n_tokens: int = 0
    n_action_ids: int = 0

    def staleness(self, weights_version: int) -> int:
        """How many versions older than `weights_version` the oldest weights are that sampled in it."""
        versions = [step.weights_version for episode in self.episodes for step in episode.steps]
        return max((weights_version - version for version in versions if version is not None), default=0)

    def loaded(self) -> SampledGroup:
        """With the group itself, which can be pickled. Raises RayError if it is gone."""
        return replace(self, group=ray.get(self.group)) if isinstance(self.group, ray.ObjectRef) else self

    def stored(self) -> SampledGroup:
        """With a reference to the group, which belongs to this process."""
        return replace(self, group=ray.put(self.group))


def sampling_costs(groups: Sequence[SampledGroup]) -> dict[str, float]:
    """`bytes/groups` through the object store; `seconds/settle` of the env runner that took longest (they settle at
    the same time, within `seconds/sample`); `tokens/generated`, and `tokens/total` with the context they have."""
    by_worker: dict[int, float] = {}
    for group in groups:
        by_worker[group.worker] = by_worker.get(group.worker, 0.0) + group.settle_seconds
    return {
        "bytes/groups": float(sum(group.n_bytes for group in groups if isinstance(group.group, ray.ObjectRef))),
        "seconds/settle": max(by_worker.values(), default=0.0),
        "tokens/generated": float(sum(group.n_action_ids for group in groups)),
        "tokens/total": float(sum(group.n_tokens for group in groups)),
    }


class VLMEnvRunner(EnvRunner, Checkpointable):
    """Environments in one process, with the current weights and a transformers engine, or with engines elsewhere."""

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        # With remote runners the local one exists only to describe spaces and state: it needs no model.
        self._samples = self.worker_index != 0 or config.num_env_runners == 0
        if self._samples and self.worker_index != 0:
            torch.set_num_threads(1)
        self.module: Any = None
        self._engine: Any = None
        self._chat: ChatFormat | None = None
        self._watchdog = Watchdog(config.ppo.env_timeout)
        self.envs: list[gymnasium.Env[Any, Any]] = []
        self.make_env()
        self.make_module()

    def make_env(self) -> None:
        self.envs = [self._new_env()]
        self.env = self.envs[0]

    def _new_env(self) -> gymnasium.Env[Any, Any]:
        ppo = self.config.ppo
        return self._watchdog.watch(make_env(ppo.env, probes=ppo.probes.enabled))

    def make_module(self) -> None:
        if not self._samples or self.config.ppo.engine.kind == "vllm":
            return
        spec = self.config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build()
        self._use(local_engine(self.config.ppo.engine.kind, self.module.vlm), self.module.vlm.chat)

    def connect(self, engines: EngineHandles, weights_version: int) -> None:
        """Sample with the engines of a group, and with weights of that version."""
        self._chat = self._chat or read_checkpoint(engines.path).chat
        self._use(RemoteEngine(engines, weights_version=weights_version, first=self.worker_index), self._chat)

    @property
    def weights_version(self) -> int:
        """Of the weights that its engine samples with."""
        return 0 if self._engine is None else self._engine.weights_version

    def _use(self, engine: LocalEngine | RemoteEngine, chat: ChatFormat) -> None:
        ppo, task = self.config.ppo, cast(VisualReasoningEnv, self.env.unwrapped)
        stop = task.dialect.stop_strings if ppo.stop_strings else ()
        self._engine = engine
        sampling = Sampling(temperature=ppo.temperature, max_tokens=ppo.max_tokens, stop=stop)
        self._agent = VLMAgent(chat, engine, sampling)

    def get_spaces(self) -> dict[str, tuple[gymnasium.Space[Any], gymnasium.Space[Any]]]:
        spaces = (self.env.observation_space, self.env.action_space)
        return {"__env__": spaces, "__env_single__": spaces, DEFAULT_MODULE_ID: spaces}

    def sample(self, **kwargs: Any) -> Any:
        raise NotImplementedError("Groups are sampled by name: call sample_groups(sample_ids, seed=...)")

    def sample_groups(
        self, sample_ids: Sequence[str], *, seed: Sequence[int], probes: ProbePlan | None = None
    ) -> list[SampledGroup]:
        """Roll out `group_size` episodes of each sample and settle them.

        Args:
            sample_ids: the samples; each becomes one group.
            seed: numbers that the noise follows from, with each sample and member of a group.
            probes: what rollouts are made to begin with; nothing by default.

        Raises:
            StuckEnvironmentError: an environment did not come back within `env_timeout`, or cannot show its sample; all
                are made anew.
            NonFiniteError: it gave a reward that is no finite number.
        """
        ppo = self.config.ppo
        n_envs = min(len(sample_ids) * ppo.group_size, ppo.max_envs_per_runner)
        self.envs += [self._new_env() for _ in range(n_envs - len(self.envs))]
        # Said to every rollout: the wrapper would decide by itself where nothing is said.
        told = (probes or {}) if ppo.probes.enabled else None
        jobs = group_jobs(sample_ids, ppo.group_size, seed=seed, probes=told)
        rewards = Rewards(ppo)
        try:
            with self._watchdog:
                episodes = rollout(self.envs, self._agent, jobs, rewards.begin)
        except StuckEnvironmentError:
            # Who knows what state they are in. They are not closed: that could hang as well.
            self.make_env()
            if self.module is not None:
                version = self.weights_version
                self._use(local_engine(self.config.ppo.engine.kind, self.module.vlm), self.module.vlm.chat)
                self._engine.set_weights_version(version)
            raise
        start = time.perf_counter()
        groups = settled_groups(episodes, ppo, rewards)
        settled = (time.perf_counter() - start) / len(groups)
        return [self._sampled(group, settled) for group in groups]

    def _sampled(self, group: Group, settle_seconds: float) -> SampledGroup:
        """The group as the driver gets it: only what leaves this process goes through the object store."""
        ppo = self.config.ppo
        # What a remote env runner returns goes there by itself.
        put = self.worker_index == 0 and self.config.num_learners > 0
        tokens = [episode.tokens for episode in group.episodes if episode.tokens]
        known = scored(group, ppo)
        return SampledGroup(
            sample_id=group.sample_id,
            group=ray.put(known) if put else known,
            episodes=[replace(episode, tokens=None) for episode in group.episodes],
            worker=self.worker_index,
            weight=replay_weight(known, ppo),
            n_bytes=group_bytes(known),
            settle_seconds=settle_seconds,
            n_tokens=sum(len(each.ids) for each in tokens),
            n_action_ids=sum(int(each.action.sum()) for each in tokens),
        )

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = {WEIGHTS_SEQ_NO: self.weights_version}
        if self.module is not None and self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = {DEFAULT_MODULE_ID: self.module.get_state(inference_only=True)}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Take weights (a dict or a reference to one); their version marks every completion they sample.

        A state without weights changes nothing: RLlib sends one to a restarted env runner, whose weights are still the
        ones it was built with.
        """
        weights = state.get(COMPONENT_RL_MODULE)
        if weights is None or self.module is None:
            return
        if isinstance(weights, StoredWeights):
            weights = {f"model.{name}": tensor for name, tensor in weights.tensors().items()}
        elif isinstance(weights, ray.ObjectRef):
            weights = ray.get(weights)
        weights = weights.get(DEFAULT_MODULE_ID, weights)
        self.module.set_state({name: to_tensor(weight) for name, weight in weights.items()})
        self._engine.set_weights_version(state.get(WEIGHTS_SEQ_NO, self.weights_version))

    def get_metrics(self) -> Any:
        return self.metrics.reduce()

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), {"config": self.config}

    def assert_healthy(self) -> None:
        assert self.envs, "the environments were not made"

    def stop(self) -> None:
        for env in self.envs:
            env.close()


@dataclass(kw_only=True, slots=True)
class SamplingAttempt:
    """What came of asking for groups once, of one env runner or of all.

    Attributes:
        groups: those that are there, and stay whatever dies from now on.
        stuck: samples whose environment did not come back, or could not show them, with what is known of it.
        lost: of each env runner that did not come back, what it was sampling, with how it was lost.
        faults: what else went wrong.
        error: what an env runner would raise again.
        seconds: what the env runner took that was at it longest.
    """

    groups: list[Any] = field(default_factory=list)
    stuck: dict[str, str] = field(default_factory=dict)
    lost: list[tuple[list[str], str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    error: TrainingError | None = None
    seconds: float = 0.0

    def add(self, other: SamplingAttempt) -> None:
        """Raises TrainingError if the other one has an error."""
        if other.error is not None:
            raise other.error
        self.groups += other.groups
        self.stuck |= other.stuck
        self.faults += other.faults
        self.seconds = max(self.seconds, other.seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingCall:
    """How groups are to be sampled.

    Attributes:
        seed: numbers that make the sampling noise unique and repeatable.
        weights_version: of the weights to sample with.
        engines: where they are, unless every env runner has its own.
        probes: which rollouts are made to begin with which operation.
    """

    seed: tuple[int, ...]
    weights_version: int
    engines: EngineHandles | None
    probes: ProbePlan


def sample_on(runner: VLMEnvRunner, *, sample_ids: Sequence[str], call: SamplingCall) -> SamplingAttempt:
    """Runs where the env runner is; brings nothing if its weights are not those that were asked for."""
    attempt = SamplingAttempt()
    start = time.perf_counter()
    try:
        if call.engines is not None:
            runner.connect(call.engines, call.weights_version)
        if runner.weights_version == call.weights_version:
            attempt.groups = runner.sample_groups(sample_ids, seed=call.seed, probes=call.probes)
    except StuckEnvironmentError as error:
        attempt.stuck[error.sample_id] = str(error)
    except EngineError as error:
        attempt.faults.append(Fault("engine", str(error)))
    except NonFiniteError as error:
        attempt.error = error
    except Exception:
        # RLlib would start an env runner that raises one again, and again, and keep its cause to itself.
        attempt.error = TrainingError(f"An env runner could not sample:\n{traceback.format_exc()}")
    attempt.seconds = time.perf_counter() - start
    return attempt


def sample_apart(runner: VLMEnvRunner, *, sample_ids: Sequence[str], call: SamplingCall) -> tuple[Any, ...]:
    """As `sample_on`; its groups come beside it, as values of their own: what a process puts into the object store dies
    with it, what a call returns belongs to the caller."""
    attempt = sample_on(runner, sample_ids=sample_ids, call=call)
    whole = [sampled.group for sampled in attempt.groups] or [None] * len(sample_ids)
    attempt.groups = [replace(sampled, group=None) for sampled in attempt.groups]
    return attempt, *whole
