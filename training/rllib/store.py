"""Weights in Ray's object store: one copy on each node that needs them, which all processes of the node map.

stored = StoredWeights.put(weight_batches(model))   # on a learner: no other process copies them
for name, tensor in stored.tensors().items(): ...   # in any process, read only
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

_BFLOAT16 = np.dtype([("bfloat16", np.uint16)])


def to_array(tensor: Tensor) -> np.ndarray:
    """The same memory as an array, which the processes of a node share through Ray; a tensor would be pickled.

    numpy does not know bfloat16: its bits are integers then, in a field of that name.
    """
    tensor = tensor.detach()
    if tensor.dtype != torch.bfloat16:
        return np.asarray(tensor.numpy())
    return np.asarray(tensor.contiguous().view(torch.uint16).numpy()).view(_BFLOAT16)


def to_tensor(weight: np.ndarray | Tensor) -> Tensor:
    """The inverse of `to_array`; a tensor stays what it is."""
    if isinstance(weight, Tensor) or weight.dtype != _BFLOAT16:
        return torch.as_tensor(weight)
    return torch.as_tensor(weight.view(np.uint16)).view(torch.bfloat16)


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """References to batches of weights, which live as long as the process that put them there, and their bytes. Where
    there is no Ray, and so but one process, the batches themselves."""

    batches: tuple[Any, ...] = ()
    n_bytes: int = 0

    @classmethod
    def put(cls, batches: Iterable[Mapping[str, Tensor]]) -> StoredWeights:
        """Copy named weights into the store of this node; a batch may go once the next one is asked for."""
        keep: Any = ray.put if ray.is_initialized() else copy.deepcopy
        kept, n_bytes = [], 0
        for batch in batches:
            arrays = {name: to_array(tensor.detach().cpu()) for name, tensor in batch.items()}
            kept.append(keep(arrays))
            n_bytes += sum(array.nbytes for array in arrays.values())
        return cls(tuple(kept), n_bytes)

    def tensors(self) -> dict[str, Tensor]:
        """All of them in the shared memory of this node, to read only; they are fetched first if they are elsewhere."""
        return _joined(ray.get(batch) if isinstance(batch, ray.ObjectRef) else batch for batch in self.batches)

    async def fetch(self) -> dict[str, Tensor]:
        """`tensors`, for actors that are asynchronous."""
        return _joined(await asyncio.gather(*self.batches))


def _joined(batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Tensor]:
    return {name: to_tensor(array) for batch in batches for name, array in batch.items()}


class WeightStore:
    """A Ray actor that knows the weights pushed last: the number of the push, the version, and where they are; without
    batches before the first push and during one."""

    def __init__(self) -> None:
        self._latest = (0, 0, StoredWeights())

    def put(self, version: int, weights: StoredWeights) -> None:
        self._latest = (self._latest[0] + 1, version, weights)

    def drop(self) -> None:
        """Forget the weights, so that the next ones take their place in memory."""
        push, version, _ = self._latest
        self._latest = (push, version, StoredWeights())

    def get(self) -> tuple[int, int, StoredWeights]:
        return self._latest
