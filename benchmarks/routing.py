"""What it brings that a group stays with one engine: hits of vLLM's caches, by group and by conversation.

    OMP_NUM_THREADS=1 python -m benchmarks.routing --model runs/quickstart/warm --engines 2

One env runner samples the same groups of 8 in the environment of `ppo_tiny` twice, with fresh caches, over small vLLM
engines on the CPU: with conversations sent where the fewest are, and with those of one prompt sent to the same engine.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import Any

import ray

from benchmarks.ppo import VLLM, VLLM_VARIABLES
from pxr_agents.vlm import VLM
from training.config import EngineRecipe, PPORecipe, load_recipe
from training.rllib import engines, remote_engine
from training.rllib.algorithm import VLMPPOConfig
from training.rllib.env_runner import VLMEnvRunner
from training.rllib.run import joined_ray
from training.rllib.sample_queue import Part, SampleQueue
from training.rllib.store import StoredWeights

COUNTS = ("prefix_queries", "prefix_hits", "image_queries", "image_hits")


def counts(group: engines.EngineGroup) -> list[int]:
    """vLLM's own, added up over the engines."""
    each = ray.get([actor.__ray_call__.remote(lambda self: self._core.cache_counter.counts) for actor in group.actors])
    return [sum(engine[name] for engine in each) for name in COUNTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/quickstart/warm")
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--groups", type=int, default=16)
    arguments = parser.parse_args()
    os.environ.update(VLLM_VARIABLES)
    # vLLM 0.32 ends on a CPU where a seeded prompt does not fit into one step.
    vllm = replace(VLLM, max_num_batched_tokens=1 << 15)
    recipe = EngineRecipe(kind="vllm", num_engines=arguments.engines, num_cpus_per_engine=0.25, vllm=vllm)
    base = load_recipe("ppo_tiny", PPORecipe, [f"model={arguments.model}", "engine.kind=vllm", "wandb=false"])
    samples = [f"train-{k}" for k in range(arguments.groups)]
    route: Any = remote_engine.Router.route
    weights = VLM.from_pretrained(arguments.model).model.state_dict()
    with joined_ray(1):
        group = engines.EngineGroup.start(arguments.model, recipe)
        for name, router in (("by conversation", lambda *a, prompt=None: route(*a)), ("by group", route)):
            remote_engine.Router.route = router  # type: ignore[method-assign]
            runner = VLMEnvRunner(config=VLMPPOConfig().recipe(base), worker_index=1)
            queue: Any = ray.remote(SampleQueue).options(num_cpus=0).remote()
            ray.get(queue.put.remote([Part([sample_id], [0]) for sample_id in samples]))
            # New weights empty all caches.
            group.push(StoredWeights.put([weights]), 0)
            before = counts(group)
            done = list(runner.sample_from(queue, group.handles, refill=True))[1::2]
            asked, had, images, kept = (now - old for now, old in zip(counts(group), before, strict=True))
            print(
                f"{name}: {len(done) - 1} groups, {asked} ids of prompts, {had / asked:.1%} from the cache, "
                f"{asked - had} computed; {images} images, {kept / images:.1%} from the cache, {images - kept} prepared"
            )
        group.close()


if __name__ == "__main__":
    main()
