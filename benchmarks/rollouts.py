"""Our rollouts beside transformers' `generate` run again each turn: the same model, environment, agent and loop.

    OMP_NUM_THREADS=1 python -m benchmarks.rollouts --model runs/quickstart/warm

What users write first is a `generate` on the whole conversation for every turn. It runs here with all conversations in
one padded batch and its cache within a turn; it need not say log-probabilities, which ours does. The engines take turns
in one process (ours, theirs, theirs, ours); a ratio is the median over such blocks. Rollouts come in groups of 8.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch

from benchmarks.trl_side import ENV_ID, ENV_KWARGS, GROUP
from pxr_agents.agents import VLMAgent
from pxr_agents.engines.transformers import TransformersEngine
from pxr_agents.groups import group_jobs
from pxr_agents.rollout import rollout
from pxr_agents.types import Completion, Engine, Request, Sampling
from pxr_agents.vlm import VLM, patchify


class GenerateEngine:
    """transformers' `generate` on every conversation as a whole, without log-probabilities."""

    weights_version = 0

    def __init__(self, vlm: VLM) -> None:
        self._vlm, self._submitted = vlm, list[tuple[Request, Sampling]]()
        beyond = range(len(vlm.chat.tokenizer), vlm.model.config.text_config.vocab_size)
        self._never = [*vlm.chat.banned_ids, *beyond]

    def submit(self, request: Request, sampling: Sampling) -> None:
        self._submitted.append((request, sampling))

    def forget(self, key: int) -> None:
        """Nothing is kept."""

    @torch.inference_mode()
    def collect(self) -> list[tuple[int, Completion]]:
        submitted, self._submitted = self._submitted, []
        requests, chat, (_, sampling) = [request for request, _ in submitted], self._vlm.chat, submitted[0]
        length = max(len(request.ids) for request in requests)
        pad = chat.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (length - len(request.ids)) + list(request.ids) for request in requests])
        pixels, grids = patchify([image for request in requests for image in request.images], self._vlm.norm)
        out = self._vlm.model.generate(
            input_ids=ids, attention_mask=(ids != pad).long(), pixel_values=pixels, image_grid_thw=grids,
            mm_token_type_ids=(ids == chat.image_id).int(), do_sample=sampling.temperature > 0,
            temperature=sampling.temperature or 1.0, top_k=0, top_p=1.0,
            max_new_tokens=sampling.max_tokens, eos_token_id=chat.stop_id, pad_token_id=pad,
            suppress_tokens=self._never,
        )  # fmt: skip
        turns = out[:, length:].tolist()
        return [(request.key, self._completion(row)) for request, row in zip(requests, turns, strict=True)]

    def _completion(self, row: list[int]) -> Completion:
        stop = self._vlm.chat.stop_id
        ended = stop in row
        ids = tuple(row[: row.index(stop) + 1] if ended else row)
        return Completion(token_ids=ids, logprobs=(0.0,) * len(ids), finish_reason="stop" if ended else "length")


def compare(vlm: VLM, episodes: int, blocks: int, temperature: float = 1.0) -> dict[str, float]:
    """Median CPU time and time of all of `episodes` rollouts, theirs by ours, and of the ids that were generated."""
    torch.manual_seed(0)
    vlm.model.eval()
    envs = [gymnasium.make(ENV_ID, **ENV_KWARGS) for _ in range(episodes)]
    engines: dict[str, Engine] = {"ours": TransformersEngine(vlm), "generate": GenerateEngine(vlm)}
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in engines}

    def run(name: str, block: int) -> None:
        n_groups = max(1, episodes // GROUP)
        samples = [f"train-{block * n_groups + k}" for k in range(n_groups)]
        jobs = group_jobs(samples, min(GROUP, episodes), seed=(0, block))
        agent = VLMAgent(vlm.chat, engines[name], Sampling(temperature=temperature, max_tokens=16))
        cpu, wall = time.process_time(), time.perf_counter()
        done = rollout(envs, agent, jobs)
        spent = time.process_time() - cpu, time.perf_counter() - wall
        rows[name].append((*spent, float(sum(each.tokens.action.sum() for each in done if each.tokens))))

    for block in range(blocks + 1):
        for name in ("ours", "generate", "generate", "ours"):
            run(name, block)
    # (blocks, [CPU time, time, ids]); the first block does not count.
    theirs, own = (np.array(rows[name]).reshape(blocks + 1, 2, 3).sum(1)[1:] for name in ("generate", "ours"))
    ids = float(theirs[:, 2].sum() / own[:, 2].sum())
    if not 0.8 < ids < 1.25:
        raise RuntimeError(f"not the same work: generate wrote {ids:.2f} times as many ids")
    cpu, seconds, _ = np.median(theirs / own, axis=0).tolist()
    rate = float(own[:, 2].sum() / own[:, 0].sum())
    return {"episodes": episodes, "cpu": cpu, "seconds": seconds, "ids": ids, "rate": rate}


def table(results: Sequence[dict[str, Any]]) -> str:
    lines = ["| rollouts at once | generate / ours, CPU time | time | ids generated | our ids a CPU second |"]
    lines += ["|---:|---:|---:|---:|---:|"]
    for r in results:
        lines.append(f"| {r['episodes']} | {r['cpu']:.2f} | {r['seconds']:.2f} | {r['ids']:.2f} | {r['rate']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/quickstart/warm", help="a checkpoint; `make quickstart` leaves one")
    parser.add_argument("--episodes", type=int, nargs="+", default=[1, 8, 64], help="rollouts at once")
    parser.add_argument("--blocks", type=int, default=10, help="blocks of two rollouts a side that count")
    arguments = parser.parse_args()
    vlm = VLM.from_pretrained(arguments.model)
    print(table([compare(vlm, episodes, arguments.blocks) for episodes in arguments.episodes]))


if __name__ == "__main__":
    main()
