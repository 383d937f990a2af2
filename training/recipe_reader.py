"""Reads recipes: pydantic dataclasses filled from TOML files and `key=value` overrides.

What is not known is refused, with the file, the dotted key and the nearest valid one, so that a typo never trains the
wrong thing:

    recipe = load_recipe("my.toml", PPORecipe, ["lr=3e-6", "env.kwargs.max_turns=4"])
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pxr_env.errors import did_you_mean, show

Recipe = TypeVar("Recipe")

RECIPES = Path(__file__).parent / "recipes"
"""The recipes that come with the package, by name."""

#: Of every recipe class: unknown keys, "1" for 1 and infinite numbers are refused; texts below fields are their help.
RECIPE = ConfigDict(use_attribute_docstrings=True, extra="forbid", strict=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]


class RecipeError(ValueError):
    """A recipe cannot be read: where the mistake is, what was found and what was expected."""


def require(recipe: Any, *checks: tuple[str, bool, str]) -> None:
    """Raise a ValueError for the first of (key, whether it holds, what is expected) that does not hold."""
    for key, holds, expected in checks:
        if not holds:
            raise ValueError(f"{key} is {attrgetter(key)(recipe)!r}; expected {expected}")


def load_recipe(source: str | Path | None, recipe_class: type[Recipe], overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        source: path of a .toml file (or of a .json file with what `to_dict` returned), the name of a recipe that
            comes with the package, or None for the defaults alone.
        recipe_class: the pydantic dataclass to fill. What a file leaves out keeps its default; a table changes the keys
            it names in the default of its field and leaves the others.
        overrides: "key=value" with dotted keys, as they come from the command line. Values are TOML, and what is
            not TOML is a string, so that paths need no quotes.

    Raises:
        RecipeError: the file is missing or cannot be parsed, a key is unknown or missing, a value has the wrong type
            or is out of range. All mistakes are named, one a line.
    """
    table = {} if source is None else read_table(source)
    overridden = [_apply_override(table, override) for override in overrides]
    fields = {field.name: field for field in dataclasses.fields(recipe_class)}  # type: ignore[arg-type]
    values = {name: _completed(_default(fields[name]), v) if name in fields else v for name, v in table.items()}
    try:
        # As JSON: lists become tuples and strings paths, and nothing else is converted.
        return TypeAdapter(recipe_class).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        file, lines = "recipe" if source is None else str(source), dict[str, str]()
        for mistake in error.errors():
            key = _dotted(mistake["loc"], values)
            # Where a value may be of several kinds, each kind complains; the first one is what it should be.
            lines.setdefault(key, f"{_origin(key, file, overridden)}: {_say(key, mistake, recipe_class)}")
        raise RecipeError("\n".join(lines.values())) from error


def read_table(source: str | Path) -> dict[str, Any]:
    """The keys and values of a recipe file, unchecked; `source` as for `load_recipe`.

    Raises:
        RecipeError: the file is missing or cannot be parsed.
    """
    path = Path(source)
    if path.suffix not in (".toml", ".json"):
        path = RECIPES / f"{source}.toml"
    try:
        content = path.read_bytes().decode()
        table = json.loads(content) if path.suffix == ".json" else tomllib.loads(content)
    except OSError as error:
        names = sorted(file.stem for file in RECIPES.glob("*.toml"))
        raise RecipeError(
            f"{source}: there is no such recipe ({path}: {error.strerror}); expected the path of a .toml file or the "
            f"name of a recipe that comes with the package: {', '.join(names)}.{did_you_mean(str(source), names)}"
        ) from error
    except ValueError as error:
        raise RecipeError(f"{path}: cannot be parsed: {error}") from error
    if not isinstance(table, dict):
        raise RecipeError(f"{path}: holds {show(table)}; expected the keys of a recipe")
    return table


def to_dict(recipe: Any) -> dict[str, Any]:
    """Returns a recipe as JSON values (a path is a string, a tuple a list)."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe), default=str))
    return values


def recipe_keys(recipe_class: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields every dotted key of a recipe and what the text below it says, for a help text."""
    for name, field in recipe_class.__pydantic_fields__.items():
        tables = list(_tables(field.annotation))
        for table, mark in tables:
            yield from recipe_keys(table, prefix + name + mark)
        if not tables:
            yield prefix + name, " ".join((field.description or "").split())


def _tables(annotation: Any) -> Iterator[tuple[Any, str]]:
    """The recipe classes that a key may hold, and what stands behind it then: "." or, for one of several, "[]."."""
    if dataclasses.is_dataclass(annotation):
        yield annotation, "."
    elif get_origin(annotation) is tuple:
        yield from ((table, f"[]{mark}") for table, mark in _tables(get_args(annotation)[0]))
    elif get_origin(annotation) is Annotated:
        yield from _tables(get_args(annotation)[0])
    elif get_origin(annotation) in (UnionType, Union):
        for kind in get_args(annotation):
            yield from _tables(kind)


def _apply_override(table: dict[str, Any], override: str) -> str:
    """Sets one "key=value" in the nested table and returns the key."""
    key, equals, text = override.partition("=")
    key = key.strip()
    *parents, name = key.split(".")
    if not equals or not name:
        raise RecipeError(f"command line: got {override!r}; expected key=value, such as lr=1e-5")
    for depth, parent in enumerate(parents, start=1):
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            where = ".".join(parents[:depth])
            raise RecipeError(f"command line: {key}: {where} is {show(table)}; expected a table to set a key in")
    value, old = _parse_value(key, text.strip()), table.get(name)
    table[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return key


def _parse_value(key: str, text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if text[:1] in ("'", '"', "[", "{"):
            raise RecipeError(f"command line: {key}: {show(text)} is no TOML value: {error}") from error
        return text
    # A line break in the text could have set other keys, too.
    return parsed["value"] if parsed.keys() == {"value"} else text


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _completed(default: Any, given: Any) -> Any:
    """What a file gives for a key, and for the rest of a table its default."""
    if not isinstance(given, dict):
        return given
    if dataclasses.is_dataclass(default):
        named = {name: _completed(getattr(default, name, None), value) for name, value in given.items()}
        return to_dict(default) | named
    return default | given if isinstance(default, dict) else given


def _dotted(location: Sequence[str | int], values: Any) -> str:
    """Where pydantic found a mistake as a dotted key, without the kinds that it tried there."""
    key = ""
    for step in location:
        if str(step).startswith("["):  # the kind of table
            continue
        if isinstance(values, list) and isinstance(step, int):
            key, values = f"{key}[{step}]", values[step] if step < len(values) else None
        elif isinstance(values, dict):
            key, values = f"{key}.{step}".removeprefix("."), values.get(step)
    return key


def _origin(key: str, file: str, overridden: Sequence[str]) -> str:
    """Where a key was set: in the file, on the command line, or (a table) in both."""
    if any(key == given or key.startswith((f"{given}.", f"{given}[")) for given in overridden):
        return "command line"
    both = any(given.startswith(f"{key}.") or not key for given in overridden)
    return f"{file} and command line" if both else file


def _say(key: str, mistake: Mapping[str, Any], recipe_class: type) -> str:
    """What pydantic found wrong in the words of who wrote the recipe: what was found and what was expected."""
    kind, message, value = mistake["type"], mistake["msg"], mistake["input"]
    if kind == "missing":
        return f"{key}: is missing; expected a value"
    if kind == "unexpected_keyword_argument":
        return f"{key}: there is no such key.{_nearest(key, recipe_class)}"
    if kind == "value_error":
        # A check of several keys, which names the one.
        return f"{key}: {message}".removeprefix(": ").replace("Value error, ", "")
    choices = re.findall(r"'([^']*)'", mistake.get("ctx", {}).get("expected", ""))
    expected = message.replace("Input should be", "expected", 1)
    return f"{key}: got {show(value)}; {expected}.{did_you_mean(value, choices)}"


def _nearest(key: str, recipe_class: type) -> str:
    """The right name in the wrong table is closer than a similar one in the right table."""
    key = re.sub(r"\[\d+\]", "[]", key)
    table, dot, name = key.rpartition(".")
    keys = [path.removeprefix(table + dot) for path, _ in recipe_keys(recipe_class) if path.startswith(table + dot)]
    deeper = [path for path in keys if path.rpartition(".")[2] == name]
    siblings = [table + dot + path for path in dict.fromkeys(path.partition(".")[0] for path in keys)]
    hint = f' Did you mean "{table}{dot}{deeper[0]}"?' if deeper else did_you_mean(key, siblings)
    return hint or f" Expected one of {', '.join(siblings)}."
