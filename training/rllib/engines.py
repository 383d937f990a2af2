"""vLLM engines as Ray actors: where they run, that they are alive, that they have the weights.

    group = EngineGroup.start("models/Qwen2.5-VL-7B", EngineRecipe(kind="vllm", num_engines=4))
    group.push(StoredWeights.put([weights]), version=3)
    engine = RemoteEngine(group.handles, weights_version=3)          # in any process, see `remote_engine`

An engine that dies is started again by Ray. It fetches the weights that were pushed last from the `WeightStore`, and
completes nothing before: every request says which version it wants.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from pxr_agents.checkpoint import read_checkpoint
from pxr_agents.engines.vllm import DeadEngineError, EngineError, StaleWeightsError, StartArguments
from pxr_agents.types import Completion, Request, Sampling
from ..config import EngineRecipe
from .remote_engine import EngineHandles
from .store import StoredWeights, WeightStore


class EngineActor:
    """One vLLM engine in a Ray actor. It starts at the first call, and again after a restart; on `gpus` (their numbers
    on its node) that it shares with learners and has from nobody, if there are any."""

    def __init__(self, path: str, arguments: StartArguments, store: Any, gpus: tuple[str, ...] = ()) -> None:
        self._path, self._arguments, self._store, self._gpus = path, arguments, store, gpus
        self._core: Any = None
        self._push = 0
        self._lock = asyncio.Lock()

    async def complete(self, request: Request, sampling: Sampling, weights_version: int) -> Completion:
        """As `AsyncCore.complete`, with weights of that version or newer.

        Raises:
            StaleWeightsError: the engine has older ones.
        """
        core = await self._started()
        if core.weights_version < weights_version:
            raise StaleWeightsError(
                f"The engine has weights of version {core.weights_version}, and {weights_version} was asked for"
            )
        references: Sequence[Any] = request.images
        images = await asyncio.gather(*references)
        try:
            completion: Completion = await core.complete(replace(request, images=images), sampling)
        except DeadEngineError:
            # Ray starts this process again, and with it vLLM's; callers see that the actor died.
            os._exit(1)
        return completion

    @ray.method(max_task_retries=-1)
    async def refresh(self) -> int:
        """Take the weights in the store unless they are loaded already; returns the version of those that are."""
        core = await self._started()
        async with self._lock:
            await self._take_stored(core)
        return int(core.weights_version)

    @ray.method(max_task_retries=-1)
    async def sleep(self) -> None:
        """As `AsyncCore.sleep`."""
        core = await self._started()
        async with self._lock:
            await core.sleep()

    @ray.method(max_task_retries=-1)
    async def check_health(self) -> None:
        """Returns if vLLM is alive; ends this process if not."""
        try:
            await (await self._started()).check_health()
        except DeadEngineError:
            os._exit(1)

    async def transfer(self, step: str, *arguments: Any) -> None:
        """One step of a weight transfer: "open", "begin", "receive" or "end" (see `AsyncCore`)."""
        await getattr(await self._started(), f"{step}_transfer")(*arguments)

    async def _started(self) -> Any:
        async with self._lock:
            if self._core is None:
                if self._gpus:
                    # Ray hides all GPUs from a process that reserves none.
                    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus)
                from pxr_agents.engines.vllm.core import AsyncCore

                core = AsyncCore(self._path, self._arguments, sleep_mode=bool(self._gpus))
                await core.start()
                await self._take_stored(core)
                self._core = core
        return self._core

    async def _take_stored(self, core: Any) -> None:
        # Versions may come again with other weights, where a run is resumed.
        push, version, stored = await self._store.get.remote()
        if push != self._push and stored.batches:
            await core.reload(await stored.fetch(), version)
            self._push = push


def shared_gpus(
    homes: Sequence[tuple[str, str]], num_engines: int, gpus_per_engine: int
) -> list[tuple[str, tuple[str, ...]]]:
    """Node and GPUs of every engine, from those of every learner: no GPU gets two engines, no engine two nodes.

    Raises:
        EngineError: there are fewer such places than engines.
    """
    by_node: dict[str, list[str]] = {}
    for node, gpu in homes:
        by_node.setdefault(node, []).append(gpu)
    places = [
        (node, tuple(gpus[k : k + gpus_per_engine]))
        for node, gpus in by_node.items()
        for k in range(0, len(gpus) - gpus_per_engine + 1, gpus_per_engine)
    ]
    if len(places) < num_engines:
        raise EngineError(
            f"engine.colocate: num_engines={num_engines} of {gpus_per_engine} GPUs of one node each; the learners have "
            f"{', '.join(f'{len(gpus)} on {node}' for node, gpus in by_node.items())}. Start fewer engines, or smaller "
            f"ones (engine.vllm.tensor_parallel_size)."
        )
    return places[:num_engines]


class EngineGroup:
    """The engines of a run, and their owner. Make one with `start`, and `close` it. `places` are scheduling strategies
    for each engine, and the GPUs it shares there."""

    def __init__(
        self,
        path: str,
        recipe: EngineRecipe,
        places: Sequence[tuple[Any, tuple[str, ...]]],
        placement: PlacementGroup | None = None,
    ) -> None:
        self._path, self._recipe, self._placement = path, recipe, placement
        self._store: Any = ray.remote(WeightStore).options(num_cpus=0).remote()
        engine_class: Any = ray.remote(EngineActor)
        # Handles of CUDA memory travel pickled to vLLM's processes.
        variables = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"} if recipe.vllm.weight_transfer == "ipc" else {}
        self.actors = [
            engine_class.options(
                num_cpus=recipe.num_cpus_per_engine,
                num_gpus=recipe.num_gpus_per_engine,
                # What came by a transfer cannot be given to a new process: then a lost engine ends the run.
                max_restarts=-1 if recipe.vllm.weight_transfer == "none" else 0,
                max_task_retries=0,
                max_concurrency=100_000,
                scheduling_strategy=strategy,
                runtime_env={"env_vars": variables},
            ).remote(path, recipe.vllm, self._store, gpus)
            for strategy, gpus in places
        ]

    @classmethod
    def start(cls, path: str, recipe: EngineRecipe, homes: Sequence[tuple[str, str]] = ()) -> EngineGroup:
        """Reserve a place for every engine, start them all and wait until they answer.

        Args:
            path: the checkpoint.
            recipe: how many, and how.
            homes: node and number of each learner's GPU, on which engines with `recipe.colocate` start.

        Raises:
            EngineError: there is no room for them, or they do not start within `recipe.timeout` seconds.
            FileNotFoundError, ValueError: as `read_checkpoint`.
        """
        read_checkpoint(path)
        if recipe.colocate:
            shared = shared_gpus(homes, recipe.num_engines, recipe.vllm.tensor_parallel_size)
            group = cls(path, recipe, [(NodeAffinitySchedulingStrategy(node, soft=False), ids) for node, ids in shared])
        else:
            group = cls._apart(path, recipe)
        try:
            group._call_all("refresh")
        except BaseException:
            group.close()
            raise
        return group

    @classmethod
    def _apart(cls, path: str, recipe: EngineRecipe) -> EngineGroup:
        """With a place of its own for each engine."""
        bundle = {"CPU": recipe.num_cpus_per_engine, "GPU": recipe.num_gpus_per_engine}
        needed = {name: amount for name, amount in bundle.items() if amount}
        placement = placement_group([needed or {"CPU": 0.001}] * recipe.num_engines, strategy="PACK")
        if not placement.wait(recipe.timeout):
            remove_placement_group(placement)
            raise EngineError(
                f"num_engines={recipe.num_engines} need {needed} each, and the cluster has "
                f"{ray.available_resources()} left of {ray.cluster_resources()}. Start fewer, or reserve less for each."
            )
        bundles = (PlacementGroupSchedulingStrategy(placement, k) for k in range(recipe.num_engines))
        return cls(path, recipe, [(bundle, ()) for bundle in bundles], placement)

    @property
    def gpus_per_engine(self) -> int:
        return self._recipe.vllm.tensor_parallel_size

    @property
    def handles(self) -> EngineHandles:
        return EngineHandles(self._path, tuple(self.actors), self._recipe.turn_timeout)

    def sleep(self) -> None:
        """Let engines that share GPUs with learners leave them to those, until new weights come."""
        if self._recipe.colocate:
            self._call_all("sleep")

    def drop(self) -> None:
        """Free the memory of the weights pushed last; an engine that restarts now waits for the next ones."""
        ray.get(self._store.drop.remote(), timeout=self._recipe.timeout)

    def push(self, weights: StoredWeights, version: int) -> None:
        """Give every engine new weights (a whole state dict) and wait until all have them."""
        ray.get(self._store.put.remote(version, weights), timeout=self._recipe.timeout)
        self._call_all("refresh")

    def check(self, timeout: float = 60.0) -> None:
        """Restart engines that died or do not answer within `timeout` seconds, with the current weights."""
        self._call_all("check_health", timeout=timeout)
        self._call_all("refresh")

    def close(self) -> None:
        """Stop all engines and free their place."""
        for actor in [*self.actors, self._store]:
            ray.kill(actor)
        if self._placement is not None:
            remove_placement_group(self._placement)

    def _call_all(self, method: str, *, timeout: float | None = None) -> None:
        """Wait until all engines have answered. Those that hang are killed, and restarted by Ray, which asks them
        again.

        Raises:
            EngineError: one did not answer after that, either.
        """
        calls = [getattr(actor, method).remote() for actor in self.actors]
        _, hung = ray.wait(calls, num_returns=len(calls), timeout=timeout or self._recipe.timeout)
        for call in hung:
            ray.kill(self.actors[calls.index(call)], no_restart=False)
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=self._recipe.timeout if hung else 0)
        lost = [k for k, call in enumerate(calls) if call not in ready or not _answered(call)]
        if lost:
            raise EngineError(
                f"Engines {lost} of {len(self.actors)} did not answer {method!r} within {self._recipe.timeout:g} s, "
                f"nor after a restart. Is there too little memory (engine.vllm.gpu_memory_utilization), or is "
                f"engine.timeout too short?"
            )


def _answered(call: ray.ObjectRef) -> bool:
    try:
        ray.get(call)
    except RayActorError:
        return False
    return True
