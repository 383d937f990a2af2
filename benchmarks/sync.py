"""New weights on their way to the engines of a node, against one copy of as many bytes in memory.

    python -m benchmarks.sync                      # 1 GB in bfloat16, two engines
    python -m benchmarks.sync --megabytes 16 --rounds 1

Real are the learner's batches, Ray's object store, processes of their own and the mapping of the store's memory; in
place of vLLM two processes copy what they map into tensors of their own, as its workers do. Each round measures both
sides in turn. Seconds are those of the processor, which hold on a machine that does other things, too: of the learner's
process, and of the engine's that takes most; medians are printed, and the ratio of a whole sync to the copy.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import ray
import torch
from torch import nn

from pxr_agents.engines.vllm.shared import mapped_weights, shared_weights
from training.learners import weight_batches
from training.rllib.store import StoredWeights

_WIDTH = 2048
# Rounds that are not counted: memory of the store that is touched for the first time costs seven times as much.
_FIRST_TOUCHES = 5


def model(n_bytes: int) -> nn.Module:
    """Square layers in bfloat16, of about so many bytes."""
    n_layers = max(n_bytes // (2 * _WIDTH**2), 1)
    layers = {f"layer{k}": nn.Linear(_WIDTH, _WIDTH, bias=False, dtype=torch.bfloat16) for k in range(n_layers)}
    return nn.ModuleDict({**layers, "lm_head": nn.Linear(_WIDTH, _WIDTH, bias=False, dtype=torch.bfloat16)})


class Learner:
    """Holds a model and puts its weights into the object store."""

    def __init__(self, n_bytes: int) -> None:
        self.model = model(n_bytes)

    def put(self) -> tuple[StoredWeights, float]:
        start = time.process_time()
        return StoredWeights.put(weight_batches(self.model)), time.process_time() - start


class Reader:
    """Takes weights as an engine's processes do; `take` returns the seconds of mapping and of copying."""

    def __init__(self, n_bytes: int) -> None:
        self.own = model(n_bytes).state_dict()

    def take(self, stored: StoredWeights) -> tuple[float, float]:
        start = time.process_time()
        with shared_weights(stored.tensors()) as places:
            assert not any(path.startswith(f"/proc/{os.getpid()}/") for _, path, *_ in places), "this is a copy"
            weights = list(mapped_weights(places))
            mapped = time.process_time()
            for name, weight in weights:
                self.own[name].copy_(weight)
        return mapped - start, time.process_time() - mapped

    def sums(self) -> float:
        return sum(float(weight.sum(dtype=torch.float64)) for weight in self.own.values())


def measure(n_bytes: int, n_readers: int, rounds: int) -> dict[str, float]:
    """Medians of processor seconds by part, "ratio", and the "wall" clock's seconds of a sync."""
    remote: Any = ray.remote
    learner = remote(Learner).options(num_cpus=0).remote(n_bytes)
    readers = [remote(Reader).options(num_cpus=0).remote(n_bytes) for _ in range(n_readers)]
    ray.get([reader.sums.remote() for reader in readers])
    source = torch.ones(n_bytes // 2, dtype=torch.bfloat16)
    target = torch.zeros_like(source)
    parts: dict[str, list[float]] = {"copy": [], "put": [], "map": [], "take": [], "wall": []}
    for number in range(_FIRST_TOUCHES + rounds):
        start = time.process_time()
        target.copy_(source)
        copied, begun = time.process_time() - start, time.perf_counter()
        stored, put = ray.get(learner.put.remote())
        taken = ray.get([reader.take.remote(stored) for reader in readers])
        # Its memory is for the next ones.
        del stored
        times = (copied, put, *map(max, zip(*taken, strict=True)), time.perf_counter() - begun)
        for seconds, part in zip(times, parts.values(), strict=True):
            part += [seconds] * (number >= _FIRST_TOUCHES)
    assert len(set(ray.get([reader.sums.remote() for reader in readers]))) == 1
    medians = {name: statistics.median(seconds) for name, seconds in parts.items()}
    return {**medians, "ratio": (medians["put"] + medians["map"] + medians["take"]) / medians["copy"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    n_bytes = arguments.megabytes * 10**6
    # Room for two versions: the memory of an old one is free a little later than its last reference.
    store = {"object_store_memory": max(3 * n_bytes, 100 * 2**20)}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", **store)
    try:
        found = measure(n_bytes, arguments.readers, arguments.rounds)
    finally:
        ray.shutdown()
    print(
        f"{arguments.megabytes} MB to {arguments.readers} engines: put {found['put']:.3f}, map {found['map']:.3f}, "
        f"take {found['take']:.3f} s of processor time, {found['ratio']:.2f} times a copy ({found['copy']:.3f} s); "
        f"{found['wall']:.3f} s by the clock"
    )


if __name__ == "__main__":
    main()
