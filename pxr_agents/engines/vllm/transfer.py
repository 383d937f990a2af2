"""The learner's end of vLLM's weight transfer: weights go from GPU to GPU, by NCCL or CUDA IPC.

The engine's end is `AsyncCore.open_transfer` and what follows it there. Needs GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerInitInfo, VLLMWeightSyncClient, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

NamedWeights = Callable[[], Iterator[tuple[str, Tensor]]]
"""Yields the whole state dict, tied weights under all their names. Called on every rank, in step (it may gather)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendezvous:
    """Where learners and engines meet for NCCL: an address of learner rank 0, and how many ranks come.

    `world_size` is 1 (only rank 0 of the learners sends) plus the GPUs of all engines.
    """

    address: str
    port: int
    world_size: int


class StateDictSource(WeightSource):
    """Weights as vLLM's senders read them: names and shapes first, then tensors in the same order."""

    def __init__(self, named_weights: NamedWeights) -> None:
        self._named_weights = named_weights
        self._metadata: list[ParamMeta] | None = None

    def metadata(self) -> list[ParamMeta]:
        if self._metadata is None:
            self._metadata = [
                ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self._named_weights()
            ]
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._named_weights()


def open_sender(
    backend: Literal["nccl", "ipc"],
    *,
    rank: int,
    client: VLLMWeightSyncClient,
    named_weights: NamedWeights,
    rendezvous: Rendezvous,
) -> Any:
    """Connect this learner to the engines; `.send_weights()` of what is returned sends, on every rank in step.

    "nccl" is for learners and engines with GPUs of their own, "ipc" for engines that share theirs with a learner each.
    Rank 0 of the learners drives.
    """
    info: TrainerInitInfo = IPCTrainerInitInfo(rank=rank)
    if backend == "nccl":
        address, port = rendezvous.address, rendezvous.port
        info = NCCLTrainerInitInfo(
            master_address=address, master_port=port, world_size=rendezvous.world_size, rank=rank
        )
    return WeightTransferTrainerFactory.trainer_init(info, client=client, source=StateDictSource(named_weights))
