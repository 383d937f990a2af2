"""Another environment whose episodes earn a little more or less by chance, so that every group has something to learn.

What is earned follows from an episode's seed alone, whatever a model says: no test depends on the luck of its answers.
With two levels some groups score alike, and some do not.
"""

from __future__ import annotations

import random
from typing import Any

import gymnasium

import pxr_env  # noqa: F401  (registers the tasks)
from training.config import EnvRecipe

ID = "tests.training.uneven:uneven/Any-v0"


class Uneven(gymnasium.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gymnasium.Env[Any, Any], levels: int) -> None:
        super().__init__(env)
        self._levels = levels

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._luck = random.Random(seed).randrange(self._levels) / self._levels
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        luck = self._luck if terminated or truncated else 0.0
        terms = info["reward_terms"] | {"luck": luck}
        return observation, float(reward) + luck, terminated, truncated, info | {"reward_terms": terms}


def uneven(recipe: EnvRecipe, levels: int = 10**6) -> EnvRecipe:
    """The environment of a recipe, with luck."""
    return EnvRecipe(id=ID, kwargs={"inner": recipe.id, "kwargs": recipe.kwargs, "levels": levels})


def make(inner: str, kwargs: dict[str, Any], levels: int) -> gymnasium.Env[Any, Any]:
    return Uneven(gymnasium.make(inner, **kwargs).unwrapped, levels)


if "uneven/Any-v0" not in gymnasium.registry:
    gymnasium.register("uneven/Any-v0", entry_point=make, disable_env_checker=True)
