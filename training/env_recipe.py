"""The parts of a recipe that say where episodes come from: one environment, or several with shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import Discriminator, PositiveFloat, Tag
from pydantic.dataclasses import dataclass

from pxr_env.curiosity import curiosity_formula
from .recipe_reader import RECIPE


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
        except TypeError as error:  # a constant that the formula does not have
            raise ValueError(str(error)) from error


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class MixedEnvRecipe(EnvRecipe):
    """One of several environments of a run, an [[env]]."""

    # Again: pydantic reads the texts of a class's own fields only.
    id: str
    """Its id as for `gymnasium.make`, with the module that registers it."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Its constructor arguments."""
    name: str = ""
    """What it is called in metrics ("env/NAME/accuracy") and before its samples ("NAME/train-0"); by default its id
    without namespace and version, "SyntheticSearch"."""
    share: PositiveFloat = 1.0
    """Parts of all groups that are its own: of environments with 3 and 1 the first has three in four."""
    curiosity: CuriosityRecipe | None = None
    """Its curiosity reward; by default that of the run."""

    @property
    def called(self) -> str:
        """Its name, given or not."""
        return self.name or re.split("[:/]", self.id)[-1].rpartition("-v")[0] or self.id


Envs = Annotated[
    Annotated[EnvRecipe, Tag("[env]")] | Annotated[tuple[MixedEnvRecipe, ...], Tag("[[env]]")],
    Discriminator(lambda given: "[[env]]" if isinstance(given, list | tuple) else "[env]"),
]
"""A table, or several; only the kind that it is complains of mistakes."""


def by_name(env: EnvRecipe | tuple[MixedEnvRecipe, ...]) -> Mapping[str, EnvRecipe]:
    """The environments of a recipe; one alone has no name, "".

    Raises:
        ValueError: a name comes twice, is no name, or there is none at all.
    """
    if isinstance(env, EnvRecipe):
        return {"": env}
    names = [each.called for each in env]
    for name in names:
        if names.count(name) > 1 or "/" in name:
            raise ValueError(f'env has the name "{name}"; expected another one for each [[env]], without "/": set name')
    if not names:
        raise ValueError("env is empty; expected one environment at least")
    return dict(zip(names, env, strict=True))


def shares_of(env: EnvRecipe | tuple[MixedEnvRecipe, ...]) -> Mapping[str, float]:
    """Name -> the share of the groups, of all 1."""
    if isinstance(env, EnvRecipe):
        return {"": 1.0}
    total = sum(each.share for each in env)
    return {each.called: each.share / total for each in env}


def name_in(env: EnvRecipe | tuple[MixedEnvRecipe, ...], sample_id: str) -> str:
    """The name of the environment that a sample of this recipe belongs to."""
    return "" if isinstance(env, EnvRecipe) else sample_id.partition("/")[0]
