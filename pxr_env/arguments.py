"""The arguments of a programmer: checked against the annotations of whoever takes them, in plain words."""

from __future__ import annotations

import dataclasses
import functools
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar, cast

import numpy as np

from pxr_env.errors import did_you_mean, represent

T = TypeVar("T")
Init = TypeVar("Init", bound=Callable[..., None])


def checks_arguments(init: Init) -> Init:
    """Decorates an `__init__` whose keyword arguments are checked, see `typed_arguments`."""

    @functools.wraps(init)
    def checked(self: object, *positional: object, **given: object) -> None:
        init(self, *positional, **typed_arguments(hints_of(init), given))

    return cast(Init, checked)


@functools.lru_cache(maxsize=64)
def hints_of(owner: Callable[..., object]) -> Mapping[str, Any]:
    """Returns argument -> annotation of a function or of a class's `__init__`; nothing where they cannot be read."""
    try:
        if isinstance(owner, type) and dataclasses.is_dataclass(owner):
            # Each annotation as the module of its own class reads it.
            hints = typing.get_type_hints(owner)
            return {field.name: hints[field.name] for field in dataclasses.fields(owner)}
        return typing.get_type_hints(owner.__init__ if isinstance(owner, type) else owner)  # type: ignore[misc]
    except (NameError, TypeError):
        # Names that exist for type checkers only, or no function of Python.
        return {}


def typed_arguments(hints: Mapping[str, Any], given: Mapping[str, object]) -> dict[str, Any]:
    """Returns arguments as their annotations want them: NumPy's scalars as Python's.

    Checked are int, float, bool, None, Path, functions, sequences and mappings, and unions of these and of text; a bool
    is no number here. A plain text is left to whoever takes it, and knows which texts there are.

    Args:
        hints: argument -> annotation; arguments without one are not checked.
        given: argument -> value.

    Raises:
        ValueError: a value is of another type. The message names the argument, its value and what was expected.
    """
    typed = {name: plain(value) for name, value in given.items()}
    for name, value in typed.items():
        hint = hints.get(name, Any)
        if hint is not str and not _fits(value, hint):
            advice = f" Write [{represent(value)}]." if isinstance(value, str) and _fits([value], hint) else ""
            raise ValueError(f"got {name}={represent(given[name])}; expected {_words(hint)}.{advice}")
    return typed


def text(name: str, value: object) -> str:
    """Returns an argument that may be any text.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError(f"got {name}={represent(value)}; expected text.")
    return value


def choose(table: Mapping[str, T], name: object, what: str, advice: str) -> T:
    """Returns the value of a table under the name that was asked for.

    Args:
        table: the choices.
        name: the name.
        what: what stands before the name in the message, such as "dialect=".
        advice: the last sentence of the message.

    Raises:
        ValueError: it has no such name.
    """
    if not isinstance(name, str) or name not in table:
        raise ValueError(
            f"got {what}{represent(name)}; expected one of {', '.join(table)}.{did_you_mean(name, table)} {advice}"
        )
    return table[name]


def plain(value: object) -> Any:
    """Returns NumPy's scalars as Python's, also within lists, tuples and dicts; anything else as it is."""
    return _with_leaves(value, lambda leaf: leaf.item() if isinstance(leaf, np.generic) else leaf)


def as_json(value: object) -> Any:
    """Returns `plain(value)` with paths as texts, also within lists, tuples and dicts."""
    return _with_leaves(plain(value), lambda leaf: str(leaf) if isinstance(leaf, PurePath) else leaf)


def _with_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    if type(value) is list:
        return [_with_leaves(item, change) for item in value]
    if type(value) is tuple:
        return tuple(_with_leaves(item, change) for item in value)
    if type(value) is dict:
        return {change(key): _with_leaves(item, change) for key, item in value.items()}
    return change(value)


def _fits(value: object, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if hint is None or hint is type(None):
        return value is None
    if isinstance(value, bool) and hint in (int, float):
        return False
    if hint is float:
        return isinstance(value, int | float)
    if hint in (int, bool, str):
        return isinstance(value, hint)
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return isinstance(value, os.PathLike)
    if origin is Callable:
        return callable(value)
    parts = typing.get_args(hint)
    if origin is Sequence:
        return (
            isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(item, parts[0]) for item in value)
        )
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(key, parts[0]) and _fits(item, parts[1]) for key, item in value.items()
        )
    return True


def _words(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, typing.get_args(hint))))
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is Sequence:
        return f"a list, of which each item is {_words(parts[0])}"
    if typing.get_origin(hint) is Mapping:
        return f"a dict, of which each key is {_words(parts[0])} and each value {_words(parts[1])}"
    if typing.get_origin(hint) is Callable:
        return "a function"
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return "a path"
    return {int: "an integer", float: "a number", bool: "True or False", str: "text"}.get(hint, "None")
