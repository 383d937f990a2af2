"""A tiny model that writes answers and zooms, and recipes that train it in seconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("torch")
import torch

import pxr_env  # noqa: F401  (registers the tasks)
from pxr_agents import tiny
from training.config import EnvRecipe, PPORecipe
from training.demonstrations import answer_turn, zoom_turn
from training.quickstart.recipe import TraceRecipe
from training.quickstart.stages import search_trace, target_cell
from training.sft import Optimizers, TokenWeights, cross_entropy

ENV = EnvRecipe(
    id="pxr_env:pxr/SyntheticSearch-v0", kwargs={"coordinates": "pixel", "max_turns": 3, "max_operations": 2}
)
ATOM = r"red|green|blue|\b\d+\b|(?<=\{)[A-Z](?=\})"


@pytest.fixture(scope="session")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that knows the form of a turn and guesses what stands in it; nobody may write into it."""
    path = tmp_path_factory.mktemp("speaker") / "model"
    env: Any = gymnasium.make(ENV.id, **ENV.kwargs)
    texts = []
    for k in range(12):
        observation, info = env.reset(options={"sample_id": f"train-{k}"})
        sample = env.unwrapped.sample
        zoom = zoom_turn(env, target_cell(sample)).text
        texts += [observation["text"], zoom, answer_turn(env, sample.answers[0]).text, env.step(zoom)[0]["text"]]
    vlm = tiny.build(path, texts, ATOM, [info["system_prompt"]], seed=0)
    rng = np.random.default_rng(0)
    rows = [search_trace(env, vlm.chat, f"train-{k}", TraceRecipe(zoom=0.5), rng) for k in range(64)]
    torch.manual_seed(0)
    optimizers = Optimizers(vlm, lr=3e-3, muon_lr=6e-3)
    for _ in range(50):
        batch = [rows[k] for k in rng.integers(0, len(rows), 16)]
        optimizers.step(cross_entropy(vlm, batch, TokenWeights()))
    vlm.save(path)
    return path


@pytest.fixture
def make_recipe(speaker: Path, tmp_path: Path) -> Callable[..., PPORecipe]:
    """A function that makes a small PPO recipe; its keyword arguments replace defaults."""

    def make(**changes: Any) -> PPORecipe:
        defaults: dict[str, Any] = {
            "model": str(speaker),
            "env": ENV,
            "out": str(tmp_path / "run"),
            "iterations": 2,
            "groups_per_iteration": 4,
            "group_size": 4,
            "num_cpus_per_env_runner": 0.25,
            "num_cpus_per_learner": 0.25,
            "num_minibatches": 1,
            "lr": 1e-3,
            "lr_warmup_iterations": 0,
            "max_tokens": 16,
            "wandb": False,
        }
        return PPORecipe(**(defaults | changes))

    return make


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """One Ray for the tests of a module."""
    ray = pytest.importorskip("ray")
    # Workers import this package from the clone, as these tests do.
    root = str(Path(__file__).resolve().parents[2])
    environment = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        ray.init("local", num_cpus=max(2, os.cpu_count() or 1), include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def build() -> Iterator[Callable[[PPORecipe], Any]]:
    """A function that builds the algorithm of a recipe; what it built is stopped afterwards."""
    from training.rllib.algorithm import VLMPPOConfig

    built: list[Any] = []

    def make(recipe: PPORecipe) -> Any:
        built.append(VLMPPOConfig().recipe(recipe).build_algo())
        return built[-1]

    yield make
    for algorithm in built:
        algorithm.stop()
