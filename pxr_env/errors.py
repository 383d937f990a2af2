"""The two kinds of mistakes, how their messages are written, and how the arguments of a programmer are checked.

A mistake of the model is an `OperationError`: its text goes back to the model and the episode goes on. A mistake of the
programmer or of the data is a `DataError`, `MediaError` or one of Gymnasium's own errors: "got X; expected Y", and what
to do.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import json
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar, cast

import numpy as np

#: At most this many characters of foreign text are quoted in one message.
QUOTE_LIMIT = 80
_ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")

T = TypeVar("T")
Init = TypeVar("Init", bound=Callable[..., None])


class OperationError(Exception):
    """An operation cannot be carried out as asked. The message is written for the model to read."""


class MediaError(ValueError):
    """An image file is missing, unreadable or of a kind that cannot be shown."""


class DataError(ValueError):
    """A data set, a sample or one of its rows is not as described; `bad_rows` are all rows that are not."""

    def __init__(self, message: str, bad_rows: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.bad_rows = tuple(bad_rows)


def quote(text: object, limit: int = QUOTE_LIMIT) -> str:
    """At most `limit` characters of a text on one line, as valid Unicode; of anything else, its `represent`."""
    if not isinstance(text, str):
        return represent(text, limit)
    cut = text[:limit].encode("utf-8", "replace").decode("utf-8")
    return " ".join(cut.split()) + ("…" if len(text) > limit else "")


def show(value: object, limit: int = QUOTE_LIMIT) -> str:
    """At most `limit` characters of a JSON value as a model would write it, however large or deep it is."""
    return quote(_short(value, limit, 3, json.dumps), limit)


def represent(value: object, limit: int = QUOTE_LIMIT) -> str:
    """At most `limit` characters of any value as a programmer would write it, however large or deep it is."""
    return quote(_short(value, limit, 3, repr), limit)


def _short(value: object, limit: int, depth: int, word: Callable[[object], str]) -> str:
    if isinstance(value, str):
        return json.dumps(value[: limit + 1], ensure_ascii=False)
    if isinstance(value, bool) or value is None:
        return word(value)
    if isinstance(value, int) and value.bit_length() >= 1000:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value[: limit + 1]))
    if isinstance(value, list | tuple | dict):
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        if depth == 0:
            return f"{opening}…{closing}"
        first = itertools.islice(value.items() if isinstance(value, dict) else value, 8)
        if isinstance(value, dict):
            parts = [f"{_short(key, limit, 0, word)}: {_short(item, limit, depth - 1, word)}" for key, item in first]
        else:
            parts = [_short(item, limit, depth - 1, word) for item in first]
        return opening + ", ".join(parts + ["…"] * (len(value) > 8)) + closing
    try:
        return _ADDRESS.sub("", repr(value)[: 10 * limit])
    except Exception:
        # A message about a mistake must not fail itself, whatever somebody's repr does.
        return f"<{type(value).__name__}>"


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """' Did you mean "x"?' for the nearest of `names` (at most the first 2,000), or an empty string."""
    if not isinstance(name, str):
        return ""
    near = difflib.get_close_matches(name[:QUOTE_LIMIT], list(itertools.islice(names, 2000)), n=1, cutoff=0.5)
    return f' Did you mean "{near[0]}"?' if near else ""


def checks_arguments(init: Init) -> Init:
    """Decorates an `__init__` whose keyword arguments are checked, see `typed_arguments`."""

    @functools.wraps(init)
    def checked(self: object, *positional: object, **given: object) -> None:
        init(self, *positional, **typed_arguments(hints_of(init), given))

    return cast(Init, checked)


@functools.lru_cache(maxsize=64)
def hints_of(owner: Callable[..., object]) -> Mapping[str, Any]:
    """Argument -> annotation of a function or of a class's `__init__`; nothing where they cannot be read."""
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
    """Arguments as their annotations want them, NumPy's scalars as Python's; those without one are not checked.

    Checked are int, float, bool, None, Path, functions, sequences and mappings, and unions of these and of text; a bool
    is no number here. A plain text is left to whoever takes it, and knows which texts there are.

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
    """An argument that may be any text; ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError(f"got {name}={represent(value)}; expected text.")
    return value


def integer(name: str, value: object, least: int) -> int:
    """An argument that may be any integer of at least `least`, also one of NumPy; ValueError for anything else."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"got {name}={represent(value)}; expected an integer of at least {least}.")
    return number


def choose(table: Mapping[str, T], name: object, what: str, advice: str) -> T:
    """The value of a table under the name that was asked for; ValueError if it has none.

    `what` stands before the name in the message, such as "dialect=", and `advice` at its end.
    """
    if not isinstance(name, str) or name not in table:
        raise ValueError(
            f"got {what}{represent(name)}; expected one of {', '.join(table)}.{did_you_mean(name, table)} {advice}"
        )
    return table[name]


def plain(value: Any, *, paths: bool = False) -> Any:
    """NumPy's scalars as Python's, and with `paths` paths as texts, also within lists, tuples and dicts."""
    inside = functools.partial(plain, paths=paths)
    if type(value) in (list, tuple):
        return type(value)(map(inside, value))
    if type(value) is dict:
        return {inside(key): inside(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if paths and isinstance(value, PurePath) else value


def _fits(value: object, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if hint in (int, float, bool, str):
        wanted = int | float if hint is float else hint
        return isinstance(value, wanted) and (hint is bool or not isinstance(value, bool))
    if hint is None or hint is type(None):
        return value is None
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return isinstance(value, os.PathLike)
    if origin is Callable:
        return callable(value)
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(x, parts[0]) for x in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(key, parts[0]) and _fits(item, parts[1]) for key, item in value.items()
        )
    return True


def _words(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, parts)))
    if origin is Sequence:
        return f"a list, of which each item is {_words(parts[0])}"
    if origin is Mapping:
        return f"a dict, of which each key is {_words(parts[0])} and each value {_words(parts[1])}"
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return "a path"
    words = {int: "an integer", float: "a number", bool: "True or False", str: "text", Callable: "a function"}
    return words.get(origin or hint, "None")
