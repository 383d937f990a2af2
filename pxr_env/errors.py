"""The two kinds of mistakes, and how their messages are written.

A mistake of the model is an `OperationError`: its text goes back to the model and the episode goes on.
A mistake of the programmer or of the data is a `DataError`, `MediaError` or one of Gymnasium's own errors:
"got X; expected Y", and what to do.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence

#: At most this many characters of foreign text are quoted in one message.
QUOTE_LIMIT = 80
_ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")


class OperationError(Exception):
    """An operation cannot be carried out as asked. The message is written for the model to read."""


class MediaError(ValueError):
    """An image file is missing, unreadable or of a kind that cannot be shown."""


class DataError(ValueError):
    """A data set, a sample or one of its rows is not as described.

    Args:
        message: what was found, what was expected, what to do.
        bad_rows: all rows that are not as described, where the data set has rows.
    """

    def __init__(self, message: str, bad_rows: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.bad_rows = tuple(bad_rows)


def quote(text: object, limit: int = QUOTE_LIMIT) -> str:
    """Returns at most `limit` characters of a text on one line, as valid Unicode; of anything else, its `represent`."""
    if not isinstance(text, str):
        return represent(text, limit)
    cut = text[:limit].encode("utf-8", "replace").decode("utf-8")
    return " ".join(cut.split()) + ("…" if len(text) > limit else "")


def show(value: object, limit: int = QUOTE_LIMIT) -> str:
    """Returns at most `limit` characters of a JSON value as a model would write it, however large or deep it is."""
    return quote(_short_repr(value, limit, depth=3, word=json.dumps), limit)


def represent(value: object, limit: int = QUOTE_LIMIT) -> str:
    """Returns at most `limit` characters of any value as a programmer would write it, however large or deep it is."""
    return quote(_short_repr(value, limit, depth=3, word=repr), limit)


def _short_repr(value: object, limit: int, depth: int, word: Callable[[object], str]) -> str:
    if isinstance(value, str):
        return json.dumps(value[: limit + 1], ensure_ascii=False)
    if isinstance(value, bool) or value is None:
        return word(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() < 1000 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list | tuple):
        if depth == 0:
            return "[…]"
        parts = [_short_repr(item, limit, depth - 1, word) for item in itertools.islice(value, 8)]
        return "[" + ", ".join(parts) + (", …]" if len(value) > 8 else "]")
    if isinstance(value, dict):
        if depth == 0:
            return "{…}"
        pairs = itertools.islice(value.items(), 8)
        parts = [
            f"{_short_repr(key, limit, 0, word)}: {_short_repr(item, limit, depth - 1, word)}" for key, item in pairs
        ]
        return "{" + ", ".join(parts) + (", …}" if len(value) > 8 else "}")
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value[: limit + 1]))
    try:
        return _ADDRESS.sub("", repr(value)[: 10 * limit])
    except Exception:
        # A message about a mistake must not fail itself, whatever somebody's repr does.
        return f"<{type(value).__name__}>"


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """Returns ' Did you mean "x"?' for the nearest of `names` (at most the first 2,000), or an empty string."""
    if not isinstance(name, str):
        return ""
    near = difflib.get_close_matches(name[:QUOTE_LIMIT], list(itertools.islice(names, 2000)), n=1, cutoff=0.5)
    return f' Did you mean "{near[0]}"?' if near else ""
