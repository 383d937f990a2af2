r"""`tags`: calls as tags, for models that were not trained with tools::

    The sign is small. <zoom_in box="0.1 0.2 0.4 0.5" image="1"/>

with the final answer as `<answer>...</answer>`. Every operation can be called: its name is that of the tag, and its
arguments are the attributes, some under a shorter name (their own is understood too).

Attributes are numbers, text and lists as people would write them, by their JSON schemas:

| schema | attribute |
|---|---|
| a number, true or false, text | `degrees="90"`, `direction="horizontal"` |
| a list of numbers | `box="0.1 0.2 0.4 0.5"`, commas do no harm |
| a list of lists or of texts | `labels="left | right"` |
| everything else | JSON: `labels="[&quot;a | b&quot;]"` |

Values are read as what the schema wants where that is possible, and are text otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax import saxutils

from pxr_env.coordinates import Frame
from pxr_env.dialects.base import (
    Dialect,
    checked_answer,
    checked_call,
    coordinates,
    inexpressible,
    limits,
    rounded,
    same_json,
)
from pxr_env.dialects.reader import TurnReader
from pxr_env.operations import Operation, get_operation, operation_names
from pxr_env.operations.registry import strict_json
from pxr_env.types import Mistake, OperationCall, Turn

_SHORT_NAMES = {
    "bbox_2d": "box",
    "target_image": "image",
    "target_frames": "frames",
    "target_video": "video",
    "first_image": "first",
    "second_image": "second",
}
_RESERVED = ("think", "answer")
_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*+"
_MARKS = re.compile(rf"<think>|<answer>|<(?P<name>{_NAME})(?=[\s/>])", re.ASCII)
_ATTRIBUTE = re.compile(rf"""\s*+(?P<name>{_NAME})\s*+=\s*+(?:"(?P<double>[^"]*+)"|'(?P<single>[^']*+)')""", re.ASCII)
_ATTEMPT = re.compile(rf"\s*+{_NAME}\s*+=", re.ASCII)
_END = re.compile(rf"\s*+(?:/>|>\s*+</(?P<closed>{_NAME})\s*+>)", re.ASCII)

_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_ENTITY = re.compile(r"&(?:(amp|lt|gt|quot|apos)|#([0-9]{1,7}));")
#: Written as entities beside &, < and >: what ends an attribute, separates items, and line breaks, which a reader might
#: fold.
_SPECIAL = {'"': "&quot;", "'": "&apos;", "|": "&#124;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
# More digits than a number may have, and still nothing that Python refuses to read.
_INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
_FLOAT = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,9})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tags(Dialect):
    """Calls as tags with attributes; the coordinate frame is stated in the system prompt."""

    frame: Frame

    @property
    def reminder(self) -> str:
        return '<operation argument="value"/> or <answer>answer</answer>'

    @property
    def stop_strings(self) -> tuple[str, ...]:
        # Not "/>", which prose may hold.
        return ("</answer>",)

    def parse(self, text: str) -> Turn:
        """See `Dialect.parse`. A tag is a call if it is closed, by "/>" or as XML closes an empty element, and has
        attributes, or needs none."""
        return TurnReader(text, marks=_MARKS, read_mark=_read_tag, answer_form="<answer>answer</answer>").read()

    def render_call(self, call: OperationCall) -> str:
        operation = _operation(call.name)
        attributes = []
        for argument, value in call.arguments.items():
            text = write_attribute(value, _schema(operation, argument))
            if text is None:
                raise inexpressible(call, "arguments of the kinds that the operation declares")
            attributes.append(f' {_short(operation, argument)}="{text}"')
        return checked_call(self.parse, f"<{call.name}{''.join(attributes)}/>", call)

    def write_native(self, name: str, arguments: str) -> str:
        """See `Dialect.write_native`. What is no object of JSON stands as text inside the tag, which is a mistake."""
        try:
            return self.render_call(OperationCall(name=name, arguments=dict(strict_json(arguments))))
        except (ValueError, TypeError, RecursionError):
            return f"<{escape(name)}>{escape(arguments)}</{escape(name)}>"

    def call_opening(self, operation: str) -> str:
        found = get_operation(operation)
        required = found.parameters.get("required", ())
        return f"<{operation} " + (f'{_short(found, required[0])}="' if required else "")

    def render_answer(self, answer: str) -> str:
        return checked_answer(self.parse, answer, f"<answer>{answer}</answer>")

    def check_operations(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            for name in (operation.name, *operation.parameters["properties"]):
                if not re.fullmatch(_NAME, name) or name in _RESERVED:
                    raise ValueError(
                        f'got dialect="tags" with the name "{name}" of the operation "{operation.name}"; expected '
                        'Latin letters, digits, "_", "-" and ".", and not "think" or "answer". Rename it.'
                    )

    def tools(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        """See `Dialect.tools`: the canonical schemas. The system prompt describes the same as tags."""
        return [operation.tool() for operation in operations]

    def system_prompt(self, operations: Sequence[Operation], *, max_turns: int, max_operations: int) -> str:
        task = "You answer questions about images. Think first, then write one final answer as <answer>answer</answer>."
        if not operations:
            return task
        described = "\n".join(map(_describe, operations))
        return (
            f"{task}\n\nTo see more, write one of these tags; the resulting images come with the next message. What is "
            f"in brackets may be left out.\n{described}\n{self._example(operations)}"
            f"{coordinates(self.frame, operations)}\n{limits(max_turns, max_operations)}"
        )

    def _example(self, operations: Sequence[Operation]) -> str:
        """A line with a whole call: models without tool training follow an example best."""
        if all(operation.name != "zoom_in" for operation in operations):
            return ""
        width, height = self.frame.extent((100, 100))
        box = [0.1 * width, 0.2 * height, 0.4 * width, 0.5 * height]
        numbers = box if self.frame.decimals else [round(number) for number in box]
        call = OperationCall(name="zoom_in", arguments={"bbox_2d": numbers, "target_image": 1})
        return f"For example {self.render_call(call)}\n"


def _operation(name: str) -> Operation | None:
    return get_operation(name) if name in operation_names() else None


def _properties(operation: Operation | None) -> dict[str, Any]:
    return operation.parameters["properties"] if operation else {}


def _schema(operation: Operation | None, argument: str) -> dict[str, Any]:
    """The schema of an argument; what is not declared is text."""
    return _properties(operation).get(argument, {"type": "string"})


def _short(operation: Operation | None, argument: str) -> str:
    """The name of an argument's attribute."""
    properties = _properties(operation)
    short = _SHORT_NAMES.get(argument, argument)
    return short if argument in properties and short not in properties else argument


def usage(operation: Operation) -> str:
    """Returns how an operation is called, with words for the values; what may be left out is in brackets."""
    required = operation.parameters.get("required", ())
    attributes = [
        (f'{_short(operation, name)}="{placeholder(schema)}"', name in required)
        for name, schema in operation.parameters["properties"].items()
    ]
    return " ".join([f"<{operation.name}", *(text if needed else f"[{text}]" for text, needed in attributes)]) + "/>"


def _describe(operation: Operation) -> str:
    lines = [f"{usage(operation)}: {operation.description}"]
    for name, schema in operation.parameters["properties"].items():
        if description := schema.get("description"):
            lines.append(f"  {_short(operation, name)}: {description}")
    return "\n".join(lines)


def _read_tag(reader: TurnReader, mark: re.Match[str]) -> int:
    """Reads a tag if it is a call. Never goes back, so that reading stays linear."""
    name, text, position = mark["name"], reader.text, mark.end()
    operation = None if name in _RESERVED else _operation(name)
    attributes = []
    while attribute := _ATTRIBUTE.match(text, position):
        value = attribute["single"] if attribute["double"] is None else attribute["double"]
        attributes.append((attribute["name"], value))
        position = attribute.end()
    end = _END.match(text, position)
    if end and end["closed"] in (None, name):
        if name not in _RESERVED and (attributes or operation):
            reader.calls.append(_call(name, operation, attributes))
        return end.end()
    if operation and (attributes or _ATTEMPT.match(text, position)):
        message = f"<{name} ...> is not closed by />, or not written as a tag; expected {usage(operation)}."
        reader.calls.append(Mistake(message=f"{message} Write it again."))
    return position


def _call(name: str, operation: Operation | None, attributes: list[tuple[str, str]]) -> OperationCall | Mistake:
    canonical = {_short(operation, argument): argument for argument in _properties(operation)}
    arguments: dict[str, Any] = {}
    for attribute, raw in attributes:
        argument = canonical.get(attribute, attribute)
        if argument in arguments:
            return Mistake(message=f'the attribute "{attribute[:40]}" came twice; expected each once. Write it again.')
        arguments[argument] = read_attribute(raw, _schema(operation, argument))
    return OperationCall(name=name, arguments=arguments)


def read_attribute(raw: str, schema: Mapping[str, Any]) -> Any:
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
        return [read_attribute(part.strip(), items) for part in raw.split("|")] if raw.strip() else []
    return [_scalar(word, kind) for word in unescape(raw).replace(",", " ").split()]


def _scalar(word: str, kind: str | None) -> Any:
    if kind == "boolean":
        return {"true": True, "false": False}.get(word, word)
    if _INTEGER.fullmatch(word):
        return int(word)
    return float(word) if _FLOAT.fullmatch(word) else word


def write_attribute(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Writes a value so that `read_attribute` reads it, floats rounded; None if there is no way to."""
    value = rounded(value)
    for text in (_plain(value), _json(value)):
        if text is not None and same_json(read_attribute(text, schema), value, exact=True):
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
    return saxutils.escape(text, _SPECIAL)


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
