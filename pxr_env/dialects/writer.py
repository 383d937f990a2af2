"""Writing calls, answers and tool schemas: as JSON, and never so that they would be read as something else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from pxr_env.dialects.base import Dialect
from pxr_env.errors import quote, show
from pxr_env.operations import BOX, Operation, get_operation
from pxr_env.types import OperationCall, Turn

#: Floats in rendered calls have at most this many decimals.
CALL_DECIMALS = 4
_OPENING_TAG = re.compile("<(?=tool_call>|grounding>)")


def rounded(value: Any) -> Any:
    """Returns a JSON value with its floats rounded to `CALL_DECIMALS` and its tuples as lists."""
    if isinstance(value, float):
        # Also the float of numpy, which is a subclass.
        return round(float(value), CALL_DECIMALS)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def checked_call(dialect: Dialect, text: str, call: OperationCall) -> str:
    """Returns `text`, what a dialect wrote for a call, if the dialect reads exactly this call in it.

    Raises:
        ValueError: it does not.
    """
    turn = dialect.parse(text)
    if len(turn.calls) == 1 and not turn.answers and not turn.mistakes:
        (read,) = turn.calls
        arguments = rounded(call.arguments)
        if isinstance(read, OperationCall) and read.name == call.name and identical(read.arguments, arguments):
            return text
    raise inexpressible(call, "arguments that can be written so that they are read again")


def identical(first: object, second: object) -> bool:
    """Whether two JSON values are the same, where 1, 1.0 and true are not."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(identical(value, second[key]) for key, value in first.items())
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(identical, first, second))
    return type(first) is type(second) and first == second


def checked_answer(dialect: Dialect, answer: str, forms: Sequence[str]) -> str:
    """Returns the first of the texts `forms` in which a dialect reads exactly this answer.

    Raises:
        ValueError: there is none.
    """
    for text in forms:
        if dialect.parse(text) == Turn(answers=(answer,)):
            return text
    raise ValueError(
        f'the answer "{quote(answer)}" came; expected text without surrounding blanks, closing tags and unbalanced '
        "braces. Such an answer cannot be written in this dialect."
    )


def inexpressible(call: OperationCall, expected: str) -> ValueError:
    """Returns the exception for a call that a dialect cannot express."""
    return ValueError(
        f'the call of "{quote(call.name)}" with {show(dict(call.arguments))} came; expected {expected}. '
        "Such a call cannot be written in this dialect."
    )


def write_json(value: Mapping[str, Any]) -> str:
    """Returns a part of a call as JSON without closing tags, floats rounded.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        text = json.dumps(rounded(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{show(dict(value))} came; expected text, finite numbers, true, false, null, and lists and dicts of them. "
            "Such a call cannot be written in this dialect."
        ) from error
    # To JSON these are the same, and to nobody they are tags.
    return _OPENING_TAG.sub(r"\\u003c", text.replace("</", "<\\/"))


def zoom_tool(name: str, operation: Operation, extra: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    """Returns the tool schema of `zoom_in` under another name, with a box and `extra` instead of its arguments."""
    properties = deepcopy({"bbox_2d": dict(BOX), **extra})
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    function = {"name": name, "description": operation.description, "parameters": parameters}
    return {"type": "function", "function": function}


def tool_list(tools: Sequence[Mapping[str, Any]]) -> str:
    """Returns tool schemas as a prompt lists them, one a line inside <tools>."""
    return "\n".join(["<tools>", *(json.dumps(tool, ensure_ascii=False) for tool in tools), "</tools>"])


def first_argument(operation: str) -> tuple[str, str] | None:
    """Returns name and JSON type of the first required argument of an operation, None if it needs none.

    Raises:
        ValueError: there is no such operation.
    """
    schema = get_operation(operation).parameters
    required = schema.get("required", ())
    return (required[0], schema["properties"][required[0]]["type"]) if required else None
