"""What `python -m training plan` predicts on this CPU, against iterations that are measured, of two sizes of a model.

    OMP_NUM_THREADS=1 python -m benchmarks.plan

Two Qwen3-VL with random weights train by `ppo_tiny` in this process (`training/loop.py`), with a critic, so that every
episode carries a loss. Their turns have `max_tokens` ids but for those that end by chance: numbers of turns and ids are
measured and given to the plan, seconds are not. The plan measures a product of matrices, a copy, and models of width 32
(`training.devices.this_cpu`) right before each size. All seconds are CPU time of one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import torch

from pxr_agents import tiny
from pxr_agents.vlm import VLM
from training.config import PPORecipe, load_recipe
from training.loop import PlainPPO
from training.plan import make_plan, predict

SIZES = {"small": (96, 3, 64), "large": (512, 8, 128)}  # width, layers, width of the vision tower


def build(path: Path, width: int, layers: int, vision_width: int) -> int:
    """Save a checkpoint with random weights; returns its number of parameters."""
    env: Any = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", coordinates="pixel", max_turns=3, max_operations=2)
    texts, info = [], {"system_prompt": ""}
    for k in range(12):
        observation, info = env.reset(options={"sample_id": f"train-{k}"})
        texts.append(observation["text"])
    path.mkdir()
    tokenizer = tiny.build_tokenizer(texts, r"red|green|blue|\b\d+\b|(?<=\{)[A-Z](?=\})", [info["system_prompt"]])
    tiny._write_processor(path)
    model = tiny.build_model(tokenizer, width=width, layers=layers, vision_width=vision_width)
    VLM.around(model, tokenizer, path).save(path)
    return sum(parameter.numel() for parameter in model.parameters())


def measure(recipe: PPORecipe, iterations: int) -> tuple[dict[str, float], dict[str, float]]:
    """CPU seconds of each part of an iteration, and the means of the episodes, after one that does not count."""
    loop = PlainPPO(recipe)
    spent: dict[str, list[float]] = {"sample": [], "learn": []}
    for k in range(iterations + 1):
        start = time.process_time()
        groups = loop.sample()
        sampled = time.process_time()
        loop.learn(groups)
        if k:
            spent["sample"].append(sampled - start)
            spent["learn"].append(time.process_time() - sampled)
        loop.iteration += 1
    episodes = [episode for group in groups for episode in group.episodes]
    turns = sum(len(episode.steps) for episode in episodes) / len(episodes)
    actions = sum(int(episode.tokens.action.sum()) for episode in episodes if episode.tokens) / len(episodes)
    operations = sum(episode.n_operations for episode in episodes) / len(episodes)
    work = {"turns": turns, "turn": actions / turns, "operations": operations}
    return {name: statistics.median(seconds) for name, seconds in spent.items()}, work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=8, help="groups of eight in an iteration")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.sizes:
            model = Path(folder) / name
            n_parameters = build(model, *SIZES[name])
            changes = [f"model={model}", "advantage=gae", f"groups_per_iteration={arguments.groups}", "wandb=false"]
            changes += ["num_env_runners=0", f"out={folder}/run"]
            plan = make_plan("ppo_tiny", changes)
            recipe = load_recipe("ppo_tiny", PPORecipe, changes)
            seconds, work = measure(recipe, arguments.iterations)
            plan = predict(recipe, plan.size, replace(plan.work, **work), plan.device, 0)
            print(
                f"{n_parameters / 1e6:.2f} million parameters, {plan.work.episodes} episodes, {plan.work.ids:.0f} ids"
            )
            for part, predicted in (("sample", plan.sampling), ("learn", plan.learning)):
                told = ", ".join(f"{phase} {each:.2f}" for phase, each in getattr(plan, part).items() if each > 0.005)
                ratio = predicted / seconds[part]
                print(
                    f"  {part:<10} measured {seconds[part]:6.2f} s  predicted {predicted:6.2f} s  {ratio:.2f}  {told}"
                )
            total = sum(seconds.values())
            print(f"  iteration  measured {total:6.2f} s  predicted {plan.seconds:6.2f} s  {plan.seconds / total:.2f}")


if __name__ == "__main__":
    main()
