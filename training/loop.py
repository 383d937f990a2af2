"""PPO on groups of episodes, in one process: the whole trainer. RLlib's layer runs the same functions on Ray.

    python -m training ppo RECIPE --plain

An iteration samples a group of rollouts for each of some samples, settles their rewards, and makes a few optimizer
steps on them. What Ray adds is many processes, what they lose and hang in, other engines, and rollouts from ahead.
"""

from __future__ import annotations

import time
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import torch

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents.agents import VLMAgent
from pxr_agents.engines import local_engine
from pxr_agents.groups import Group, group_jobs
from pxr_agents.rollout import rollout
from pxr_agents.types import Episode, Sampling
from .batch import failed_batch_error
from .config import PPORecipe
from .environments import make_env
from .learners import adapter_weights, export_model, plain_weights
from .policy import Policy, policy_arguments
from .ppo_run import Books, OnIteration, open_run
from .rewards import Rewards, check_enough, scored, settled_groups
from .run_directory import NonFiniteError
from .update import Update

WITHOUT_RAY = {"learner.kind": "ddp", "max_staleness": 0, "uniform_groups": "keep"}


def run_plain(recipe: PPORecipe, *, on_iteration: OnIteration | None = None) -> Path:
    """Train by a recipe, from its beginning or newest checkpoint; returns the directory of the trained model.

    Raises:
        ValueError, FinishedRunError, FileNotFoundError, Interrupted, TrainingError: as what is called here.
    """
    recipe = plain_recipe(recipe)
    with open_run(recipe, on_iteration) as run:
        run.train(PlainPPO(recipe))
    return run.directory.model


def plain_recipe(recipe: PPORecipe) -> PPORecipe:
    """The recipe for one process; raises ValueError if what it asks for does not go without Ray."""
    for name, expected in WITHOUT_RAY.items():
        if (value := attrgetter(name)(recipe)) != expected:
            raise ValueError(f"{name} is {value!r}; expected {expected!r} with --plain: leave it out to train on Ray")
    if recipe.engine.kind == "vllm":
        raise ValueError("engine.kind is 'vllm'; expected 'transformers' with --plain: leave it out to train on Ray")
    return replace(recipe, num_env_runners=0, num_learners=0)


class PlainPPO:
    """`train()` runs one iteration. Attributes are those of `training.ppo_run.Trainer`."""

    def __init__(self, recipe: PPORecipe) -> None:
        self.recipe, self.iteration = recipe, 0
        self.last_iteration: dict[str, float] = {}
        self.last_episodes: list[Episode] = []
        device = "cuda" if recipe.num_gpus_per_learner else "cpu"
        self.policy = Policy.load(**policy_arguments(recipe), device=device)
        head = self.policy.value_head
        parameters = [*self.policy.vlm.model.parameters(), *(head.parameters() if head else ())]
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=recipe.lr, betas=recipe.adam_betas, weight_decay=recipe.weight_decay
        )
        self.update = Update(recipe, self.policy)
        n_envs = min(recipe.groups_per_iteration * recipe.group_size, recipe.max_envs_per_runner)
        self.envs = [make_env(recipe.env, arms=recipe.has_arms) for _ in range(n_envs)]
        self.engine = local_engine(recipe.engine.kind, self.policy.vlm)
        sampling = Sampling(temperature=recipe.temperature, max_tokens=recipe.max_tokens)
        self.agent = VLMAgent(self.policy.vlm.chat, self.engine, sampling, stop_strings=recipe.stop_strings)
        self.books = Books(recipe, self.envs[0])

    def train(self) -> None:
        self.books.faults = []
        start = time.perf_counter()
        groups = self.sample()
        sampled = time.perf_counter()
        self.last_episodes = [episode for group in groups for episode in group.episodes]
        known = [group for group in (scored(each, self.recipe) for each in groups) if group.episodes]
        check_enough(len(known), self.recipe, self.last_episodes)
        learned = self.learn(known)
        tokens = [episode.tokens for episode in self.last_episodes if episode.tokens]
        self.last_iteration = {
            **self.books.count(self.last_episodes, learned, self.iteration),
            "tokens/generated": float(sum(each.action.sum() for each in tokens)),
            "tokens/total": float(sum(len(each.ids) for each in tokens)),
            "seconds/sample": sampled - start,
            "seconds/learn": time.perf_counter() - sampled,
        }
        self.iteration += 1

    def sample(self) -> list[Group]:
        """A settled group for each of the next samples."""
        recipe = self.recipe
        sample_ids = self.books.cursor.take(recipe.groups_per_iteration)
        plans = self.books.arms.plan(sample_ids, self.iteration)
        jobs = group_jobs(
            sample_ids,
            recipe.group_size,
            seed=(recipe.seed, 3, self.iteration, 0),
            arms={sample_id: plan.arms for sample_id, plan in plans.items()} if plans else None,
        )
        self.engine.set_weights_version(self.iteration)
        rewards = Rewards(recipe)
        return settled_groups(rollout(self.envs, self.agent, jobs, rewards.begin), recipe, rewards, plans)

    def learn(self, groups: list[Group]) -> dict[str, float]:
        """One update on these groups; returns its metrics."""
        for parameter_group in self.optimizer.param_groups:
            parameter_group["lr"] = self.update.lr(self.iteration)
        try:
            for batch in self.update.minibatches(groups, iteration=self.iteration, weights_version=self.iteration):
                self.optimizer.zero_grad(set_to_none=True)
                self.update.loss(batch, self.update.backward(batch))
                norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_grad_norm)
                if self.update.takes_step(float(norm)):
                    self.optimizer.step()
        except NonFiniteError as error:
            raise failed_batch_error(str(error), [self.update.failed_batch or {}]) from error
        return self.update.metrics()

    def save_to_path(self, path: str) -> None:
        state = {"iteration": self.iteration, "parameters": self.parameters, "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"books": self.books.state_dict()}, Path(path) / "state.pt")

    def restore_from_path(self, path: str) -> None:
        file = Path(path) / "state.pt"
        if not file.exists():
            raise ValueError(f"{path} was written by a run on Ray; leave --plain out, or choose another directory")
        state = torch.load(file, weights_only=False)
        for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
            parameter.data.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.books.load_state_dict(state["books"])
        self.iteration = state["iteration"]

    def export(self, path: Path) -> None:
        weights, adapters = (dict(of(self.policy.vlm.model)) for of in (plain_weights, adapter_weights))
        export_model(self.recipe, weights, adapters, path)
