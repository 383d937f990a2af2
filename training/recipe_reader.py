"""Reads recipes: dataclasses filled from TOML files and `key=value` overrides.

What is not known is refused, with the file, the dotted key and the nearest valid one, so that a typo never trains the
wrong thing:

    recipe = load_recipe("my.toml", PPORecipe, ["lr=3e-6", "env.kwargs.max_turns=4"])
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pxr_env.errors import did_you_mean, show

Recipe = TypeVar("Recipe")

RECIPES = Path(__file__).parent / "recipes"
"""The recipes that come with the package, by name."""


class RecipeError(ValueError):
    """A recipe cannot be read: where the mistake is, what came, what was expected."""


def load_recipe(source: str | Path | None, recipe_class: type[Recipe], overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        source: path of a .toml file (or of a .json file with what `to_dict` returned), the name of a recipe that
            comes with the package, or None for the defaults alone.
        recipe_class: the dataclass to fill. What a file leaves out keeps its default; a table changes the keys it
            names in the default of its field and leaves the others.
        overrides: "key=value" with dotted keys, as they come from the command line. Values are TOML, and what is
            not TOML is a string, so that paths need no quotes.

    Raises:
        RecipeError: the file is missing or cannot be parsed, a key is unknown or missing, a value has the wrong type
            or is out of range.
    """
    table = {} if source is None else _read_file(source)
    overridden = [_apply_override(table, override) for override in overrides]
    reader = _Reader(file="recipe" if source is None else str(source), overridden=overridden)
    recipe: Recipe = reader.build(recipe_class, table, key="", default=None)
    return recipe


def to_dict(recipe: Any) -> dict[str, Any]:
    """Returns a recipe as JSON values (a path is a string, a tuple a list)."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe), default=str))
    return values


def recipe_keys(recipe_class: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields every dotted key of a recipe and what the "Attributes:" of its class say of it, for a help text."""
    hints = typing.get_type_hints(recipe_class)
    texts = _attribute_texts(recipe_class)
    for field in dataclasses.fields(recipe_class):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from recipe_keys(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, texts.get(field.name, "")


def _attribute_texts(recipe_class: type) -> dict[str, str]:
    _, _, section = inspect.cleandoc(recipe_class.__doc__ or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    # One entry per line of the form "    name, name: text"; lines that are indented deeper go on with it.
    for entry in re.split(r"\n(?= {4}\S)", "\n" + section):
        names, colon, text = entry.partition(":")
        if colon:
            texts.update({name.strip(): " ".join(text.split()) for name in names.split(",")})
    return texts


def _read_file(source: str | Path) -> dict[str, Any]:
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
        raise RecipeError(f"{path}: holds {_describe(table)}; expected the keys of a recipe")
    return table


def _apply_override(table: dict[str, Any], override: str) -> str:
    """Sets one "key=value" in the nested table and returns the key."""
    key, equals, text = override.partition("=")
    key = key.strip()
    *parents, name = key.split(".")
    if not equals or not name:
        raise RecipeError(f"command line: {override!r} came; expected key=value, such as lr=1e-5")
    for depth, parent in enumerate(parents):
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            where = ".".join(parents[: depth + 1])
            raise RecipeError(f"command line: {key}: {where} is {_describe(table)}; expected a table to set a key in")
    value = _parse_value(key, text.strip())
    old = table.get(name)
    table[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return key


def _parse_value(key: str, text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if text[:1] in ("'", '"', "[", "{"):
            raise RecipeError(f"command line: {key}: {show(text)} is no TOML value: {error}") from error
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Reader:
    """Turns tables into dataclasses; knows where a key came from."""

    file: str
    overridden: Sequence[str]

    def error(self, key: str, message: str) -> RecipeError:
        origin = self.file
        if any(key == given or key.startswith((f"{given}.", f"{given}[")) for given in self.overridden):
            origin = "command line"
        elif any(given.startswith(f"{key}.") for given in self.overridden):
            origin = f"{self.file} and command line"
        return RecipeError(f"{origin}: {key}: {message}")

    def build(self, cls: type, table: Mapping[str, Any], *, key: str, default: Any) -> Any:
        """Returns a `cls` with the values of `table`, and for the rest those of `default` (an instance) or its own."""
        prefix = f"{key}." if key else ""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in table:
            if name not in fields:
                raise self.error(prefix + name, self._unknown(name, cls, prefix))
        values: dict[str, Any] = {}
        hints = typing.get_type_hints(cls)
        for name, field in fields.items():
            own = _default(field) if default is None else getattr(default, name)
            if name in table:
                values[name] = self.convert(table[name], hints[name], key=prefix + name, default=own)
            elif own is dataclasses.MISSING:
                raise self.error(prefix + name, f"is missing; expected {_expected(hints[name])}")
            else:
                values[name] = own
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            # A check of the dataclass itself; if it begins with the name of a field, that is the key.
            message = str(error)
            name = re.split(r"\W", message, maxsplit=1)[0]
            if name in fields:
                raise self.error(prefix + name, message.removeprefix(f"{name} ")) from error
            raise self.error(key or cls.__name__, message) from error

    def _unknown(self, name: str, cls: type, prefix: str) -> str:
        siblings = [prefix + field.name for field in dataclasses.fields(cls)]
        # The right name in the wrong table is closer than a similar one in the right table.
        deeper = [prefix + path for path, _ in recipe_keys(cls) if path.rpartition(".")[2] == name]
        hint = f' Did you mean "{deeper[0]}"?' if deeper else did_you_mean(prefix + name, siblings)
        return f"there is no such key.{hint or ' Expected one of ' + ', '.join(siblings) + '.'}"

    def convert(self, value: Any, hint: Any, *, key: str, default: Any) -> Any:
        """Returns `value` as the type `hint`, or raises RecipeError."""
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
            return self.build(hint, value, key=key, default=None if default is dataclasses.MISSING else default)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (types.UnionType, typing.Union):
            for argument in arguments:
                try:
                    return self.convert(value, argument, key=key, default=default)
                except RecipeError:
                    continue
        elif origin is Literal and value in arguments:
            return value
        elif origin is tuple and isinstance(value, list):
            kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
            if len(kinds) == len(value):
                return tuple(
                    self.convert(item, kind, key=f"{key}[{index}]", default=dataclasses.MISSING)
                    for index, (item, kind) in enumerate(zip(value, kinds, strict=True))
                )
        elif origin is dict and isinstance(value, dict):
            kept = default if isinstance(default, dict) else {}
            return kept | {
                name: self.convert(item, arguments[1], key=f"{key}.{name}", default=dataclasses.MISSING)
                for name, item in value.items()
            }
        elif hint is Any or (isinstance(hint, type) and type(value) is hint):
            return value
        elif hint is float and type(value) is int:
            return float(value)
        elif hint is Path and isinstance(value, str):
            return Path(value)
        elif hint is types.NoneType and value is None:
            return None
        choices = [choice for choice in arguments if isinstance(choice, str)] if origin is Literal else []
        raise self.error(key, f"{_describe(value)} came; expected {_expected(hint)}{did_you_mean(value, choices)}")


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


NAMES = {bool: "true or false", int: "an integer", float: "a number", str: 'a string, in "quotes"', Path: "a path"}


def _expected(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(json.dumps(choice) for choice in arguments)}."
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_expected(argument) for argument in arguments if argument is not types.NoneType)
    if origin is tuple:
        length = "" if arguments[1:] == (...,) else f"{len(arguments)} values, each "
        return f"a list of {length}{_expected(arguments[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a table"
    return NAMES.get(hint, str(hint))


def _describe(value: Any) -> str:
    kinds = {bool: "the boolean", int: "the integer", float: "the number", str: "the string", list: "the list"}
    if isinstance(value, dict):
        return f"the table {show(value)}"
    # TOML has dates and times, too.
    return f"{kinds[type(value)]} {show(value)}" if type(value) in kinds else f"the {type(value).__name__} {value}"
