"""An iteration of our trainer beside one of TRL's GRPOTrainer: the same checkpoint, environment and machine.

    python -m benchmarks.trl --model runs/quickstart/warm

TRL is installed into build/adapters/trl, once, and both sides run there, with the same torch and transformers. A side
is a fresh process; they take turns. Groups of 8 rollouts, one optimizer step an iteration, at a learning rate that
leaves the weights, and with them the length of rollouts, as they are. `--width 512 --layers 9` widens the checkpoint to
29M parameters that compute what its 0.6M compute.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.adapters.venvs import VENVS, environment

WARM_UP = 2


def ours(model: str, groups: int, iterations: int) -> list[dict[str, float]]:
    """What each iteration of the plain trainer took."""
    from benchmarks.trl_side import ENV_ID, ENV_KWARGS, GROUP, Meter
    from training.config import EnvRecipe, PPORecipe
    from training.loop import PlainPPO, plain_recipe

    recipe = PPORecipe(
        model=model, env=EnvRecipe(id=ENV_ID, kwargs=ENV_KWARGS), iterations=iterations, groups_per_iteration=groups,
        group_size=GROUP, num_minibatches=1, lr=1e-9, max_tokens=16, normalize_std=True, wandb=False,
    )  # fmt: skip
    trainer, meter = PlainPPO(plain_recipe(recipe)), Meter()
    for _ in range(iterations):
        trainer.train()
        episodes = trainer.last_episodes
        turns = sum(len(episode.steps) for episode in episodes)
        meter.iteration(episodes=len(episodes), tokens=trainer.last_iteration["tokens/generated"], turns=turns)
    return meter.rows


def widen(model: str, path: Path, *, width: int, layers: int) -> None:
    """Write a larger checkpoint that computes the same: what is added leads nowhere, as its output weights are 0."""
    import torch

    from pxr_agents.tiny import build_model
    from pxr_agents.vlm import VLM

    small = VLM.from_pretrained(model)
    large = build_model(small.chat.tokenizer, width=width, layers=layers)
    narrow = small.model.config.text_config.hidden_size
    old = small.model.state_dict()
    with torch.no_grad():
        for name, new in large.named_parameters():
            added = name not in old
            reads_nothing = any(part in name for part in ("o_proj", "down_proj", "embed_tokens", "merger.linear_fc2"))
            if added or reads_nothing:
                new.zero_() if reads_nothing else None
            if not added:
                new[tuple(slice(n) for n in old[name].shape)] = old[name]
            # The mean square of a state is that of fewer numbers than before.
            if "language_model" in name and "norm" in name and new.shape == (width,):
                new.mul_((narrow / width) ** 0.5)
    VLM(large, small.chat, small.norm, small._processor_files).save(path)


def side(name: str, python: str, model: str, groups: int, iterations: int) -> dict[str, float]:
    """The medians of a fresh process of a side, without its first iterations; "mb" is its largest."""
    module = {"trl": "benchmarks.trl_side", "ours": "benchmarks.trl"}[name]
    command = [python, "-m", module, *(["--ours"] if name == "ours" else []), model, str(groups), str(iterations)]
    env = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"{name} failed: {done.stderr[-1500:]}")
    rows: list[dict[str, float]] = json.loads(done.stdout.strip().splitlines()[-1])
    medians = {key: statistics.median(row[key] for row in rows[WARM_UP:]) for key in rows[0]}
    # One rare endless turn is no other work: of tokens the mean.
    means = {key: statistics.fmean(row[key] for row in rows[WARM_UP:]) for key in ("tokens", "turns")}
    return medians | means | {"mb": rows[-1]["mb"]}


def compare(model: str, *, groups: int, iterations: int, repeats: int) -> list[dict[str, dict[str, float]]]:
    """Pairs of processes, each side first in every other one."""
    python, pairs = str(environment("trl")), []
    for k in range(repeats):
        order = ("trl", "ours") if k % 2 else ("ours", "trl")
        pairs.append({name: side(name, python, model, groups, iterations) for name in order})
        print(json.dumps(pairs[-1]), flush=True)
    return pairs


def table(pairs: Sequence[dict[str, dict[str, float]]]) -> str:
    """Rows of markdown; a ratio is the median over pairs.

    Raises:
        RuntimeError: the sides did not do the same work, to 15%.
    """
    lines = ["| | TRL | ours | TRL / ours |", "|---|---:|---:|---:|"]
    names = {
        "cpu": "CPU seconds",
        "seconds": "seconds",
        "mb": "MB, largest",
        "tokens": "ids generated",
        "turns": "turns",
    }
    for key, title in {**names, "episodes": "rollouts"}.items():
        theirs, own = ([pair[name][key] for pair in pairs] for name in ("trl", "ours"))
        ratio = statistics.median(a / b for a, b in zip(theirs, own, strict=True))
        if key in ("tokens", "turns", "episodes") and not 0.85 < ratio < 1.15:
            raise RuntimeError(f"not the same work: {ratio:.2f} times as many {title}")
        cells = (f"{statistics.median(numbers):.3g}" for numbers in (theirs, own))
        lines.append(f"| {title} | {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/quickstart/warm", help="a checkpoint; `make quickstart` leaves one")
    parser.add_argument("--width", type=int, help="widen it to so many numbers a state,")
    parser.add_argument("--layers", type=int, default=9, help="and so many layers")
    parser.add_argument("--groups", type=int, default=8, help="groups of 8 rollouts an iteration")
    parser.add_argument("--iterations", type=int, default=12, help=f"of a process; the first {WARM_UP} do not count")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of processes")
    arguments = parser.parse_args()
    model = arguments.model
    if arguments.width:
        model = str(VENVS.parent / f"wide_{arguments.width}_{arguments.layers}")
        widen(arguments.model, Path(model), width=arguments.width, layers=arguments.layers)
    sizes: Any = {"groups": arguments.groups, "iterations": arguments.iterations, "repeats": arguments.repeats}
    print(table(compare(model, **sizes)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ours"]:
        print(json.dumps(ours(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
