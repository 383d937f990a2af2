"""Whole groups of episodes, sampled by the rollout loop inside an RLlib env runner, and what is said of them."""

from __future__ import annotations

import time
import traceback
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, cast

import gymnasium
import ray
import torch
from ray.exceptions import TaskCancelledError
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
from pxr_agents.rollout import OnStep, rollouts
from pxr_agents.types import Episode, LocalEngine, Sampling
from ..arms import GroupPlan
from ..batch import group_bytes, replay_weight
from ..environments import make_env
from ..rewards import Rewards, scored, settled_groups
from ..run_directory import Fault, TrainingError
from ..watchdog import StuckEnvironmentError, Watchdog
from .remote_engine import EngineHandles, RemoteEngine
from .sample_queue import Part
from .store import StoredWeights, to_tensor


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
        self._remote: RemoteEngine | None = None
        self._weights_number = 0
        self._unfinished = False
        self._watchdog = Watchdog(config.ppo.env_timeout)
        self.envs: list[gymnasium.Env[Any, Any]] = []
        self.make_env()
        self.make_module()

    def make_env(self) -> None:
        self.envs = [self._new_env()]
        self.env = self.envs[0]

    def _new_env(self) -> gymnasium.Env[Any, Any]:
        ppo = self.config.ppo
        return self._watchdog.watch(make_env(ppo.env, arms=ppo.has_arms))

    def make_module(self) -> None:
        if not self._samples or self.config.ppo.engine.kind == "vllm":
            return
        spec = self.config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build()
        self._use(local_engine(self.config.ppo.engine.kind, self.module.vlm), self.module.vlm.chat)

    @property
    def weights_version(self) -> int:
        """Of the weights that its engine samples with."""
        return 0 if self._engine is None else self._engine.weights_version

    def _use(self, engine: LocalEngine | RemoteEngine, chat: ChatFormat) -> None:
        ppo = self.config.ppo
        self._engine = engine
        sampling = Sampling(temperature=ppo.temperature, max_tokens=ppo.max_tokens)
        self._agent = VLMAgent(chat, engine, sampling, stop_strings=ppo.stop_strings)

    def get_spaces(self) -> dict[str, tuple[gymnasium.Space[Any], gymnasium.Space[Any]]]:
        spaces = (self.env.observation_space, self.env.action_space)
        return {"__env__": spaces, "__env_single__": spaces, DEFAULT_MODULE_ID: spaces}

    def sample(self, **kwargs: Any) -> Any:
        raise NotImplementedError("Groups are sampled by name: call sample_groups(parts)")

    def sample_from(self, queue: Any, engines: EngineHandles | None, *, refill: bool) -> Iterator[Any]:
        """Sample what is in a `SampleQueue` until it is empty, as a stream of values of their own, which belong to the
        caller and outlive this process: two for every group as it finishes, the `Group` and what is said of it.

        In place of a `SampledGroup` may come a fault, or an error to raise, and at last the seconds that it took; the
        value before is None then.

        Args:
            queue: the queue.
            engines: where they are, unless the env runner has its own.
            refill: go on with the next part as soon as an environment is free; else when the one before is done.
        """
        start = time.perf_counter()
        # A stream that was cancelled may end at any value.
        if self._unfinished:
            self.survive(TaskCancelledError())
        self._unfinished = True
        try:
            while (part := self._take(queue, engines)) is not None:
                more = iter(lambda: self._take(queue, engines), None) if refill else ()
                for piece in self.sample_groups(chain([part], more), _stop_if_cancelled):
                    yield piece.group if isinstance(piece, SampledGroup) else None
                    yield replace(piece, group=None) if isinstance(piece, SampledGroup) else piece
        except Exception as error:
            yield None
            yield self.survive(error)
        self._unfinished = False
        yield None
        yield time.perf_counter() - start

    def _take(self, queue: Any, engines: EngineHandles | None) -> Part | None:
        """The next part, with the weights of now in place."""
        _stop_if_cancelled()
        part, (number, version, weights) = ray.get(queue.take.remote(self.worker_index))
        if engines is not None and self._remote is None:
            self._chat = self._chat or read_checkpoint(engines.path).chat
            self._remote = RemoteEngine(engines, weights_version=version, first=self.worker_index)
            self._use(self._remote, self._chat)
        if number != self._weights_number:
            self._weights_number = number
            if self._remote is not None:
                self._remote.weights_version = version
            for reference in weights:
                self.set_state(ray.get(reference))
        return cast(Part | None, part)

    def sample_groups(
        self, parts: Iterable[Part], on_step: OnStep | None = None
    ) -> Generator[SampledGroup | Fault, None, None]:
        """Roll out `group_size` episodes of each sample and settle them: each group as it finishes, or what went wrong
        with it. Parts are asked for one by one, when there is an environment for them.

        Raises:
            StuckEnvironmentError: an environment did not come back within `env_timeout`, or cannot show its sample.
            NonFiniteError: it gave a reward that is no finite number.
            TrainingError: as `Rewards.add_to`.
            EngineError: an engine is lost, with all that was under way.
        """
        ppo, size = self.config.ppo, self.config.ppo.group_size
        plans: dict[str, GroupPlan] = {}
        jobs = (
            job
            for part in parts
            # Said to every rollout: the wrapper would decide by itself where nothing is said.
            for job in group_jobs(
                part.sample_ids, size, seed=part.seed, arms=_arms(part, plans) if ppo.has_arms else None
            )
        )
        rewards, unfinished, over = Rewards(ppo), defaultdict[int, dict[int, Episode]](dict), deque[list[Episode]]()
        with self._watchdog:
            for key, episode in rollouts(self._all_envs(), self._agent, jobs, on_step):
                rewards.begin(episode)
                members = unfinished[key // size]
                members[key % size] = episode
                if self._remote is not None and (broken := self._remote.broken.pop(key, None)):
                    yield Fault("engine", f"{broken}; its group is sampled again", sample_id=episode.sample_id)
                    members.clear()
                if len(members) == size:
                    over.append([members[k] for k in range(size)])
                    del unfinished[key // size]
                # Nobody waits for a judge while there is something to roll out.
                while over and rewards.known(over[0]):
                    yield self._settled(over.popleft(), rewards, plans)
        for episodes in over:
            yield self._settled(episodes, rewards, plans)

    def _settled(self, episodes: Sequence[Episode], rewards: Rewards, plans: Mapping[str, GroupPlan]) -> SampledGroup:
        start = time.perf_counter()
        [group] = settled_groups(episodes, self.config.ppo, rewards, plans)
        return self._sampled(group, time.perf_counter() - start)

    def _all_envs(self) -> Iterator[gymnasium.Env[Any, Any]]:
        """Those that are there, then new ones, up to the limit."""
        for k in range(self.config.ppo.max_envs_per_runner):
            if k == len(self.envs):
                self.envs.append(self._new_env())
            yield self.envs[k]

    def survive(self, error: Exception) -> Fault | TrainingError | None:
        """Begin anew after what ended a rollout; returns what is to be said of it, None if it was cancelled."""
        if isinstance(error, StuckEnvironmentError) and error.interrupted:
            # They are not closed: that could hang as well.
            self.make_env()
        if self._remote is not None:
            self._remote.close()
            self._remote = None
        elif self.module is not None:
            version = self.weights_version
            self._use(local_engine(self.config.ppo.engine.kind, self.module.vlm), self.module.vlm.chat)
            self._engine.set_weights_version(version)
        if isinstance(error, TaskCancelledError):
            return None
        if isinstance(error, StuckEnvironmentError):
            return Fault("stuck", str(error), sample_id=error.sample_id)
        if isinstance(error, EngineError):
            return Fault("engine", str(error))
        if isinstance(error, TrainingError):
            return error
        # RLlib would start an env runner that raises one again, and again, and keep its cause to itself.
        told = "".join(traceback.format_exception(error))
        return TrainingError(f"An env runner could not sample:\n{told}")

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


def _arms(part: Part, plans: dict[str, GroupPlan]) -> dict[str, Sequence[str | None]]:
    """Of each sample of a part what its rollouts are made to do; its plans are noted."""
    plans |= part.plans
    return {sample_id: plan.arms for sample_id, plan in part.plans.items()}


def _stop_if_cancelled(*_: object) -> None:
    context = ray.get_runtime_context()
    # A driver cannot be asked.
    if context.get_actor_id() is not None and context.is_canceled():
        raise TaskCancelledError
