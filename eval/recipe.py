"""Recipes: how a released model wants to be asked, as a TOML file. The command line overrides what they say."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from eval.suites import Suite
from pxr_env.errors import did_you_mean, quote
from pxr_env.tasks import TASKS

_KEYS = {
    "": ("model", "source", "env", "suites", "sampling", "server"),
    "sampling": ("temperature", "max_tokens", "stop"),
    "server": ("body",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Settings of an evaluation that belong to a model.

    Args:
        name: of the recipe, or the path of its file.
        sha256: of its bytes.
        model: what the model is called by those who published it.
        source: where the settings come from.
        env: arguments of every environment.
        suites: arguments of the environment for single suites, by their names; they override `env`.
        sampling: `temperature`, `max_tokens` and `stop` (strings that end a turn), where it says so.
        body: further fields of a server's requests.
    """

    name: str
    sha256: str
    model: str | None = None
    source: str = ""
    env: Mapping[str, Any] = field(default_factory=dict)
    suites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    def environment(self, suite: Suite) -> dict[str, Any]:
        """What it wants of a suite's environment. Own environments that are in no table are given everything.

        Raises:
            ValueError: the environment has no such argument.
        """
        wanted = {**self.env, **self.suites.get(suite.name, {})}
        task = TASKS.get(suite.env_id.removeprefix("pxr_env:"))
        if task is not None:
            known = task.parameters()
            for name in wanted:
                if name not in known:
                    raise ValueError(
                        f"the recipe {self.name} gives {suite.name} the argument {name!r}, which it does not have."
                        f"{did_you_mean(name, known)} Change the recipe."
                    )
        return wanted

    def as_manifest(self) -> dict[str, str]:
        """What the manifest says of it; its settings stand where they belong."""
        return {"name": self.name, "sha256": self.sha256, "source": self.source}


def recipe_names() -> list[str]:
    """The recipes that come with this package."""
    files = resources.files("eval").joinpath("recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read_recipe(name: str) -> Recipe:
    """Read a recipe of this package by its name, or any by the path of its file.

    Raises:
        ValueError: there is none, it is no TOML, or it says what no recipe says.
    """
    if name in recipe_names():
        content = resources.files("eval").joinpath("recipes", f"{name}.toml").read_bytes()
    elif Path(name).is_file():
        content = Path(name).read_bytes()
    else:
        raise ValueError(
            f"got --recipe {quote(name)}, expected one of {', '.join(recipe_names())}, or the path of a TOML file."
            f"{did_you_mean(name, recipe_names())}"
        )
    try:
        told = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the recipe {name} is no TOML: {error}") from error
    _check_keys(name, "", told)
    tables = {key: _table(name, key, told.get(key, {})) for key in ("env", "suites", "sampling", "server")}
    for key in ("sampling", "server"):
        _check_keys(name, key, tables[key])
    return Recipe(
        name=name,
        sha256=hashlib.sha256(content).hexdigest(),
        model=told.get("model"),
        source=str(told.get("source", "")),
        env=tables["env"],
        suites={suite: _table(name, f"suites.{suite}", given) for suite, given in tables["suites"].items()},
        sampling=tables["sampling"],
        body=_table(name, "server.body", tables["server"].get("body", {})),
    )


def _table(name: str, key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"the recipe {name} has {key} = {quote(repr(value))}; expected a table [{key}]")
    return value


def _check_keys(name: str, table: str, given: Iterable[str]) -> None:
    known = _KEYS[table]
    for key in given:
        if key not in known:
            where = f"[{table}] of the recipe {name}" if table else f"the recipe {name}"
            raise ValueError(f"{where} has {key!r}; expected only {', '.join(known)}.{did_you_mean(key, known)}")
