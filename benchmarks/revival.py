"""A dead operation in a small VLM: the paper's bonus alone against probes, by the trainer that users run.

    make quickstart
    OMP_NUM_THREADS=1 python -m benchmarks.revival --model runs/quickstart/arms/curiosity/model [--iterations 60]

The start is a policy that can zoom, and has given it up: the one that the quick start trains, after the opening of a
call was trained away until its probability is below 1e-6, so that no rollout of the run begins with one by chance. It
goes on imitating its own direct answers, and what it does once a zoom has begun. From there it is trained by the quick
start's recipe in three ways:

- bonus only: the paper's curiosity, half the letters too small to read without a zoom;
- probes: the same with `probes.enabled`;
- probes, no need: the same where every letter can be read at first sight, so that zooming does not pay.

Usage and accuracy are those of the rollouts that are no probes. With `--keep` the policy is taken as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents.agents import VLMAgent
from pxr_agents.chat import Conversation
from pxr_agents.engines.transformers import TransformersEngine
from pxr_agents.rollout import rollout
from pxr_agents.statistics import episode_statistics
from pxr_agents.types import Episode, Job, Sampling, Tokens
from pxr_agents.vlm import VLM, collate, score_tokens
from training.config import EnvRecipe, PPORecipe, ProbesRecipe
from training.quickstart.recipe import ENV_ID, ENV_KWARGS, default_ppo
from training.rllib.algorithm import VLMPPOConfig
from training.rllib.run import ray_session
from training.sft import TokenWeights, cross_entropy

DEAD = 1e-6
DIRECT = "\\boxed{"
SHOWN = ("usage_rate", "probe_rate", "probe_accuracy", "accuracy", "accuracy_needs_operation", "hit_rate")


def openings(vlm: VLM, n: int) -> list[Tokens]:
    """Conversations that begin with a zoom, up to its arguments."""
    env: Any = gymnasium.make(ENV_ID, **ENV_KWARGS)
    opening = env.unwrapped.dialect.call_opening("zoom_in").rstrip()
    rows = []
    for k in range(n):
        observation, info = env.reset(options={"sample_id": f"train-{k}"})
        conversation = Conversation()
        vlm.chat.prompt(conversation, info["system_prompt"], observation)
        conversation.append_turn(vlm.chat.encode_text(opening), train=True)
        rows.append(conversation.tokens())
    return rows


def opening_logprobs(vlm: VLM, rows: Sequence[Tokens]) -> Tensor:
    """(n,) log-probability of the opening of each row."""
    return score_tokens(vlm, collate(rows)).logprobs.view(len(rows), -1).sum(1)


def own_turns(vlm: VLM, opening: str) -> list[Episode]:
    """What the policy does after an opening, on 192 samples."""
    envs = [gymnasium.make(ENV_ID, **ENV_KWARGS) for _ in range(192)]
    sampling = Sampling(max_tokens=default_ppo().max_tokens)
    agent = VLMAgent(vlm.chat, TransformersEngine(vlm), sampling, opening=opening)
    return rollout(envs, agent, [Job(sample_id=f"train-{k}") for k in range(len(envs))])


def after_opening(tokens: Any) -> Tokens:
    """The tokens of an episode, of which those that were forced carry no loss."""
    return replace(tokens, action=tokens.action & ~tokens.forced)


def silence(model: Path, out: Path) -> None:
    """Train the opening of a zoom away, and keep the rest."""
    vlm = VLM.from_pretrained(model)
    env: Any = gymnasium.make(ENV_ID, **ENV_KWARGS)
    zooms = own_turns(vlm, env.unwrapped.dialect.call_opening("zoom_in").rstrip())
    kept: list[Any] = [episode.tokens for episode in own_turns(vlm, DIRECT)]
    kept += [after_opening(episode.tokens) for episode in zooms if episode.n_operations]
    rows, rng = openings(vlm, 64), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(vlm.model.parameters(), lr=2e-4)
    while (said := opening_logprobs(vlm, rows)).max() > math.log(DEAD):
        batch = [kept[k] for k in rng.choice(len(kept), 64, replace=False)]
        optimizer.zero_grad()
        (cross_entropy(vlm, batch, TokenWeights()) + 0.1 * said.mean()).backward()
        optimizer.step()
    vlm.save(out)
    vlm = VLM.from_pretrained(out)
    for name, opening in (("direct", DIRECT), ("zoom", env.unwrapped.dialect.call_opening("zoom_in").rstrip())):
        statistics = episode_statistics(own_turns(vlm, opening))
        print(f"a turn that begins with a {name}:", {k: round(statistics[k], 3) for k in SHOWN if k in statistics})


def train(recipe: PPORecipe) -> list[dict[str, float]]:
    """The metrics of each iteration, with the mean probability of the opening before its update."""
    algorithm: Any = VLMPPOConfig().recipe(recipe).build_algo()
    rows, lines = None, []
    try:
        for _ in range(recipe.iterations):
            vlm = algorithm.env_runner.module.vlm
            rows = rows or openings(vlm, 32)
            with torch.no_grad():
                probability = float(opening_logprobs(vlm, rows).exp().mean())
            algorithm.train()
            lines.append({**algorithm.last_iteration, "opening": probability})
    finally:
        algorithm.stop()
    return lines


def summary(lines: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """Means over the last ten iterations, the first iteration with a rate of .05, and what the probes cost."""
    tail = lines[-10:]
    means = {name: [line[name] for line in tail if name in line] for name in (*SHOWN, "opening")}
    alive = next((line["iteration"] for line in lines if line["usage_rate"] >= 0.05), None)
    return {
        **{name: sum(values) / len(values) if values else None for name, values in means.items()},
        "iterations until usage .05": alive,
        "largest usage": max(line["usage_rate"] for line in lines),
        "probes of all rollouts": sum(line.get("probe_rate", 0.0) for line in lines) / len(lines),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/quickstart/arms/curiosity/model"))
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--keep", action="store_true", help="start from the model as it is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the metrics of all iterations there, as JSON")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="revival-"))
    start = arguments.model
    if not arguments.keep:
        start = folder / "dead"
        silence(arguments.model, start)
    base = replace(
        default_ppo(),
        model=str(start),
        seed=arguments.seed,
        iterations=arguments.iterations,
        num_env_runners=0,
        lr_decay_fraction=0.0,
    )
    probes = replace(base, probes=ProbesRecipe(enabled=True))
    easy = EnvRecipe(id=ENV_ID, kwargs={**ENV_KWARGS, "hard_fraction": 0.0})
    arms = {"bonus only": base, "probes": probes, "probes, no need": replace(probes, env=easy)}
    lines: dict[str, list[dict[str, float]]] = {}
    try:
        with ray_session(base):
            for name, recipe in arms.items():
                lines[name] = train(recipe)
                print(name, json.dumps(summary(lines[name]), indent=2), flush=True)
                if arguments.out is not None:
                    arguments.out.write_text(json.dumps(lines))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
