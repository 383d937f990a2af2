"""Weights and checkpoints out of a learner group, whose learners may hold but a part of them each, and into engines.

What is sharded is gathered by all learners together; whatever asks one learner alone would wait forever.
"""

from __future__ import annotations

import logging
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import ray
import torch
import torch.distributed
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from torch import Tensor

from pxr_agents.checkpoint import published_weights
from ..config import PPORecipe
from ..learners import adapter_weights, export_model, plain_weights, universal_checkpoint, weight_batches
from .engines import EngineGroup
from .store import StoredWeights

SHARDS = "shards"
# Seconds a step of a weight transfer may take.
_STEP_TIMEOUT = 600.0


def on_learners(learner_group: Any, function: Callable[[Any], Any]) -> list[Any]:
    """What `function(learner)` returns on each learner, all at the same time; the first exception is raised here."""
    results = list(learner_group.foreach_learner(function))
    for result in results:
        if not result.ok:
            raise result.get()
    return [result.get() for result in results]


def named_weights(learner: Any) -> Iterator[tuple[str, Tensor]]:
    """The model's weights on a learner, with adapters merged, as `training.learners.plain_weights` has them."""
    return plain_weights(_model(learner))


def stored_weights(learner_group: Any) -> StoredWeights:
    """The model's weights in the object store of the first learner, which alone copies them."""

    def put(learner: Any) -> StoredWeights:
        batches = weight_batches(_model(learner))
        if _is_first():
            return StoredWeights.put(batches)
        for _ in batches:
            pass  # The others take part in gathering them.
        return StoredWeights()

    return on_learners(learner_group, put)[0]


def learner_weights(learner_group: Any) -> dict[str, Tensor]:
    """The model's state dict, under the names transformers gives its parameters, on the CPU, to read only."""
    return stored_weights(learner_group).tensors()


def learner_state(learner_group: Any) -> dict[str, Any]:
    """What env runners with an engine of their own take in `set_state`: the weights and their version."""
    version = learner_version(learner_group)
    return {COMPONENT_RL_MODULE: stored_weights(learner_group), WEIGHTS_SEQ_NO: version}


def learner_gpus(learner_group: Any) -> list[tuple[str, str]]:
    """Node and number there of each learner's GPU."""

    def home(learner: Any) -> tuple[str, str]:
        context = ray.get_runtime_context()
        return context.get_node_id(), context.get_accelerator_ids()["GPU"][0]

    return on_learners(learner_group, home)


def learner_version(learner_group: Any) -> int:
    """How many updates made the learners' weights: the version that env runners and engines know them by."""
    state = learner_group.get_state(components=f"{COMPONENT_LEARNER}/{WEIGHTS_SEQ_NO}")
    return int(state[COMPONENT_LEARNER][WEIGHTS_SEQ_NO])


def export(learner_group: Any, recipe: PPORecipe, path: Path) -> None:
    """Write the trained model as `training.learners.export_model` does; all learners are alive."""
    adapters: dict[str, Tensor] = {}
    if recipe.learner.lora_rank:
        # A copy: what is gathered goes.
        copied = on_learners(
            learner_group,
            lambda learner: {name: x.to("cpu", copy=True) for name, x in adapter_weights(_model(learner))},
        )
        adapters = copied[0]
    export_model(recipe, learner_weights(learner_group), adapters, path)


def save_shards(learner_group: Any, path: Path) -> None:
    """Let every learner write its part of a checkpoint below `path`, a directory that all of them see. Of learners that
    each hold everything RLlib saves what the first one has."""
    folder = Path(path).absolute() / SHARDS
    on_learners(learner_group, lambda learner: learner.save_shard(folder) if hasattr(learner, "save_shard") else None)


def load_shards(learner_group: Any, path: Path) -> None:
    """Let every learner read its part of a checkpoint (see `save_shards`). What another number of learners wrote is put
    together first, in a directory beside, and split anew."""
    folder = Path(path).absolute() / SHARDS
    if not folder.exists():
        return
    n_learners, n_shards = max(len(learner_group), 1), len(list(folder.glob("*/*_optim_states.pt")))
    if n_shards == n_learners:
        on_learners(learner_group, lambda learner: learner.load_shard(folder))
        return
    logging.getLogger(__name__).warning(
        "%s was written by %d learners: its weights and optimizer states are split anew for %d; nothing is lost",
        path, n_shards, n_learners,
    )  # fmt: skip
    whole = folder.with_name("whole")
    try:
        on_learners(learner_group, lambda learner: universal_checkpoint(folder, whole) if _is_first() else None)
        on_learners(learner_group, lambda learner: learner.load_shard(whole, universal=True))
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def _model(learner: Any) -> Any:
    return learner.module[DEFAULT_MODULE_ID].unwrapped().model


def _is_first() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


class WeightSync:
    """Gives engines the learners' weights, in the way that `engine.vllm.weight_transfer` names.

    | way | learners and engines | what happens |
    |---|---|---|
    | "none" | anywhere, CPUs too | whole, through Ray's object store: one copy a node, which its engines map |
    | "nccl" | GPUs of their own | learner rank 0 broadcasts to all engines, GPU to GPU, by vLLM's weight transfer |
    | "ipc" | the same GPUs | engines map the learner's memory, by vLLM's weight transfer |

    Transfers are written against vLLM 0.32.
    """

    def __init__(self, engines: EngineGroup, way: Literal["none", "nccl", "ipc"]) -> None:
        self._engines, self._way = engines, way
        self._opened = False

    def sync(self, learner_group: Any, version: int) -> int:
        """Returns once every engine has them, and completes with them as `version`: the bytes of one copy."""
        if self._way == "none":
            self._engines.drop()
            weights = stored_weights(learner_group)
            self._engines.push(weights, version)
            return weights.n_bytes
        if not self._opened:
            way, actors, gpus = self._way, tuple(self._engines.actors), self._engines.gpus_per_engine
            address = on_learners(learner_group, _free_address)[0]
            on_learners(learner_group, lambda learner: _open(learner, way, actors, gpus, address))
            self._opened = True
        return int(max(on_learners(learner_group, lambda learner: _send(learner, version))))


class ActorsClient:
    """What vLLM's sender calls on the side of the engine actors, which have `gpus` each: every step on all at once.
    `version` is that of the weights that are sent next."""

    def __init__(self, actors: Sequence[Any], gpus: int) -> None:
        self.actors, self.gpus, self.version = actors, gpus, 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        infos = [dict(init_info) for _ in self.actors]
        for k, info in enumerate(infos):
            # The ranks of an engine follow those of the engines before it.
            if "rank_offset" in info:
                info["rank_offset"] += k * self.gpus
        calls = [actor.transfer.remote("open", info) for actor, info in zip(self.actors, infos, strict=True)]
        ray.get(calls, timeout=_STEP_TIMEOUT)

    def start_weight_update(self) -> None:
        self._step("begin")

    def update_weights(self, update_info: Any) -> None:
        self._step("receive", update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._step("end", self.version)

    def _step(self, name: str, *arguments: Any) -> None:
        ray.get([actor.transfer.remote(name, *arguments) for actor in self.actors], timeout=_STEP_TIMEOUT)


def _open(
    learner: Any, backend: Literal["nccl", "ipc"], actors: tuple[Any, ...], gpus: int, address: tuple[str, int]
) -> None:
    """Runs on every learner."""
    from pxr_agents.engines.vllm.transfer import Rendezvous, open_sender

    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    host, port = address
    learner.weight_client = ActorsClient(actors, gpus)
    learner.weight_sender = open_sender(
        backend,
        rank=rank,
        client=learner.weight_client,
        named_weights=lambda: _counted(learner),
        rendezvous=Rendezvous(address=host, port=port, world_size=1 + gpus * len(actors)),
    )


def _counted(learner: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights of a learner as checkpoints have them; it counts their bytes in `sent_bytes`."""
    learner.sent_bytes = 0
    for name, tensor in published_weights(_model(learner).config.model_type, named_weights(learner)):
        learner.sent_bytes += tensor.nbytes
        yield name, tensor


def _send(learner: Any, version: int) -> int:
    """Runs on every learner, in step. Returns the bytes that went through it."""
    learner.weight_client.version = version
    learner.sent_bytes = 0
    learner.weight_sender.send_weights()
    return int(learner.sent_bytes)


def _free_address(learner: Any) -> tuple[str, int]:
    """An address of the node of this learner and a port that is free there."""
    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), int(free.getsockname()[1])
