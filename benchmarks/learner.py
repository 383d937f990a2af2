"""What scoring action ids costs at the vocabulary of Qwen2.5-VL and Qwen3-VL: memory and time, forward and backward.

    OMP_NUM_THREADS=1 python -m benchmarks.learner

`in parts` is what a learner does (`pxr_agents.vlm.score_tokens`), `at once` the same with all log-probabilities over
the vocabulary in memory. Each runs in a process of its own, alternately; the peak is what it reaches above its size
before the pass, for each action id. Losses and gradients are compared.
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

import torch

from pxr_agents import vlm as scoring
from pxr_agents.vlm import OutputLayer, TokenBatch, score_tokens

VOCABULARY = 151_936
MODES = ("in parts", "at once")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, default=2048, help="action ids in the pass")
    parser.add_argument("--width", type=int, default=256, help="numbers in a hidden state")
    parser.add_argument("--train-entropy", action="store_true", help="with an entropy coefficient")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.mode:
        print(json.dumps(measure(args.mode, args.ids, args.width, args.train_entropy)))
        return
    rows: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    for k in range(args.repeats):
        for mode in MODES[:: 1 if k % 2 else -1]:
            command = [sys.executable, "-m", "benchmarks.learner", *sys.argv[1:], "--mode", mode]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows[mode].append(json.loads(done.stdout))
    print(f"{args.ids} action ids, {VOCABULARY} in the vocabulary, hidden states of {args.width}")
    for mode, numbers in rows.items():
        mean = {name: statistics.median(row[name] for row in numbers) for name in numbers[0]}
        words = ", ".join(f"{name} {mean[name]:.7g}" for name in mean if name not in ("seconds", "megabytes"))
        print(f"{mode:<10} {mean['megabytes']:.2f} MB an id, {mean['seconds']:.1f} s of CPU; {words}")
    ratios = [whole["seconds"] / part["seconds"] for part, whole in zip(*rows.values(), strict=True)]
    print(f"at once / in parts: {statistics.median(ratios):.2f} of the CPU time")


if __name__ == "__main__":
    main()
