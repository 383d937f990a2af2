"""PPO without Ray or RLlib: a loop in one process, out of the same functions that the RLlib layer calls.

What `benchmarks/ppo.py` compares the layer with, and short enough to see what PPO on groups of episodes is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents.agents import VLMAgent
from pxr_agents.engines.transformers import TransformersEngine
from pxr_agents.noise import episode_seed
from pxr_agents.rollout import rollout
from pxr_agents.types import Job, Sampling
from pxr_agents.vlm import VLM, token_distributions
from training.batch import Group, TrainingRow, buckets, group_rows, minibatches, settle
from training.config import PPORecipe
from training.cursor import SampleCursor
from training.loss import ppo_loss
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
    """`train()` runs one iteration.

    Attributes:
        last_iteration: its numbers, by the names that `VLMPPO.last_iteration` has.
        cpu_seconds: what all iterations spent where, in CPU time of this process.
    """

    def __init__(self, recipe: PPORecipe) -> None:
        self.recipe, self.iteration = recipe, 0
        self.last_iteration: dict[str, float] = {}
        self.cpu_seconds = dict.fromkeys(("environment", "generation", "learning"), 0.0)
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

    def train(self) -> None:
        cpu, wall, in_envs = time.process_time(), time.perf_counter(), Timed.seconds
        groups = self._sample()
        cpu_sampled, sampled, in_envs = time.process_time(), time.perf_counter(), Timed.seconds - in_envs
        self._learn(groups)
        self.iteration += 1
        self.cpu_seconds["environment"] += in_envs
        self.cpu_seconds["generation"] += cpu_sampled - cpu - in_envs
        self.cpu_seconds["learning"] += time.process_time() - cpu_sampled
        tokens = [episode.tokens for group in groups for episode in group.episodes if episode.tokens]
        self.last_iteration = {
            "seconds/sample": sampled - wall,
            "seconds/learn": time.perf_counter() - sampled,
            "tokens/generated": float(sum(each.action.sum() for each in tokens)),
            "tokens/total": float(sum(len(each.ids) for each in tokens)),
        }

    def _sample(self) -> list[Group]:
        recipe = self.recipe
        sample_ids = self.cursor.take(recipe.groups_per_iteration)
        self.engine.set_weights_version(self.iteration)
        size = recipe.group_size
        jobs = [
            Job(sample_id=s, seed=episode_seed((recipe.seed, 3, self.iteration, 0), s, member), group=k)
            for k, s in enumerate(sample_ids)
            for member in range(size)
        ]
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
