"""The environment, and the curiosity reward in it."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from pydantic.dataclasses import dataclass

from pxr_env.curiosity import curiosity_formula
from training.config.base import RECIPE


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class EnvRecipe:
    """An environment."""

    id: str
    """Its id as for `gymnasium.make`, with the module that registers it: "pxr_env:pxr/SyntheticSearch-v0"."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Its constructor arguments."""


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class CuriosityRecipe:
    """The curiosity reward (see `pxr_env.curiosity`)."""

    preset: str = "paper"
    """One of "paper", "released-code", "off", or a formula of your own."""
    overrides: dict[str, float | str] = field(default_factory=dict)
    """Constants in place of the preset's, such as alpha."""

    def __post_init__(self) -> None:
        try:
            curiosity_formula(self.preset, **self.overrides)
        except TypeError as error:
            # A constant that the formula does not have.
            raise ValueError(str(error)) from error
