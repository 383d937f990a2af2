"""JSON as the standard has it: no NaN, no infinity, no key twice."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from pxr_env.errors import quote


def strict_json(text: str) -> Any:
    """Reads JSON.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    return _DECODER.decode(text)


def strict_json_at(text: str, start: int) -> tuple[Any, int]:
    """Reads the JSON value that begins at `start`, and returns it with where it ends.

    Raises:
        ValueError: there is none.
        RecursionError: it is nested too deeply.
    """
    return _DECODER.raw_decode(text, start)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name in value if counts[name] > 1)
        raise ValueError(f'the key "{quote(twice, 40)}" came twice')
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
