"""Reading the calls of one block: JSON, or the tags of Qwen3.5 and GLM.

What can mean only one thing is read, whoever writes it so: several calls in one block, a list of calls, a code fence,
arguments inside a string, a comma before a closing bracket, OpenAI's own form of a call. What is missing is not made
up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pxr_env.errors import did_you_mean, quote, show
from pxr_env.operations import get_operation, operation_names
from pxr_env.operations.schema import read_value
from pxr_env.strict_json import strict_json, strict_json_at
from pxr_env.types import Mistake, OperationCall

#: Reads the calls at the beginning of a block, and says how many characters they take. It is told whether the block is
#: closed: otherwise only what shows by itself that it is whole counts.
ReadBlock = Callable[[str, bool], "tuple[list[OperationCall | Mistake], int]"]
#: Makes a call of a JSON object.
ReadObject = Callable[[dict[str, Any]], OperationCall | Mistake]

CALL_FORM = '{"name": <name>, "arguments": {...}}'

_FENCE = re.compile(r"\s*+```[a-z]*+")
_BETWEEN = re.compile(r"[\s,]*+")
#: What stands in a block beside its calls and changes nothing: signs, as models write them when they lose the thread.
_SIGNS = re.compile(r'[^\w<"{\[]*+')
_STRING_OR_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*+"?)|,(?=\s*+[}\]])', re.DOTALL)

_FUNCTION = re.compile(r"\s*+<function=([^<>]*+)>")
_PARAMETER = re.compile(r"\s*+<parameter=([^<>]*+)>(.*?)</parameter>", re.DOTALL)
_FUNCTION_END = re.compile(r"\s*+</function>")
_PAIRS = re.compile(r"\s*+([^\s<>\"'{}\[\]]++)\s*+(?=<arg_key>)")
_PAIR = re.compile(r"\s*+<arg_key>([^<>]*+)</arg_key>\s*+<arg_value>(.*?)</arg_value>", re.DOTALL)


def read_calls(body: str, is_closed: bool) -> tuple[list[OperationCall | Mistake], int]:
    """Reads the calls at the beginning of a <tool_call> in whatever form they are; see `ReadBlock`."""
    if _FUNCTION.match(body):
        return _read_functions(body)
    if opening := _PAIRS.match(body):
        return _read_pairs(body, opening, is_closed)
    return read_json_calls(body, read_call, f"expected {CALL_FORM}")


def read_json_calls(body: str, read: ReadObject, expected: str) -> tuple[list[OperationCall | Mistake], int]:
    """Reads calls written as JSON objects, one after another or in a list; see `ReadBlock`.

    Args:
        body: the inside of the block.
        read: makes a call of an object.
        expected: says what an object should be, for messages.
    """
    calls: list[OperationCall | Mistake] = []
    fence = _FENCE.match(body)
    position = fence.end() if fence else 0
    while True:
        start = _BETWEEN.match(body, position).end()  # type: ignore[union-attr]
        if calls and not body.startswith(("{", "[", '"'), start):
            return calls, position
        try:
            value, position = _json_at(body, start)
        except RecursionError:
            return [*calls, Mistake(message=f"the call is nested too deeply; {expected}.")], len(body)
        except json.JSONDecodeError as error:
            return [*calls, no_json(error.msg, body, error.pos, expected)], len(body)
        except ValueError as error:
            text = f"the call is not valid JSON ({quote(str(error))}); {expected}. Write it again."
            return [*calls, Mistake(message=text)], len(body)
        value = _inside(value)
        items = value if isinstance(value, list) else [value]
        if not items or not all(isinstance(item, dict) for item in items):
            return [*calls, Mistake(message=f"the call is {show(value)}; {expected}.")], len(body)
        calls += map(read, items)


def no_json(cause: str, body: str, position: int, expected: str) -> Mistake:
    """Returns the mistake for what is no JSON at a position."""
    near = quote(body[max(0, position - 20) :].strip(), 40)
    return Mistake(message=f'the call is not valid JSON ({cause} near "{near}"); {expected}. Write it again.')


def is_noise(text: str) -> bool:
    """Whether a text beside a call has neither words nor anything that could be a call."""
    return _SIGNS.fullmatch(text) is not None


def read_call(value: Mapping[str, Any]) -> OperationCall | Mistake:
    """Reads `{"name": <name>, "arguments": {...}}`, `{"name": ..., "parameters": ...}` or OpenAI's `{"function": ...}`.

    The name is a string, the arguments are an object, and there is nothing else.
    """
    expected = f"expected {CALL_FORM}"
    if isinstance(value.get("function"), dict) and not value.keys() - {"function", "type", "id"}:
        value = value["function"]
    key = "parameters" if "parameters" in value and "arguments" not in value else "arguments"
    if mistake := check_keys(value, ("name", key), expected):
        return mistake
    name, arguments = value.get("name"), _inside(value.get(key))
    if not isinstance(name, str):
        got = f"the name of the call is {show(name)}" if "name" in value else "the call has no name"
        return Mistake(message=f"{got}; {expected}.")
    if not isinstance(arguments, dict):
        got = f"the arguments of the call are {show(arguments)}" if key in value else "the call has no arguments"
        return Mistake(message=f"{got}; {expected}.")
    return OperationCall(name=name, arguments=arguments)


def check_keys(value: Mapping[str, Any], keys: Sequence[str], expected: str) -> Mistake | None:
    """Returns the mistake of an object that has other keys than `keys`, or None."""
    for key in value:
        if key not in keys:
            return Mistake(
                message=f'the call has "{quote(key)}"; {expected} and nothing else.{did_you_mean(key, keys)}'
            )
    return None


def _json_at(body: str, start: int) -> tuple[Any, int]:
    try:
        return strict_json_at(body, start)
    except json.JSONDecodeError:
        # Blanks in place of the commas keep all positions.
        plain = _STRING_OR_TRAILING_COMMA.sub(lambda found: found[1] or " ", body)
        if plain == body:
            raise
        return strict_json_at(plain, start)


def _inside(value: Any) -> Any:
    """The object or list whose JSON a string holds, which may be encoded twice; else the value itself."""
    read = value
    for _ in range(2):
        if isinstance(read, str):
            try:
                read = strict_json(read)
            except (ValueError, RecursionError):
                return value
    return read if isinstance(read, dict | list) else value


def _read_functions(body: str) -> tuple[list[OperationCall | Mistake], int]:
    """Reads calls as Qwen3.5 writes them: `<function=NAME>`, `<parameter=KEY>` and their closing tags."""
    calls: list[OperationCall | Mistake] = []
    position = 0
    while opening := _FUNCTION.match(body, position):
        arguments, position, mistake = _read_texts(body, opening.end(), _PARAMETER)
        end = _FUNCTION_END.match(body, position)
        if mistake is None and end is None:
            near = quote(body[position:].strip(), 40)
            mistake = f'"{near}" came; expected <parameter=KEY>VALUE</parameter> or </function>.'
        if mistake is not None or end is None:
            return [*calls, Mistake(message=f"{mistake} Write the call again.")], len(body)
        calls.append(_typed_call(opening[1].strip(), arguments))
        position = end.end()
    return calls, position


def _read_pairs(body: str, opening: re.Match[str], is_closed: bool) -> tuple[list[OperationCall | Mistake], int]:
    """Reads a call as GLM writes it: `NAME`, then `<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>` each."""
    arguments, position, mistake = _read_texts(body, opening.end(), _PAIR)
    if mistake is None and (not is_closed or not is_noise(body[position:])):
        near = quote(body[position:].strip(), 40)
        mistake = f'"{near}" came; expected <arg_key>KEY</arg_key><arg_value>VALUE</arg_value> or </tool_call>.'
    if mistake is not None:
        return [Mistake(message=f"{mistake} Write the call again.")], len(body)
    return [_typed_call(opening[1], arguments)], position


def _read_texts(body: str, position: int, pattern: re.Pattern[str]) -> tuple[dict[str, str], int, str | None]:
    """Returns argument -> text, where they end, and what is wrong with them."""
    arguments: dict[str, str] = {}
    while argument := pattern.match(body, position):
        key = argument[1].strip()
        if key in arguments:
            return arguments, position, f'the argument "{quote(key, 40)}" came twice; expected each once.'
        arguments[key] = argument[2].removeprefix("\n").removesuffix("\n")
        position = argument.end()
    return arguments, position, None


def _typed_call(name: str, texts: Mapping[str, str]) -> OperationCall:
    """A call whose arguments came as texts: JSON where the operation declares something else than text."""
    properties = get_operation(name).parameters["properties"] if name in operation_names() else {}
    arguments = {key: read_value(text, properties.get(key, {"type": "string"})) for key, text in texts.items()}
    return OperationCall(name=name, arguments=arguments)
