"""When not to zoom: the quick start's third arm on other seeds, warm starts and tasks, by the trainer that users run.

    make quickstart
    OMP_NUM_THREADS=1 python -m benchmarks.selective --model runs/quickstart/warm --seeds 0 1 2 [KEY=VALUE ...]

Keys are those of `training ppo`; the recipe is the quick start's with `selective` (120 iterations). A row is what the
policy then does with 400 held-out samples, greedily: accuracy; the share that executes an operation, and the share that
is answered at once, where one is needed and where none is; hits; and where none is needed, accuracy without operations,
beside the share of all that stays unanswered then. The runs stay in --out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import gymnasium
import torch

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents.agents import VLMAgent
from pxr_agents.engines.transformers import TransformersEngine
from pxr_agents.rollout import rollout
from pxr_agents.statistics import episode_statistics
from pxr_agents.types import Episode, Job, Sampling
from pxr_agents.vlm import VLM
from training.config import PPORecipe, load_recipe, to_dict
from training.loop import run_plain
from training.quickstart.recipe import QuickstartRecipe, default_ppo

OPEN = (
    "accuracy", "usage_rate_needs_operation", "usage_rate_easy",
    "first_turn_rate_needs_operation", "first_turn_rate_easy", "hit_rate",
)  # fmt: skip
HEADER = (
    "| run | accuracy | usage: needed | easy | at once: needed | easy | hits | withdrawn: easy | unanswered | CPU s |"
)


def recipe_of(overrides: Sequence[str]) -> PPORecipe:
    """The quick start's recipe with `selective`, and what is given in place of its keys."""
    quickstart = QuickstartRecipe()
    recipe = replace(default_ppo(), iterations=quickstart.selective_iterations, selective=quickstart.selective)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(to_dict(recipe) | {"episode_table_every": 0}, file)
        file.flush()
        return load_recipe(file.name, PPORecipe, overrides)


def play(recipe: PPORecipe, model: Path, n: int, **kwargs: object) -> list[Episode]:
    """Greedy episodes of held-out samples."""
    vlm = VLM.from_pretrained(model)
    [env] = recipe.envs.values()
    envs = [gymnasium.make(env.id, **{**env.kwargs, "split": "test", **kwargs}) for _ in range(min(n, 200))]
    base = envs[0].unwrapped
    jobs = [Job(sample_id=sample_id) for sample_id in base.data.sample_ids()[:n]]  # type: ignore[attr-defined]
    sampling = Sampling(temperature=0.0, max_tokens=recipe.max_tokens)
    return rollout(envs, VLMAgent(vlm.chat, TransformersEngine(vlm), sampling), jobs)


def row(name: str, recipe: PPORecipe, n: int) -> str:
    """Train, if it was not done before, and play."""
    start = time.process_time()
    model = Path(recipe.out) / "model"
    if not model.exists():
        run_plain(recipe)
    seconds = time.process_time() - start
    offered, withdrawn = play(recipe, model, n), play(recipe, model, n, operations=())
    statistics = episode_statistics(offered)
    unanswered = sum(episode.answer is None for episode in withdrawn) / n
    numbers = [statistics.get(key) for key in OPEN]
    numbers += [episode_statistics(withdrawn).get("accuracy_easy"), unanswered]
    cells = ["-" if number is None else f"{number:.3f}" for number in numbers]
    return " | ".join(["| " + name, *cells, f"{seconds:.0f} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/quickstart/warm"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("runs/selective"))
    arguments, overrides = parser.parse_known_args()
    if not arguments.model.exists():
        parser.error(f"there is no checkpoint {arguments.model}; run `make quickstart`, or name one with --model")
    torch.set_num_threads(1)
    print(HEADER, "|" + "---|" * (HEADER.count(" | ") + 1), sep="\n")
    for seed in arguments.seeds:
        name = " ".join([f"seed {seed}", *overrides])
        out = arguments.out / name.replace("/", "_").replace(" ", "-")
        own = [f"model={arguments.model}", f"out={out}", f"seed={seed}", *overrides]
        print(row(name, recipe_of(own), arguments.samples), flush=True)


if __name__ == "__main__":
    main()
