"""How calls are written: as JSON, or as the tags of Qwen3.5 and GLM."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pxr_env.dialects.writer import write_json

#: Name and JSON type of an argument.
Argument = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class CallSyntax:
    """How one family of models writes a call.

    Args:
        form: a call with words in place of its name and arguments, for the prompt.
        reminder: the same on one line, for messages.
        write: writes a call of a name with arguments. Raises ValueError where the arguments are no JSON.
        open: writes the beginning of a call up to the value of an argument, or of one without arguments.
    """

    form: str
    reminder: str
    write: Callable[[str, Mapping[str, Any]], str]
    open: Callable[[str, Argument | None], str]


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Returns a <tool_call> of JSON.

    Raises:
        ValueError: the arguments are no JSON.
    """
    return f"<tool_call>\n{write_json({'name': name, 'arguments': arguments})}\n</tool_call>"


def open_call(name: str, argument: Argument | None) -> str:
    """Returns the beginning of a <tool_call> of JSON, up to the value of an argument."""
    opening = f'<tool_call>\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {{'
    return opening + (f'"{argument[0]}": ' + _OPENINGS.get(argument[1], "") if argument else "")


def _write_function(name: str, arguments: Mapping[str, Any]) -> str:
    parameters = "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in _texts(arguments))
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


def _open_function(name: str, argument: Argument | None) -> str:
    opening = f"<tool_call>\n<function={name}>\n"
    return opening + (f"<parameter={argument[0]}>\n" + _RAW_OPENINGS.get(argument[1], "") if argument else "")


def _write_pairs(name: str, arguments: Mapping[str, Any]) -> str:
    pairs = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{text}</arg_value>\n" for key, text in _texts(arguments))
    return f"<tool_call>{name}\n{pairs}</tool_call>"


def _open_pairs(name: str, argument: Argument | None) -> str:
    opening = f"<tool_call>{name}\n"
    if argument is None:
        return opening
    return f"{opening}<arg_key>{argument[0]}</arg_key>\n<arg_value>" + _RAW_OPENINGS.get(argument[1], "")


def _texts(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Argument and text: a string as it is, everything else as JSON."""
    return [
        (key, value if isinstance(value, str) else write_json({"": value})[len('{"": ') : -1])
        for key, value in arguments.items()
    ]


_RAW_OPENINGS = {"array": "[", "object": "{"}
_OPENINGS = {**_RAW_OPENINGS, "string": '"'}

#: What Qwen2.5-VL and Qwen3-VL write, and most others.
JSON_CALLS = CallSyntax(
    form='<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>',
    reminder='<tool_call>{"name": ..., "arguments": {...}}</tool_call>',
    write=write_call,
    open=open_call,
)
#: What Qwen3.5 writes, from its chat template.
FUNCTION_CALLS = CallSyntax(
    form="<tool_call>\n<function=NAME>\n<parameter=ARGUMENT>\nVALUE\n</parameter>\n</function>\n</tool_call>",
    reminder="<tool_call><function=NAME><parameter=ARGUMENT>VALUE</parameter></function></tool_call>",
    write=_write_function,
    open=_open_function,
)
#: What GLM-4.5V writes, from its chat template.
PAIR_CALLS = CallSyntax(
    form="<tool_call>NAME\n<arg_key>ARGUMENT</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>",
    reminder="<tool_call>NAME<arg_key>ARGUMENT</arg_key><arg_value>VALUE</arg_value></tool_call>",
    write=_write_pairs,
    open=_open_pairs,
)
