"""What an iteration of PPO costs, part by part, and what RLlib, vLLM and sampling ahead change about it.

    OMP_NUM_THREADS=1 python -m benchmarks.ppo --model runs/quickstart/warm

| comparison | | |
|---|---|---|
| `layer` | RLlib | against `training/loop.py`, which does the same work (checked: equal weights in the end) |
| `engine` | vLLM in an actor | against transformers in the env runner; needs vLLM |
| `staleness` | one iteration ahead | against rollouts and updates in turn |
| `slow` | one iteration ahead | the same, in an environment that waits before every step without using the processor |

Two contenders at a time train the same tiny model by the recipe `ppo_tiny`, with a learner in this process. Iterations
come in blocks of four (one, other, other, one), so that whatever else the machine does hits both; a ratio is the
median over blocks, with quartiles. The ratio of `layer` is of this process's CPU time (Ray's own processes idle
there), the others are of wall time. But in `layer` the learning rate is so small that weights, and with them the
length of rollouts, stay what they are.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch

from pxr_agents.engines.vllm.arguments import StartArguments
from training.config import EngineRecipe, EnvRecipe, PPORecipe, load_recipe
from training.loop import PlainPPO
from training.rllib.algorithm import VLMPPOConfig
from training.rllib.run import ray_session
from training.rllib.weights import learner_weights

PARTS = ("sample", "settle", "wait", "learn", "sync")
# A tiny model on a CPU: no compilation, no warm-up, a small cache.
VLLM = StartArguments(
    dtype="float32", enforce_eager=True, block_size=32, kv_cache_memory_bytes=64 << 20, max_model_len=1024
)
VLLM_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_CI_ENV": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


class Timed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds up the CPU seconds spent inside all environments."""

    seconds = 0.0

    def reset(self, **arguments: Any) -> Any:
        return self._timed(lambda: self.env.reset(**arguments))

    def step(self, action: Any) -> Any:
        return self._timed(lambda: self.env.step(action))

    @staticmethod
    def _timed(call: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = call()
        Timed.seconds += time.process_time() - start
        return result


class TimedLoop(PlainPPO):
    """The plain trainer, with what all its iterations spent where, in CPU time of this process."""

    def __init__(self, recipe: PPORecipe) -> None:
        super().__init__(recipe)
        self.envs = [Timed(env) for env in self.envs]
        self.cpu_seconds = dict.fromkeys(("environment", "generation", "learning"), 0.0)

    def sample(self) -> Any:
        start, in_envs = time.process_time(), Timed.seconds
        groups = super().sample()
        in_envs = Timed.seconds - in_envs
        self.cpu_seconds["environment"] += in_envs
        self.cpu_seconds["generation"] += time.process_time() - start - in_envs
        return groups

    def learn(self, groups: Any) -> Any:
        start = time.process_time()
        learned = super().learn(groups)
        self.cpu_seconds["learning"] += time.process_time() - start
        return learned


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """Something with `train()` and `last_iteration`."""

    name: str
    trains: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What came out.

    Attributes:
        name: of the comparison.
        of: the two contenders.
        unit: what the ratio is of.
        ratio: lower quartile, median and upper quartile over blocks of the first one's time by the second one's.
        medians: by contender: of its iterations' numbers.
        notes: what else is to be said.
    """

    name: str
    of: tuple[str, str]
    unit: str
    ratio: tuple[float, float, float]
    medians: dict[str, dict[str, float]]
    notes: tuple[str, ...] = ()


def alternate(one: Contender, other: Contender, *, blocks: int, warm_up: int) -> dict[str, list[dict[str, float]]]:
    """The numbers of every counted iteration, two a block, by contender."""
    rows: dict[str, list[dict[str, float]]] = {one.name: [], other.name: []}
    for _ in range(blocks + warm_up):
        for contender in (one, other, other, one):
            cpu, wall = time.process_time(), time.perf_counter()
            contender.trains.train()
            spent = {"seconds/cpu": time.process_time() - cpu, "seconds/total": time.perf_counter() - wall}
            rows[contender.name].append(contender.trains.last_iteration | spent)
    return {name: iterations[2 * warm_up :] for name, iterations in rows.items()}


def compared(
    name: str, one: Contender, other: Contender, rows: dict[str, list[dict[str, float]]], unit: str
) -> Comparison:
    """The ratio of `seconds/<unit>`, and the median iteration of each."""
    key = f"seconds/{unit}"
    blocks = [
        [rows[c.name][k][key] + rows[c.name][k + 1][key] for k in range(0, len(rows[c.name]), 2)] for c in (one, other)
    ]
    low, median, high = statistics.quantiles([a / b for a, b in zip(*blocks, strict=True)], n=4)
    return Comparison(
        name=name,
        of=(one.name, other.name),
        unit=unit,
        ratio=(low, median, high),
        medians={c.name: _medians(rows[c.name]) for c in (one, other)},
    )


def _medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    names = [f"seconds/{part}" for part in (*PARTS, "cpu", "total")]
    names += ["tokens/generated", "tokens/total", "bytes/groups", "bytes/weights", "async/overlap"]
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: statistics.median(values) for name, values in found.items() if values}


@contextmanager
def algorithm(recipe: PPORecipe) -> Iterator[Any]:
    """The trainer of a recipe."""
    built: Any = VLMPPOConfig().recipe(recipe).build_algo()
    try:
        yield built
    finally:
        built.stop()


class Bench:
    """The comparisons, each by its name.

    Args:
        model: the checkpoint.
        blocks: that count.
        warm_up: blocks before them that do not.
        env_seconds: what a step waits for in `slow`.
    """

    def __init__(self, model: str, *, blocks: int, warm_up: int, env_seconds: float) -> None:
        self._model, self._blocks, self._warm_up, self._env_seconds = model, blocks, warm_up, env_seconds

    def run(self, name: str) -> Comparison:
        comparisons: dict[str, Callable[[], Comparison]] = {
            "layer": self._layer,
            "engine": self._engine,
            "staleness": lambda: self._staleness("staleness", self._recipe()),
            "slow": lambda: self._staleness("slow", self._recipe(env=self._slow_env())),
        }
        return comparisons[name]()

    def _layer(self) -> Comparison:
        recipe = self._recipe(num_env_runners=0, lr=3e-4)
        with ray_session(recipe), algorithm(recipe) as built:
            one, other = Contender(name="RLlib", trains=built), Contender(name="plain loop", trains=TimedLoop(recipe))
            rows = alternate(one, other, blocks=self._blocks, warm_up=self._warm_up)
            weights, plain = learner_weights(built.learner_group), other.trains
        same = all(torch.equal(value, weights[name]) for name, value in plain.policy.vlm.model.state_dict().items())
        total = sum(plain.cpu_seconds.values())
        notes = (
            f"weights in the end: {'equal' if same else 'DIFFERENT, so was the work'}",
            "CPU time of the plain loop: " + ", ".join(f"{k} {v / total:.0%}" for k, v in plain.cpu_seconds.items()),
        )
        result = compared("layer", one, other, rows, "cpu")
        return Comparison(**{**_fields(result), "notes": notes})

    def _engine(self) -> Comparison:
        engine = EngineRecipe(kind="vllm", num_cpus_per_engine=0.25, vllm=VLLM)
        with ray_session(self._recipe(engine=engine)):
            return self._pair("engine", ("vLLM", self._recipe(engine=engine)), ("transformers", self._recipe()))

    def _staleness(self, name: str, recipe: PPORecipe) -> Comparison:
        ahead = PPORecipe(**{**_fields(recipe), "max_staleness": 1})
        with ray_session(recipe):
            return self._pair(name, ("one ahead", ahead), ("in turn", recipe))

    def _pair(self, name: str, first: tuple[str, PPORecipe], second: tuple[str, PPORecipe]) -> Comparison:
        with algorithm(first[1]) as a, algorithm(second[1]) as b:
            one, other = Contender(name=first[0], trains=a), Contender(name=second[0], trains=b)
            rows = alternate(one, other, blocks=self._blocks, warm_up=self._warm_up)
            return compared(name, one, other, rows, "total")

    def _recipe(self, **changes: Any) -> PPORecipe:
        # One iteration more than there are: to the last one, the next is sampled ahead.
        iterations = 2 * (self._blocks + self._warm_up) + 1
        base = load_recipe("ppo_tiny", PPORecipe, [f"model={self._model}", f"iterations={iterations}", "wandb=false"])
        few = {"num_env_runners": 1, "num_cpus_per_env_runner": 0.25, "groups_per_iteration": 12, "lr": 1e-9}
        return PPORecipe(**{**_fields(base), **few, **changes})

    def _slow_env(self) -> EnvRecipe:
        search = load_recipe("ppo_tiny", PPORecipe, []).env.kwargs
        kwargs = {"seconds": self._env_seconds, "search": search}
        return EnvRecipe(id="benchmarks.slow_env:SlowSearch-v0", kwargs=kwargs)


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def show(result: Comparison) -> None:
    """Print a comparison as a table and its ratio."""
    columns = [*PARTS, "total", "generated/s", "trained/s", "MB moved"]
    print(f"\n{result.name}\n{'':<14}" + "".join(f"{column:>12}" for column in columns))
    for name, medians in result.medians.items():
        seconds = [medians.get(f"seconds/{part}", 0.0) for part in (*PARTS, "total")]
        rates = [
            medians["tokens/generated"] / medians["seconds/sample"],
            medians["tokens/total"] / medians["seconds/learn"],
        ]
        moved = (medians.get("bytes/groups", 0.0) + medians.get("bytes/weights", 0.0)) / 1e6
        cells = [*(f"{x:.3f}" for x in seconds), *(f"{x:.0f}" for x in rates), f"{moved:.2f}"]
        print(f"{name:<14}" + "".join(f"{cell:>12}" for cell in cells))
    low, median, high = result.ratio
    unit = "CPU time" if result.unit == "cpu" else "time of an iteration"
    print(f"{unit}, {result.of[0]} / {result.of[1]}: {median:.3f} (quartiles {low:.3f} to {high:.3f})")
    for name, medians in result.medians.items():
        if "async/overlap" in medians:
            print(f"{name}: {medians['async/overlap']:.0%} of the sampling was not waited for")
    for note in result.notes:
        print(note)
    sys.stdout.flush()


def main() -> None:
    names = ("layer", "engine", "staleness", "slow")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", metavar="COMPARISON", help=f"some of {', '.join(names)}; all by default")
    parser.add_argument("--model", default="runs/quickstart/warm", help="a checkpoint; `make quickstart` leaves one")
    parser.add_argument("--blocks", type=int, default=15, help="blocks (two iterations of each) that count; 2 or more")
    parser.add_argument("--warm-up", type=int, default=2, help="blocks before them that do not")
    parser.add_argument("--env-seconds", type=float, default=0.01, help="what a step waits for in `slow`")
    parser.add_argument("--json", type=Path, help="a file to write everything to, too")
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - set(names):
        parser.error(f"there is no comparison {', '.join(sorted(unknown))}; expected some of {', '.join(names)}")
    if arguments.blocks < 2:
        parser.error(f"--blocks {arguments.blocks} came; quartiles need 2 or more")
    if not Path(arguments.model).is_dir():
        parser.error(f"there is no checkpoint {arguments.model}; run `make quickstart`, or name one with --model")
    for name, value in VLLM_VARIABLES.items():
        os.environ.setdefault(name, value)

    bench = Bench(
        arguments.model, blocks=arguments.blocks, warm_up=arguments.warm_up, env_seconds=arguments.env_seconds
    )
    results = []
    for name in arguments.only or names:
        if name == "engine" and importlib.util.find_spec("vllm") is None:
            print("\nengine: left out, vLLM is not installed")
            continue
        results.append(bench.run(name))
        show(results[-1])
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "torch_threads": torch.get_num_threads(), "torch": torch.__version__}
        found = {"machine": machine, "comparisons": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
