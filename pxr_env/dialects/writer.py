"""Writing calls, answers and tool schemas, and never so that they would be read as something else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

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


def same_json(first: object, second: object, *, exact: bool = False) -> bool:
    """Whether two JSON values say the same. 1 is 1.0 unless it has to be `exact`; true is never 1."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(
            same_json(value, second[key], exact=exact) for key, value in first.items()
        )
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(
            same_json(one, other, exact=exact) for one, other in zip(first, second, strict=True)
        )
    kinds_fit = type(first) is type(second) if exact else isinstance(first, bool) == isinstance(second, bool)
    return kinds_fit and first == second


def same_call(first: OperationCall, second: OperationCall) -> bool:
    """Whether two calls ask for the same: 1 is 1.0, and the order of keys does not matter."""
    return first.name == second.name and same_json(first.arguments, second.arguments)


def checked_call(
    parse: Callable[[str], Turn],
    text: str,
    call: OperationCall,
    expected: str = "arguments that can be written so that they are read again",
) -> str:
    """Returns `text`, written for a call; raises ValueError if the dialect does not read exactly this call in it."""
    turn = parse(text)
    match turn.calls:
        case (OperationCall(name=call.name) as read,) if not turn.answers and not turn.mistakes:
            if same_json(read.arguments, rounded(call.arguments), exact=True):
                return text
    raise inexpressible(call, expected)


def checked_answer(parse: Callable[[str], Turn], answer: str, *forms: str) -> str:
    """Returns the first of the texts in which a dialect reads exactly this answer; raises ValueError if none is."""
    for text in forms:
        if parse(text) == Turn(answers=(answer,)):
            return text
    raise ValueError(
        f'got the answer "{quote(answer)}"; expected text without surrounding blanks, closing tags and unbalanced '
        "braces. Such an answer cannot be written in this dialect."
    )


def inexpressible(call: OperationCall, expected: str) -> ValueError:
    return ValueError(
        f'got the call of "{quote(call.name)}" with {show(dict(call.arguments))}; expected {expected}. '
        "Such a call cannot be written in this dialect."
    )


def write_json(value: Mapping[str, Any]) -> str:
    """Returns a part of a call as JSON without closing tags, floats rounded; raises ValueError if it is no JSON."""
    try:
        text = json.dumps(rounded(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"got {show(dict(value))}; expected text, finite numbers, true, false, null, and lists and dicts of them. "
            "Such a call cannot be written in this dialect."
        ) from error
    # To JSON these are the same, and to nobody they are tags.
    return _OPENING_TAG.sub(r"\\u003c", text.replace("</", "<\\/"))


def zoom_tool(name: str, operation: Operation, extra: Mapping[str, Any], *required: str) -> dict[str, Any]:
    """Returns the tool schema of `zoom_in` under another name, with a box and `extra` instead of its arguments."""
    properties = deepcopy({"bbox_2d": dict(BOX), **extra})
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    function = {"name": name, "description": operation.description, "parameters": parameters}
    return {"type": "function", "function": function}


def tool_list(tools: Sequence[Mapping[str, Any]]) -> str:
    """Returns tool schemas as a prompt lists them, one a line inside <tools>."""
    return "\n".join(["<tools>", *(json.dumps(tool, ensure_ascii=False) for tool in tools), "</tools>"])


@dataclass(frozen=True, kw_only=True, slots=True)
class CallSyntax:
    """How one family of models writes a call.

    Args:
        form: a call with words in place of its name and arguments, for the prompt.
        reminder: the same on one line, for messages.
        write: writes a call of a name with arguments. Raises ValueError where the arguments are no JSON.
        end: what closes a call after its last argument.
        openings: JSON type -> how a value of it begins.
    """

    form: str
    reminder: str
    write: Callable[[str, Mapping[str, Any]], str]
    end: str
    openings: Mapping[str, str]

    def opening(self, operation: str, name: str) -> str:
        """Returns how a call of an operation under that name begins, up to the value of its first required argument.

        Raises:
            ValueError: there is no such operation.
        """
        schema = get_operation(operation).parameters
        required = schema.get("required", ())
        if not required:
            return self.write(name, {}).removesuffix(self.end)
        kind = schema["properties"][required[0]]["type"]
        return self.write(name, {required[0]: 0}).rpartition("0")[0] + self.openings.get(kind, "")


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Returns a <tool_call> of JSON; raises ValueError if the arguments are none."""
    return f"<tool_call>\n{write_json({'name': name, 'arguments': arguments})}\n</tool_call>"


def _write_function(name: str, arguments: Mapping[str, Any]) -> str:
    parameters = "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in _texts(arguments))
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


def _write_pairs(name: str, arguments: Mapping[str, Any]) -> str:
    pairs = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{text}</arg_value>\n" for key, text in _texts(arguments))
    return f"<tool_call>{name}\n{pairs}</tool_call>"


def _texts(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Argument and text: a string as it is, everything else as JSON."""
    return [
        (key, value if isinstance(value, str) else write_json({"": value})[len('{"": ') : -1])
        for key, value in arguments.items()
    ]


_OPENINGS = {"array": "[", "object": "{"}

#: What Qwen2.5-VL and Qwen3-VL write, and most others.
JSON_CALLS = CallSyntax(
    form='<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>',
    reminder='<tool_call>{"name": ..., "arguments": {...}}</tool_call>',
    write=write_call,
    end="}}\n</tool_call>",
    openings={**_OPENINGS, "string": '"'},
)
#: What Qwen3.5 writes, from its chat template.
FUNCTION_CALLS = CallSyntax(
    form="<tool_call>\n<function=NAME>\n<parameter=ARGUMENT>\nVALUE\n</parameter>\n</function>\n</tool_call>",
    reminder="<tool_call><function=NAME><parameter=ARGUMENT>VALUE</parameter></function></tool_call>",
    write=_write_function,
    end="</function>\n</tool_call>",
    openings=_OPENINGS,
)
#: What GLM-4.5V writes, from its chat template.
PAIR_CALLS = CallSyntax(
    form="<tool_call>NAME\n<arg_key>ARGUMENT</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>",
    reminder="<tool_call>NAME<arg_key>ARGUMENT</arg_key><arg_value>VALUE</arg_value></tool_call>",
    write=_write_pairs,
    end="</tool_call>",
    openings=_OPENINGS,
)
