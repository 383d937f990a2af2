"""The engine block of a recipe."""

from __future__ import annotations

import dataclasses

import pytest

from pxr_agents.engines.vllm import StartArguments
from training.config import EngineRecipe, EnvRecipe, PPORecipe, RecipeError, load_recipe, recipe_keys

PPO = ["model=m", "env.id=e"]


def test_the_default_is_transformers_in_every_env_runner():
    assert PPORecipe(model="m", env=EnvRecipe(id="e")).engine == EngineRecipe()
    assert EngineRecipe().kind == "transformers"


def test_keys_on_the_command_line():
    recipe = load_recipe(
        None, PPORecipe, [*PPO, "engine.kind=vllm", "engine.num_engines=4", "engine.vllm.block_size=32"]
    )
    assert recipe.engine == EngineRecipe(kind="vllm", num_engines=4, vllm=StartArguments(block_size=32))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.kind=vlm", r'engine\.kind: .*Did you mean "vllm"'),
        ("engine.num_engine=2", r'engine\.num_engine: .*Did you mean "engine\.num_engines"'),
        ("engine.vllm.max_model_length=2", r'Did you mean "engine\.vllm\.max_model_len"'),
        ("engine.vllm.gpu_memory_utilization=90", r"gpu_memory_utilization: got 90; expected less than or equal to 1"),
    ],
)
def test_mistakes_name_the_key(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(None, PPORecipe, [*PPO, override])


@pytest.mark.parametrize(("name", "value"), [("num_engines", 0), ("num_gpus_per_engine", -1.0), ("timeout", 0.0)])
def test_ranges(name, value):
    with pytest.raises(ValueError, match=rf"^1 validation error for EngineRecipe\n{name}\n"):
        dataclasses.replace(EngineRecipe(), **{name: value})


def test_every_key_is_explained():
    assert [key for key, text in recipe_keys(EngineRecipe) if not text] == []
