"""What a learner spends, memory and time, on one way of doing things against another.

    OMP_NUM_THREADS=1 python -m benchmarks.learner                                           # action ids
    OMP_NUM_THREADS=1 python -m benchmarks.learner --part passes --model runs/quickstart/warm
    OMP_NUM_THREADS=1 python -m benchmarks.learner --part vision --model runs/quickstart/warm
    OMP_NUM_THREADS=1 python -m benchmarks.learner --part prefetch --model runs/quickstart/warm

Without `--part`: scoring action ids at the vocabulary of Qwen2.5-VL and Qwen3-VL, forward and backward. `in parts` is
what a learner does (`pxr_agents.vlm.score_tokens`), `at once` the same with all log-probabilities over the vocabulary
in memory; the peak is for each action id. The other parts are two updates of PPO on the same rollouts of a checkpoint:
a minibatch in one pass or in several, images encoded in every pass or once, prepared between passes or beside them.

Each way runs in a process of its own, alternately; the peak is what it reaches above its size before. Losses, and
gradients or weights, are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from pxr_agents import vlm as scoring
from pxr_agents.vlm import VLM, OutputLayer, TokenBatch, score_tokens
from training.config import PPORecipe, load_recipe
from training.loop import PlainPPO, plain_recipe

VOCABULARY = 151_936
FROZEN: dict[str, Any] = {"freeze_vision": True}
#: Part -> the ways that are compared, and their `learner`.
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "ids": {"in parts": {}, "at once": {}},
    "passes": {"in several": {"micro_batch_tokens": 2048}, "in one": {}},
    "vision": {"once": FROZEN, "every pass": FROZEN | {"feature_bytes": 0}},
    "prefetch": {"beside": {"prefetch": 1}, "between": {}},
}


class Stub:
    """The end of a language model: hidden states are given."""

    def __init__(self, n_ids: int, width: int) -> None:
        torch.manual_seed(0)
        self.states = torch.randn(1, n_ids + 1, width, requires_grad=True)
        head = torch.nn.Linear(width, VOCABULARY, bias=False)
        head.__class__ = OutputLayer
        self.model = SimpleNamespace(lm_head=head)

    def hidden_states(self, *batch: Any) -> torch.Tensor:
        return self.states

    def normalized(self, logits: torch.Tensor, temperature: float) -> torch.Tensor:
        return torch.log_softmax(logits.float() / temperature, -1)


def peak() -> int:
    """Bytes: the most this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(mode: str, n_ids: int, width: int, train_entropy: bool) -> dict[str, float]:
    """One pass forward and backward in this process."""
    if mode == "at once":
        scoring.CHUNK = n_ids * VOCABULARY
    model: Any = Stub(n_ids, width)
    ids = torch.randint(VOCABULARY, (1, n_ids + 1))
    batch = TokenBatch(ids=ids, positions=ids, target=torch.ones_like(ids, dtype=torch.bool), images=())
    before, start = peak(), time.process_time()
    scores = score_tokens(model, batch, 0.9, train_entropy=train_entropy)
    loss = scores.logprobs.mean() + (0.01 * scores.entropy.mean() if train_entropy else 0)
    loss.backward()
    weight = model.model.lm_head.weight.grad
    return {
        "seconds": time.process_time() - start,
        # Gradients stay whatever the way.
        "megabytes": (peak() - before - weight.nbytes - model.states.grad.nbytes) / n_ids / 1e6,
        "loss": loss.item(),
        "gradient": float(weight.norm()),
        "gradient of the states": float(model.states.grad.norm()),
    }


def measure_updates(args: argparse.Namespace) -> dict[str, float]:
    """Two updates on a minibatch of 64 rollouts, with a reference and the learner's own log-probabilities."""
    learner = [f"learner.{name}={json.dumps(value)}" for name, value in PARTS[args.part][args.mode].items()]
    options = ["groups_per_iteration=8", "num_epochs=2", "num_minibatches=1", "old_logprobs=learner", "kl_coef=0.1"]
    trainer = PlainPPO(plain_recipe(load_recipe("ppo_tiny", PPORecipe, [f"model={args.model}", *options, *learner])))
    groups, calls, encode = trainer.sample(), list[int](), VLM._encode

    def counted(self: VLM, pixels: torch.Tensor, grids: torch.Tensor) -> Any:
        calls.append(len(grids))
        return encode(self, pixels, grids)

    with mock.patch.object(VLM, "_encode", counted):
        before, start, wall = peak(), time.process_time(), time.perf_counter()
        metrics = [trainer.learn(groups) for _ in range(2)]
        spent = {"seconds": time.process_time() - start, "wall": time.perf_counter() - wall}
    weights = sum(float(parameter.detach().double().norm()) for parameter in trainer.parameters)
    return spent | {
        "megabytes": (peak() - before) / 1e6,
        "loss": metrics[-1]["loss"],
        "weights": weights,
        "calls of the vision tower": len(calls),
        "images": sum(calls),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="ids")
    parser.add_argument("--model", default="runs/quickstart/warm", help="a checkpoint; `make quickstart` leaves one")
    parser.add_argument("--ids", type=int, default=2048, help="action ids in the pass")
    parser.add_argument("--width", type=int, default=256, help="numbers in a hidden state")
    parser.add_argument("--train-entropy", action="store_true", help="with an entropy coefficient")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.mode:
        whole = args.part != "ids"
        print(
            json.dumps(measure_updates(args) if whole else measure(args.mode, args.ids, args.width, args.train_entropy))
        )
        return
    rows: dict[str, list[dict[str, float]]] = {mode: [] for mode in PARTS[args.part]}
    for k in range(args.repeats):
        for mode in list(rows)[:: 1 if k % 2 else -1]:
            command = [sys.executable, "-m", "benchmarks.learner", *sys.argv[1:], "--mode", mode]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows[mode].append(json.loads(done.stdout.splitlines()[-1]))
    if args.part == "ids":
        print(f"{args.ids} action ids, {VOCABULARY} in the vocabulary, hidden states of {args.width}")
    for mode, numbers in rows.items():
        mean = {name: statistics.median(row[name] for row in numbers) for name in numbers[0]}
        words = ", ".join(f"{name} {mean[name]:.7g}" for name in mean if name not in ("seconds", "megabytes"))
        unit = "MB an id" if args.part == "ids" else "MB"
        print(f"{mode:<10} {mean['megabytes']:.2f} {unit}, {mean['seconds']:.1f} s of CPU; {words}")
    one, other = rows
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(*rows.values(), strict=True)]
    print(f"{other} / {one}: {statistics.median(ratios):.2f} of the CPU time")


if __name__ == "__main__":
    main()
