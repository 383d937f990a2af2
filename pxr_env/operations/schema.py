"""JSON schemas of arguments: the part of the standard that operations may use, and checking calls against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pxr_env.errors import OperationError, did_you_mean, quote, show
from pxr_env.strict_json import strict_json

_KEYWORDS = frozenset(
    (
        "type",
        "properties",
        "required",
        "items",
        "minItems",
        "maxItems",
        "maxLength",
        "minimum",
        "maximum",
        "enum",
        "description",
    )
)
#: How Python writes what JSON writes as true and false; some models write it so.
_PYTHON_WORDS = {"True": True, "False": False}
_TYPES = ("object", "array", "string", "integer", "number", "boolean")

#: The argument that names a shown image.
TARGET_IMAGE: Mapping[str, Any] = {
    "type": "integer",
    "description": "The number of the image; images are numbered from 1 in the order shown.",
    "minimum": 1,
}

#: A box of a shown image, for `Frame.region`.
BOX: Mapping[str, Any] = {
    "type": "array",
    "items": {"type": "number"},
    "minItems": 4,
    "maxItems": 4,
    "description": "The box [x1, y1, x2, y2]: x1, y1 the upper left corner, x2, y2 the lower right one.",
}


def check_schema(schema: Mapping[str, Any], name: str) -> None:
    unknown = sorted(set(schema) - _KEYWORDS)
    if unknown:
        raise ValueError(
            f'the schema of "{name}" uses {", ".join(unknown)}; expected only {", ".join(sorted(_KEYWORDS))}. '
            "Check further conditions in the function and raise OperationError."
        )
    if schema.get("type") not in _TYPES:
        raise ValueError(
            f'the schema of "{name}" has type {schema.get("type")!r}; expected one of {", ".join(_TYPES)}.'
        )
    for part in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])):
        check_schema(part, name)


def read_arguments(value: object, schema: Mapping[str, Any], where: str) -> Any:
    """Returns `value` as `schema` wants it, where it is written otherwise and can only mean one thing.

    An integer may be written as a float (1.0, as JSON Schema counts it), and what is no text as its JSON inside a
    string ("1", "[0.1, 0.2, 0.4, 0.5]").

    Args:
        value: what the model wrote.
        schema: the schema of an operation's arguments, or of a part of them.
        where: names it in the message.

    Raises:
        OperationError: with the first thing that does not fit, readable for the model.
    """
    value = read_value(value, schema)
    if not _is_a(value, schema["type"]):
        raise OperationError(f"{where} is {show(value)}; expected {_describe(schema)}.")
    if "enum" in schema and value not in schema["enum"]:
        options = ", ".join(show(option) for option in schema["enum"])
        raise OperationError(
            f"{where} is {show(value)}; expected one of {options}.{did_you_mean(value, schema['enum'])}"
        )
    if isinstance(value, Mapping):
        return _read_object(value, schema, where)
    if isinstance(value, list):
        low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not low <= len(value) <= high:
            raise OperationError(f"{where} has {len(value)} items; expected {_describe(schema)}.")
        if "items" in schema:
            return [read_arguments(item, schema["items"], f"{where}[{index}]") for index, item in enumerate(value)]
    elif isinstance(value, str):
        if len(value) > schema.get("maxLength", math.inf):
            raise OperationError(f"{where} has {len(value)} characters; expected at most {schema['maxLength']}.")
    elif isinstance(value, int | float):
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        if not low <= value <= high:
            raise OperationError(f"{where} is {show(value)}; expected {_describe(schema)}.")
    return value


def read_value(value: object, schema: Mapping[str, Any]) -> object:
    """Returns a value as the type of `schema`, not looking into lists and objects; itself where it is not of it."""
    kind = schema["type"]
    if isinstance(value, str) and kind != "string":
        try:
            read = strict_json(value)
        except (ValueError, RecursionError):
            read = _PYTHON_WORDS.get(value.strip())
        if _is_a(_whole(read, kind), kind):
            value = read
    return _whole(value, kind)


def _whole(value: object, kind: str) -> object:
    is_whole = kind == "integer" and isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value  # type: ignore[call-overload]


def _read_object(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> dict[str, Any]:
    properties: Mapping[str, Any] = schema.get("properties", {})
    for name in value:
        if name not in properties:
            raise OperationError(
                f'{where} has "{quote(name)}"; expected only {", ".join(properties) or "none"}.'
                f"{did_you_mean(name, properties)}"
            )
    for name in schema.get("required", ()):
        if name not in value:
            raise OperationError(f'{where} lacks "{name}"; expected {_describe(properties[name])}. Add it.')
    return {
        name: read_arguments(item, properties[name], name if where == "arguments" else f"{where}.{name}")
        for name, item in value.items()
    }


def _is_a(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int):
        # An integer too large for a float is no usable number either.
        return kind in ("integer", "number") and value.bit_length() < 1000
    if isinstance(value, float):
        return kind == "number" and math.isfinite(value)
    if isinstance(value, str):
        return kind == "string"
    return kind == ("object" if isinstance(value, Mapping) else "array" if isinstance(value, list) else "")


def _describe(schema: Mapping[str, Any]) -> str:
    """Says in words what a schema wants: "a list of 4 finite numbers", "an integer from 1"."""
    kind = schema["type"]
    if kind == "array":
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        count = f"{low} " if low == high else f"{low} or more " if high is None else f"{low} to {high} "
        items = schema.get("items", {}).get("type")
        return f"a list of {count}" + {"number": "finite numbers", None: "items"}.get(items, f"{items}s")
    if kind in ("integer", "number"):
        words = "an integer" if kind == "integer" else "a finite number"
        words += f" from {schema['minimum']}" if "minimum" in schema else ""
        return words + (f" to {schema['maximum']}" if "maximum" in schema else "")
    return {"object": "an object", "string": "a string", "boolean": "true or false"}[kind]
