"""What a model wants to be asked like, as far as its files or its name tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium

from eval.suites import Recipe, read_recipe, recipe_names

#: What a run of `python -m training` leaves below its directory.
_MODELS_OF_RUNS = ("model", "arms/curiosity/model")
#: Parts of a model's name or `model_type`, lower case without "_" and "-" -> arguments of the environment.
_FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "qwen3vl": {"dialect": "qwen3-vl", "coordinates": "permille", "size_multiple": 32},
    "qwen25vl": {"dialect": "hermes", "coordinates": "pixel", "size_multiple": 28},
    "qwen2.5vl": {"dialect": "hermes", "coordinates": "pixel", "size_multiple": 28},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """How a model is asked unless the visitor says otherwise.

    Args:
        arguments: of every environment.
        sampling: `temperature`, `max_tokens` and `stop`, where it is known.
        env_id: the environment the model was trained in, None if that is unknown.
        reason: where this comes from, in words.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    env_id: str | None = None
    reason: str = "the defaults of this project"


def find_model(path: str) -> str:
    """The checkpoint of a run's directory, or `path` itself."""
    if not (Path(path) / "config.json").is_file():
        for inside in _MODELS_OF_RUNS:
            if (Path(path) / inside / "config.json").is_file():
                return str(Path(path) / inside)
    return path


def find_defaults(model: str, recipe: Recipe | None = None) -> Defaults:
    """What a model wants: a recipe given, the run that trained it, a recipe with its name, its family.

    Args:
        model: the directory of a checkpoint, or the name a server knows it by.
        recipe: goes before everything else.
    """
    if recipe is not None:
        return _of_recipe(recipe)
    for folder in (Path(model).parent, Path(model).parent.parent):
        env = _trained_in(folder / "recipe.json")
        if Path(model).is_dir() and env is not None:
            wanted = {**_budget(env["id"], env["kwargs"]), **env["kwargs"]}
            return Defaults(arguments=wanted, env_id=env["id"], reason=f"the run {folder.resolve().name}")
    for name in recipe_names():
        known = read_recipe(name)
        if known.model is not None and known.model.rpartition("/")[2].lower() in model.lower():
            return _of_recipe(known)
    kind = _model_type(Path(model)) or model
    for family, arguments in _FAMILIES.items():
        if family in kind.lower().replace("_", "").replace("-", ""):
            return Defaults(arguments=arguments, reason="its family (docs/models.md)")
    return Defaults()


def _of_recipe(recipe: Recipe) -> Defaults:
    return Defaults(arguments=recipe.env, sampling=recipe.sampling, reason=f"the recipe {recipe.name}")


def _trained_in(path: Path) -> dict[str, Any] | None:
    told = _read(path)
    env = told.get("env")
    if isinstance(env, dict) and isinstance(env.get("id"), str) and isinstance(env.get("kwargs"), dict):
        return env
    return None


def _budget(env_id: str, arguments: Mapping[str, Any]) -> dict[str, int]:
    """The pixel budget of the images a model was trained on; nothing where the environment cannot be made here."""
    try:
        env = gymnasium.make(env_id, disable_env_checker=True, **arguments)
    except (gymnasium.error.Error, ValueError, TypeError, OSError, ImportError):
        return {}
    base: Any = env.unwrapped
    return dict(base.rules.image_budget)


def _model_type(folder: Path) -> str | None:
    kind = _read(folder / "config.json").get("model_type")
    return kind if isinstance(kind, str) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
