"""Arguments as attributes of a tag: numbers, text and lists as people would write them, by their JSON schemas.

| schema | attribute |
|---|---|
| a number, true or false, text | `degrees="90"`, `direction="horizontal"` |
| a list of numbers | `box="0.1 0.2 0.4 0.5"`, commas do no harm |
| a list of lists or of texts | `labels="left | right"` |
| everything else | JSON: `labels="[&quot;a | b&quot;]"` |

Values are read as what the schema wants where that is possible, and are text otherwise: whether they are right is for
the operation to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pxr_env.dialects.writer import identical, rounded
from pxr_env.strict_json import strict_json

_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_ENTITY = re.compile(r"&(?:(amp|lt|gt|quot|apos)|#([0-9]{1,7}));")
#: What is written as an entity: what ends an attribute, begins a tag or an entity, separates items, and line breaks,
#: which a reader might fold.
_SPECIAL = re.compile("[&<>\"'|\r\n\t]")
# More digits than a number may have, and still nothing that Python refuses to read.
_INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
_FLOAT = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,9})?")


def read_value(raw: str, schema: Mapping[str, Any]) -> Any:
    """Reads the inside of an attribute's quotes. Never raises."""
    kind = schema["type"]
    if kind == "string":
        return unescape(raw)
    if kind in ("array", "object"):
        text = unescape(raw).strip()
        if text.startswith(("[", "{")):
            try:
                return strict_json(text)
            except (ValueError, RecursionError):
                pass
        return _read_list(raw, schema.get("items", {})) if kind == "array" else unescape(raw)
    return _scalar(unescape(raw).strip(), kind)


def _read_list(raw: str, items: Mapping[str, Any]) -> list[Any]:
    kind = items.get("type")
    if kind in ("array", "string"):
        return [read_value(part.strip(), items) for part in raw.split("|")] if raw.strip() else []
    return [_scalar(word, kind) for word in unescape(raw).replace(",", " ").split()]


def _scalar(word: str, kind: str | None) -> Any:
    if kind == "boolean":
        return {"true": True, "false": False}.get(word, word)
    if _INTEGER.fullmatch(word):
        return int(word)
    return float(word) if _FLOAT.fullmatch(word) else word


def write_value(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Writes a value so that `read_value` reads it, floats rounded; None if there is no way to."""
    value = rounded(value)
    for text in (_plain(value), _json(value)):
        if text is not None and identical(read_value(text, schema), value):
            return text
    return None


def _plain(value: Any) -> str | None:
    if isinstance(value, list):
        parts = [_plain(item) for item in value]
        separator = " | " if any(isinstance(item, list | str) for item in value) else " "
        return None if None in parts else separator.join(part for part in parts if part is not None)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 1300:
        return None
    return escape(value if isinstance(value, str) else repr(value))


def _json(value: Any) -> str | None:
    try:
        return escape(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError):
        return None


def placeholder(schema: Mapping[str, Any]) -> str:
    """Returns what an attribute holds, in words: "number number number number", "horizontal or vertical"."""
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kind = schema["type"]
    if kind != "array":
        return {"string": "text", "boolean": "true or false", "object": "JSON"}.get(kind, kind)
    items = schema.get("items")
    if items is None:
        return "JSON"
    item = placeholder(items)
    if items["type"] in ("array", "string"):
        return f"{item} | {item} ..."
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    return " ".join([item] * least) if 0 < least == most else f"{item} {item} ..."


def escape(text: str) -> str:
    """Writes text for the inside of an attribute's quotes."""
    return _SPECIAL.sub(_entity, text)


def _entity(special: re.Match[str]) -> str:
    character = special.group()
    name = next((name for name, meaning in _NAMED.items() if meaning == character), f"#{ord(character)}")
    return f"&{name};"


def unescape(raw: str) -> str:
    """Reads what `escape` wrote; an "&" that begins no entity stays."""
    return _ENTITY.sub(_character, raw)


def _character(entity: re.Match[str]) -> str:
    name, number = entity.groups()
    if name:
        return _NAMED[name]
    code = int(number)
    # Surrogates are no characters.
    return entity.group() if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF else chr(code)
