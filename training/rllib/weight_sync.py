"""How new weights get from the learners to the engines. Three ways, one call: `sync(learner_group, version)`.

| way | learners and engines | what happens |
|---|---|---|
| `StoreSync` | anywhere, CPUs too | whole, through Ray's object store; engines reload them from shared memory |
| `TransferSync`, "nccl" | GPUs of their own | learner rank 0 broadcasts to all engines, GPU to GPU |
| `TransferSync`, "ipc" | the same GPUs | engines map the learner's memory |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import ray
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from pxr_agents.checkpoint import published_weights
from training.rllib.engines import EngineGroup
from training.rllib.weights import learner_weights, named_weights, on_learners


class WeightSync(Protocol):
    """Gives the engines of a group the learners' weights."""

    def sync(self, learner_group: Any, version: int) -> int:
        """Returns once every engine has them; what it completes from then on carries `version`.

        Returns:
            Bytes of one copy.
        """


def make_weight_sync(engines: EngineGroup, way: Literal["none", "nccl", "ipc"]) -> WeightSync:
    """The way that `engine.vllm.weight_transfer` names."""
    return StoreSync(engines) if way == "none" else TransferSync(engines, way)


class StoreSync:
    """Through the object store."""

    def __init__(self, engines: EngineGroup) -> None:
        self._engines = engines

    def sync(self, learner_group: Any, version: int) -> int:
        weights = learner_weights(learner_group)
        self._engines.push(weights, version)
        return sum(tensor.nbytes for tensor in weights.values())


class TransferSync:
    """By vLLM's weight transfer. Written against vLLM 0.32; needs GPUs."""

    def __init__(self, engines: EngineGroup, backend: Literal["nccl", "ipc"]) -> None:
        self._engines, self._backend = engines, backend
        self._opened = False

    def sync(self, learner_group: Any, version: int) -> int:
        backend, actors = self._backend, tuple(self._engines.actors)
        gpus = self._engines.gpus_per_engine
        if not self._opened:
            address = on_learners(learner_group, _free_address)[0]
            on_learners(learner_group, lambda learner: _open(learner, backend, actors, gpus, address))
            self._opened = True
        sent = on_learners(learner_group, lambda learner: _send(learner, version))
        self._engines.announce(version)
        return max(sent)


class ActorsClient:
    """What vLLM's sender calls on the engines' side: every step on all engines at once.

    Args:
        actors: the engine actors.
        gpus: of each engine; its ranks follow those of the engines before it.
        timeout: seconds a step may take.

    Attributes:
        version: of the weights that are sent next.
    """

    def __init__(self, actors: Sequence[Any], gpus: int, *, timeout: float = 600.0) -> None:
        self.actors, self.gpus, self.timeout = actors, gpus, timeout
        self.version = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        infos = [dict(init_info) for _ in self.actors]
        for k, info in enumerate(infos):
            if "rank_offset" in info:
                info["rank_offset"] += k * self.gpus
        self._get([actor.transfer.remote("open", info) for actor, info in zip(self.actors, infos, strict=True)])

    def start_weight_update(self) -> None:
        self._get([actor.transfer.remote("begin") for actor in self.actors])

    def update_weights(self, update_info: Any) -> None:
        self._get([actor.transfer.remote("receive", update_info) for actor in self.actors])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._get([actor.transfer.remote("end", self.version) for actor in self.actors])

    def _get(self, calls: list[Any]) -> None:
        ray.get(calls, timeout=self.timeout)


def _open(
    learner: Any, backend: Literal["nccl", "ipc"], actors: tuple[Any, ...], gpus: int, address: tuple[str, int]
) -> None:
    """Runs on every learner."""
    import torch.distributed

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
    model_type = learner.module[DEFAULT_MODULE_ID].unwrapped().model.config.model_type
    for name, tensor in published_weights(model_type, named_weights(learner)):
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
    import socket

    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), int(free.getsockname()[1])
