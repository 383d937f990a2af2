r"""`tags`: calls as tags, for models that were not trained with tools::

    The sign is small. <zoom_in box="0.1 0.2 0.4 0.5" image="1"/>

with the final answer as `<answer>...</answer>`. Every operation can be called: its name is that of the tag, and its
arguments are the attributes, some under a shorter name (their own is understood too).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pxr_env.coordinates import Frame
from pxr_env.dialects.attributes import placeholder, read_value, write_value
from pxr_env.dialects.base import Dialect
from pxr_env.dialects.reader import TurnReader
from pxr_env.dialects.wording import coordinates, limits
from pxr_env.dialects.writer import checked_answer, checked_call, inexpressible
from pxr_env.operations import Operation, get_operation, operation_names
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Tags(Dialect):
    """Calls as tags with attributes.

    Args:
        frame: the coordinate frame, stated in the system prompt.
    """

    frame: Frame

    @property
    def reminder(self) -> str:
        """See `Dialect.reminder`."""
        return '<operation argument="value"/> or <answer>answer</answer>'

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """See `Dialect.stop_strings`. Not "/>", which prose may hold."""
        return ("</answer>",)

    def parse(self, text: str) -> Turn:
        """See `Dialect.parse`. A tag is a call if it is closed, by "/>" or as XML closes an empty element, and has
        attributes, or needs none."""
        return TurnReader(text, marks=_MARKS, read_mark=_read_tag, answer_form="<answer>answer</answer>").read()

    def render_call(self, call: OperationCall) -> str:
        """See `Dialect.render_call`."""
        operation = _operation(call.name)
        attributes = []
        for argument, value in call.arguments.items():
            text = write_value(value, _schema(operation, argument))
            if text is None:
                raise inexpressible(call, "arguments of the kinds that the operation declares")
            attributes.append(f' {_short(operation, argument)}="{text}"')
        return checked_call(self, f"<{call.name}{''.join(attributes)}/>", call)

    def call_opening(self, operation: str) -> str:
        """See `Dialect.call_opening`."""
        found = get_operation(operation)
        required = found.parameters.get("required", ())
        return f"<{operation} " + (f'{_short(found, required[0])}="' if required else "")

    def render_answer(self, answer: str) -> str:
        """See `Dialect.render_answer`."""
        return checked_answer(self, answer, (f"<answer>{answer}</answer>",))

    def check_operations(self, operations: Sequence[Operation]) -> None:
        """See `Dialect.check_operations`."""
        for operation in operations:
            for name in (operation.name, *operation.parameters["properties"]):
                if not re.fullmatch(_NAME, name) or name in _RESERVED:
                    raise ValueError(
                        f'dialect="tags" with the name "{name}" of the operation "{operation.name}" came; expected '
                        'Latin letters, digits, "_", "-" and ".", and not "think" or "answer". Rename it.'
                    )

    def tools(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        """See `Dialect.tools`: the canonical schemas. The system prompt describes the same as tags."""
        return [operation.tool() for operation in operations]

    def system_prompt(self, operations: Sequence[Operation], *, max_turns: int, max_operations: int) -> str:
        """See `Dialect.system_prompt`."""
        parts = [
            "You answer questions about images. Think first, then write one final answer as <answer>answer</answer>."
        ]
        if operations:
            described = "\n".join(_describe(operation) for operation in operations)
            parts.append(
                "To see more, write one of these tags; the resulting images come with the next message. What is in "
                "brackets may be left out.\n"
                f"{described}\n{self._example(operations)}"
                f"{coordinates(self.frame, operations)}\n"
                f"{limits(max_turns=max_turns, max_operations=max_operations)}"
            )
        return "\n\n".join(parts)

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


def _schema(operation: Operation | None, argument: str) -> dict[str, Any]:
    """The schema of an argument; what is not declared is text."""
    properties = operation.parameters["properties"] if operation else {}
    return properties.get(argument, {"type": "string"})


def _short(operation: Operation | None, argument: str) -> str:
    """The name of an argument's attribute."""
    properties = operation.parameters["properties"] if operation else {}
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
    properties = operation.parameters["properties"] if operation else {}
    canonical = {_short(operation, argument): argument for argument in properties}
    arguments: dict[str, Any] = {}
    for attribute, raw in attributes:
        argument = canonical.get(attribute, attribute)
        if argument in arguments:
            return Mistake(message=f'the attribute "{attribute[:40]}" came twice; expected each once. Write it again.')
        arguments[argument] = read_value(raw, _schema(operation, argument))
    return OperationCall(name=name, arguments=arguments)


def tags(frame: Frame) -> Dialect:
    """Builds "tags"."""
    return Tags(frame=frame)
