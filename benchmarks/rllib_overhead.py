"""What the RLlib layer costs: CPU time of PPO on RLlib against a plain loop that does the same work.

    OMP_NUM_THREADS=1 python benchmarks/rllib_overhead.py --model runs/quickstart/warm

Both train the same model by the same recipe (`ppo_tiny`, one process) on the same samples with the same noise; that it
is the same work is checked: the weights of both are equal in the end. Iterations come in blocks of four (RLlib, plain,
plain, RLlib), so that whatever else the machine does hits both, and each is as often the one that renders a scene
first. The ratio is the median over blocks. Counted is the CPU time of this process with all its threads; Ray's own
background processes, which idle here, are not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents.agents import VLMAgent
from pxr_agents.engines.transformers import TransformersEngine
from pxr_agents.rollout import rollout
from pxr_agents.types import Job, Sampling
from pxr_agents.vlm import VLM, token_distributions
from training.batch import Group, TrainingRow, buckets, group_rows, minibatches, settle
from training.config import PPORecipe, load_recipe
from training.cursor import SampleCursor
from training.loss import ppo_loss
from training.rllib.algorithm import VLMPPOConfig
from training.rllib.run import ray_session
from training.rllib.weights import learner_weights
from training.schedule import lr_factor


class Timed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds up the CPU seconds spent inside an environment."""

    seconds = 0.0

    def reset(self, **arguments: Any) -> Any:
        return self._timed(lambda: self.env.reset(**arguments))

    def step(self, action: Any) -> Any:
        return self._timed(lambda: self.env.step(action))

    @classmethod
    def _timed(cls, call: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = call()
        cls.seconds += time.process_time() - start
        return result


class PlainLoop:
    """One iteration a call, out of the same functions that the RLlib layer calls."""

    def __init__(self, recipe: PPORecipe) -> None:
        self.recipe, self.iteration, self.seconds = (
            recipe,
            0,
            dict.fromkeys(("environment", "generation", "learning"), 0.0),
        )
        self.vlm = VLM.from_pretrained(recipe.model)
        self.engine = TransformersEngine(self.vlm)
        sampling = Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens)
        self.agent = VLMAgent(self.vlm.chat, self.engine, sampling)
        n = min(recipe.groups_per_iteration * recipe.group_size, recipe.max_envs_per_runner)
        self.envs = [Timed(gymnasium.make(recipe.env.id, **recipe.env.kwargs)) for _ in range(n)]
        data: Any = self.envs[0].unwrapped
        self.cursor = SampleCursor(data.data.sample_ids(), seed=recipe.seed)
        self.parameters = list(self.vlm.model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=recipe.lr, betas=recipe.adam_betas, weight_decay=recipe.weight_decay
        )

    def __call__(self) -> None:
        start, in_envs = time.process_time(), Timed.seconds
        groups = self._sample()
        sampled, in_envs = time.process_time(), Timed.seconds - in_envs
        self._learn(groups)
        self.iteration += 1
        self.seconds["environment"] += in_envs
        self.seconds["generation"] += sampled - start - in_envs
        self.seconds["learning"] += time.process_time() - sampled

    def _sample(self) -> list[Group]:
        recipe = self.recipe
        sample_ids = self.cursor.take(recipe.groups_per_iteration)
        seed = np.random.SeedSequence([recipe.seed, 3, self.iteration, 0, 0]).generate_state(1)[0]
        self.engine.seed(int(seed))
        self.engine.set_weights_version(self.iteration)
        size = recipe.group_size
        jobs = [Job(sample_id=s, group=k) for k, s in enumerate(sample_ids) for _ in range(size)]
        episodes = rollout(self.envs, self.agent, jobs)
        return [
            settle(
                Group(sample_id=s, episodes=episodes[k * size : (k + 1) * size]),
                preset=recipe.curiosity.preset,
                overrides=recipe.curiosity.overrides,
            )
            for k, s in enumerate(sample_ids)
        ]

    def _learn(self, groups: list[Group]) -> None:
        recipe = self.recipe
        rows = [group_rows(group, normalize_std=recipe.normalize_std) for group in groups]
        rng = np.random.default_rng([recipe.seed, 4, self.iteration])
        factor = lr_factor(
            self.iteration,
            recipe.iterations,
            warmup=recipe.lr_warmup_iterations,
            decay_fraction=recipe.lr_decay_fraction,
        )
        for parameter_group in self.optimizer.param_groups:
            parameter_group["lr"] = recipe.lr * factor
        for part in minibatches(rows, n_minibatches=recipe.num_minibatches, n_epochs=recipe.num_epochs, rng=rng):
            self._update(part)

    def _update(self, rows: list[TrainingRow]) -> None:
        recipe, batch = self.recipe, buckets(rows)
        logprobs, entropies = [], []
        for bucket in batch:
            ids, distributions, _ = token_distributions(self.vlm, bucket.tokens, recipe.temperature)
            logprobs.append(distributions.gather(1, ids[:, None])[:, 0])
            entropies.append(-(distributions.exp() * distributions.clamp(min=-1e4)).sum(-1))
        flat = torch.cat(logprobs)
        loss, _ = ppo_loss(
            flat,
            torch.cat([bucket.old_logprobs for bucket in batch]),
            torch.cat([bucket.advantages for bucket in batch]),
            torch.cat(entropies),
            clip_coef=recipe.clip_coef,
            clip_coef_high=recipe.clip_coef_high,
            ent_coef=recipe.ent_coef,
            normalizer=max(sum(row.n_actions for row in rows if row.teaches), 1),
            mask=torch.full_like(flat, any(row.teaches for row in rows), dtype=torch.bool),
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, recipe.max_grad_norm)
        self.optimizer.step()


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/quickstart/warm", help="a checkpoint; `make quickstart` leaves one")
    parser.add_argument("--blocks", type=int, default=15, help="blocks (two iterations of each) that count")
    parser.add_argument("--warm-up", type=int, default=2, help="blocks before them that do not")
    arguments = parser.parse_args()
    if not Path(arguments.model).is_dir():
        parser.error(f"there is no checkpoint {arguments.model}; run `make quickstart`, or name one with --model")

    blocks = arguments.blocks + arguments.warm_up
    overrides = [f"model={arguments.model}", f"iterations={2 * blocks}", "num_env_runners=0", "wandb=false"]
    recipe = load_recipe("ppo_tiny", PPORecipe, overrides)
    with ray_session(recipe):
        algorithm: Any = VLMPPOConfig().recipe(recipe).build_algo()
        plain = PlainLoop(recipe)
        rllib_times, plain_times = [], []
        for block in range(blocks):
            if block == arguments.warm_up:
                plain.seconds = dict.fromkeys(plain.seconds, 0.0)
            first, *both = timed(algorithm.train), timed(plain), timed(plain)
            rllib_times += [first, timed(algorithm.train)]
            plain_times += both
        weights = learner_weights(algorithm.learner_group)
        same = all(torch.equal(value, weights[name]) for name, value in plain.vlm.model.state_dict().items())
        algorithm.stop()
    n = 2 * arguments.warm_up
    show(recipe, rllib_times[n:], plain_times[n:], plain.seconds, same)


def show(
    recipe: PPORecipe,
    rllib: list[tuple[float, float]],
    plain: list[tuple[float, float]],
    seconds: dict[str, float],
    same: bool,
) -> None:
    cpu = [[sum(cpu for cpu, _ in times[k : k + 2]) for k in range(0, len(times), 2)] for times in (rllib, plain)]
    ratios = [a / b for a, b in zip(*cpu, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    rollouts = recipe.groups_per_iteration * recipe.group_size
    print(f"weights after {len(rllib)} counted iterations: {'equal' if same else 'DIFFERENT, so was the work'}")
    print(f"CPU time RLlib / plain: {quartiles[1]:.3f} (quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f})")
    for name, times in (("RLlib", rllib), ("plain", plain)):
        seconds_cpu, wall = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name}: {seconds_cpu:.3f} CPU s, {wall:.3f} s an iteration; {rollouts / wall:.0f} rollouts/s")
    total = sum(seconds.values())
    print("plain loop: " + ", ".join(f"{name} {value / total:.0%}" for name, value in seconds.items()))


if __name__ == "__main__":
    main()
