"""Does memory grow with iterations? A hundred iterations of PPO, and the memory of every process after each.

    OMP_NUM_THREADS=1 python -m benchmarks.soak --model runs/quickstart/warm                      # one process
    OMP_NUM_THREADS=1 python -m benchmarks.soak --model runs/quickstart/warm --runners 1 --learners 1

The recipe is `ppo_tiny` with all that keeps something from one iteration to the next switched on: replay, checkpoints,
tables of episodes, wandb offline. Every process keeps up to 256 MiB of decoded pictures (`pxr_env/media/images.py`). So
that this is not taken for growth, there are only as many samples as come by in the warm-up, and the driver, which draws
few of them for its tables, keeps 8 MiB. After the warm-up a line is fitted to the memory of the driver, each env runner
and each learner (what is its own: pages of Ray's object store that it has looked at belong to the store) and to the
bytes in that store. Its slope is the median of all slopes between two iterations (Theil-Sen), its interval holds 95% of
block bootstraps. The exit status is 1 if a whole interval lies above `--bound`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import ray

from pxr_env.media.images import decoded_cache
from training.config import PPORecipe, load_recipe
from training.rllib.run import ray_session, run_ppo
from training.run_directory import Interrupted

#: What stands in the title of a process.
ROLES = {"env runner": "VLMEnvRunner", "learner": "_WrappedExecutable"}
KIB = 1024
GROUPS = 8
"""Samples in an iteration."""


def sample_memory() -> dict[str, float]:
    """KiB of the driver, of the processes below it by role and number, and of the object store."""
    driver = psutil.Process()
    memory = {"driver": own_memory(driver)}
    for role, title in ROLES.items():
        found = [p for p in driver.children(recursive=True) if title in " ".join(p.cmdline())]
        for number, process in enumerate(sorted(found, key=lambda p: p.create_time())):
            memory[f"{role} {number}"] = own_memory(process)
    total, free = (
        resources().get("object_store_memory", 0.0) for resources in (ray.cluster_resources, ray.available_resources)
    )
    memory["object store"] = (total - free) / KIB
    return memory


def own_memory(process: psutil.Process) -> float:
    """KiB that a process shares with nobody and no file."""
    info = process.memory_info()
    return float(info.rss - info.shared) / KIB


def theil_sen(values: np.ndarray) -> float:
    """The median slope between two values, per step."""
    i, j = np.triu_indices(len(values), 1)
    return float(np.median((values[j] - values[i]) / (j - i)))


def slope_interval(values: Sequence[float], *, block: int = 10, draws: int = 2000) -> tuple[float, float, float]:
    """The slope and its 95% interval: residuals are drawn in blocks, since memory comes and goes in steps."""
    series = np.asarray(values, float)
    slope = theil_sen(series)
    steps = np.arange(len(series))
    residuals = series - slope * steps
    rng = np.random.default_rng(0)
    slopes = []
    for _ in range(draws):
        starts = rng.integers(0, max(len(series) - block, 1), -(-len(series) // block))
        drawn = np.concatenate([residuals[start : start + block] for start in starts])[: len(series)]
        slopes.append(theil_sen(slope * steps[: len(drawn)] + drawn))
    low, high = np.quantile(slopes, [0.025, 0.975])
    return slope, float(low), float(high)


def soak(recipe: PPORecipe) -> list[dict[str, float]]:
    """Run it; returns the memory after each iteration."""
    seen: list[dict[str, float]] = []
    decoded_cache.max_bytes = 8 * 2**20
    # Stopped before its end it reports what it has.
    with ray_session(recipe), suppress(Interrupted):
        run_ppo(recipe, on_iteration=lambda metrics: seen.append(sample_memory()))
    return seen


def report(seen: Sequence[dict[str, float]], *, warm_up: int, bound: float) -> bool:
    """Print a line for every process; returns whether all stay below the bound."""
    holds = True
    print(f"{len(seen)} iterations, {warm_up} of them warm-up; KiB per iteration, at most {bound:g}")
    for name in seen[-1]:
        values = [memory[name] for memory in seen[warm_up:] if name in memory]
        slope, low, high = slope_interval(values)
        grows = low > bound
        holds &= not grows
        print(
            f"{name:<14} {slope:8.1f} ({low:.1f} to {high:.1f})   "
            f"{values[0] / KIB:.0f} -> {values[-1] / KIB:.0f} MiB{'   GROWS' if grows else ''}",
            flush=True,
        )
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/quickstart/warm", help="a checkpoint; `make quickstart` leaves one")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--warm-up", type=int, default=30, help="iterations that do not count")
    parser.add_argument("--runners", type=int, default=0)
    parser.add_argument("--learners", type=int, default=0)
    parser.add_argument("--bound", type=float, default=100.0, help="KiB per iteration: 100 MiB in a thousand")
    arguments = parser.parse_args()
    if not Path(arguments.model).is_dir():
        parser.error(f"there is no checkpoint {arguments.model}; run `make quickstart`, or name one with --model")
    with tempfile.TemporaryDirectory() as out:
        recipe = load_recipe("ppo_tiny", PPORecipe, [f"model={arguments.model}", f"out={out}"])
        kwargs = recipe.env.kwargs | {"num_samples": GROUPS * arguments.warm_up}
        recipe = replace(
            recipe,
            env=replace(recipe.env, kwargs=kwargs),
            iterations=arguments.iterations,
            groups_per_iteration=GROUPS,
            num_env_runners=arguments.runners,
            num_learners=arguments.learners,
            num_cpus_per_env_runner=0.5,
            num_cpus_per_learner=0.5,
            uniform_groups="replay",
            replay_size=64,
            checkpoint_every=5,
            episode_table_every=5,
            wandb=True,
        )
        holds = report(soak(recipe), warm_up=arguments.warm_up, bound=arguments.bound)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
