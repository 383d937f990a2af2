"""The environment, and the curiosity reward in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pxr_env.curiosity import curiosity_formula


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvRecipe:
    """An environment.

    Attributes:
        id: as for `gymnasium.make`, with the module that registers it: "pxr_env:pxr/SyntheticSearch-v0".
        kwargs: its constructor arguments.
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class CuriosityRecipe:
    """The curiosity reward (see `pxr_env.curiosity`).

    Attributes:
        preset: "paper", "released-code", "off", or a formula of your own.
        overrides: constants in place of the preset's, such as alpha.
    """

    preset: str = "paper"
    overrides: dict[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        curiosity_formula(self.preset, **self.overrides)
