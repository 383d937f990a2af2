r"""Reading messages: one pass from mark to mark, and the calls between them: JSON, or the tags of Qwen3.5 and GLM.

Whatever comes is read without an exception, and in time linear in its length. docs/dialects.md says what is read though
it is not written as asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pxr_env.decorations import closing_brace, core
from pxr_env.errors import did_you_mean, quote, show
from pxr_env.operations import get_operation, operation_names
from pxr_env.operations.registry import read_value, strict_json, strict_json_at
from pxr_env.types import Mistake, OperationCall, Turn

Calls = list[OperationCall | Mistake]
#: The mark of a boxed answer, for `TurnReader`.
BOXED = r"\\(?:boxed|fbox|framebox)\s*\{"
#: What GLM puts around its answers.
BEGIN_OF_BOX, END_OF_BOX = "<|begin_of_box|>", "<|end_of_box|>"

_ANSWER_TAGS = {"<answer>": "</answer>", BEGIN_OF_BOX: END_OF_BOX}
#: What may follow the last call of a message: blanks, and tokens that end a turn.
_SPECIAL_TOKENS = re.compile(r"(?:\s|<\|[^\s<>|]*+\|>)*+")
_OPENING_BOX = re.compile(BOXED)
# What stands in a box that only names the format.
_PLACEHOLDER = re.compile(
    r"[\s.?…_]*|\\(?:l?dots|cdots|square)"
    r"|(?:(?:the|your|final|correct|option) )*(?:answer|letter|option|choice|number)(?: (?:letter|here))?",
    re.IGNORECASE,
)

#: Reads the calls at the beginning of a block, and says how many characters they take. It is told whether the block is
#: closed: otherwise only what shows by itself that it is whole counts.
ReadBlock = Callable[[str, bool], tuple[Calls, int]]
#: Makes a call of a JSON object.
ReadObject = Callable[[dict[str, Any]], OperationCall | Mistake]

#: Reads what begins at a mark into a reader, and returns where to read on, None for nowhere.
ReadMark = Callable[["TurnReader", re.Match[str]], int | None]

_CALL_FORM = '{"name": <name>, "arguments": {...}}'

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


class TurnReader:
    r"""One pass over a message. `marks` finds <think>, <answer>, \boxed{ if it counts, and whatever calls begin with;
    `read_mark` reads what begins at such a mark into `calls` and `mistakes`. `answer_form` is for messages.
    """

    def __init__(self, text: str, *, marks: re.Pattern[str], read_mark: ReadMark, answer_form: str) -> None:
        # A lone surrogate is no text; it would break whoever writes the answer to a file.
        self.text = text.encode("utf-8", "replace").decode("utf-8")
        self.calls: Calls = []
        self.answers: list[str] = []
        self.mistakes: list[Mistake] = []
        self._marks, self._read_mark, self._answer_form = marks, read_mark, answer_form

    def read(self) -> Turn:
        position: int | None = self._skip_opened_thinking()
        while position is not None and (mark := self._marks.search(self.text, position)):
            start = mark.end()
            if mark.group() == "<think>":
                position = self._skip_thinking(start)
            elif mark.group() in _ANSWER_TAGS:
                position = self._tagged_answer(mark.group(), start)
            elif mark.group().startswith("\\"):
                position = self._boxed(start)
            else:
                position = self._read_mark(self, mark)
        return Turn(
            calls=tuple(self.calls), answers=self._different_answers(), mistakes=tuple(dict.fromkeys(self.mistakes))
        )

    def add_mistake(self, message: str) -> None:
        """Adds a mistake that belongs to no call."""
        self.mistakes.append(Mistake(message=message))

    def _skip_opened_thinking(self) -> int:
        """Chat templates may open <think> for the model: then the message begins inside it."""
        close = self.text.find("</think>")
        if close < 0 or "<think>" in self.text[:close]:
            return 0
        return close + len("</think>")

    def _skip_thinking(self, start: int) -> int | None:
        """Reads over <think>...</think>. Where it is not closed, only calls that end the message are meant."""
        end = self.text.find("</think>", start)
        if end >= 0:
            return end + len("</think>")
        calls = self._calls_at_the_end(start)
        if calls and all(isinstance(call, OperationCall) for call in calls):
            self.calls += calls
        else:
            self.add_mistake("<think> is not closed; expected </think> after it. Write it again.")
        return None

    def _calls_at_the_end(self, start: int) -> Calls:
        """The calls after `start` behind which the message has nothing else."""
        reader = TurnReader(self.text, marks=self._marks, read_mark=self._read_mark, answer_form=self._answer_form)
        last: Calls = []
        position = start
        while mark := self._marks.search(self.text, position):
            n_before = len(reader.calls)
            is_call = mark.group() not in ("<think>", *_ANSWER_TAGS) and not mark.group().startswith("\\")
            end = self._read_mark(reader, mark) if is_call else mark.end()
            new = reader.calls[n_before:]
            last = new if not new or self.text[position : mark.start()].strip() else [*last, *new]
            position = len(self.text) if end is None else end
        return last if _SPECIAL_TOKENS.fullmatch(self.text, position) else []

    def _tagged_answer(self, opening: str, start: int) -> int | None:
        closing = _ANSWER_TAGS[opening]
        end = self.text.find(closing, start)
        if end < 0:
            self.add_mistake(f"{opening} is not closed; expected {closing} after it. Write it again.")
            return None
        body = self.text[start:end]
        self.answers.extend(_boxes_within(body) or [body.strip()])
        return end + len(closing)

    def _boxed(self, start: int) -> int | None:
        end = closing_brace(self.text, start)
        if end is None:
            self.add_mistake("\\boxed{ is not closed; expected a closing brace. Write it again.")
            return None
        self.answers.append(self.text[start:end].strip())
        return end + 1

    def _different_answers(self) -> tuple[str, ...]:
        """The answers, each once however it is decorated; beside others or calls none that names the format."""
        different: dict[str, str] = {}
        for answer in filter(None, self.answers):
            different.setdefault(core(answer), answer)
        meant = [answer for plain, answer in different.items() if not _PLACEHOLDER.fullmatch(plain)]
        if self.answers and not different and not self.calls:
            self.add_mistake(f"the answer is empty; expected {self._answer_form} with an answer inside.")
        return tuple(meant if meant or self.calls else different.values())


def tagged_calls(tag: str, read_block: ReadBlock) -> ReadMark:
    """Returns the `read_mark` of calls written between `<tag>` and `</tag>`.

    Where the closing tag lacks, a call that is whole counts all the same: it ends where it ends.
    """
    opening, closing = f"<{tag}>", f"</{tag}>"
    tags = re.compile(f"</?{tag}>")

    def read_mark(reader: TurnReader, mark: re.Match[str]) -> int | None:
        start, text = mark.end(), reader.text
        if mark.group() == closing:
            reader.add_mistake(f"{closing} closes nothing; expected {opening} before it.")
            return start
        end = tags.search(text, start)
        is_closed = end is not None and end.group() == closing
        body = text[start : end.start() if end else len(text)]
        calls, n_read = read_block(body, is_closed)
        rest = body[n_read:]
        if end and is_closed:
            reader.calls += (
                calls if is_noise(rest) else [no_json("Extra data", body, n_read, "expected nothing after it")]
            )
            return end.end()
        if all(isinstance(call, OperationCall) for call in calls):
            reader.calls += calls
            # The opening tag at the end of a message was meant to be the closing one.
            return len(text) if end and is_noise(rest) and not text[end.end() :].strip() else start + n_read
        if end and not body.strip():
            return end.start()
        reader.add_mistake(f"{opening} is not closed; expected {closing} after it. Write it again.")
        return end.start() if end else None

    return read_mark


def _boxes_within(answer: str) -> list[str]:
    r"""The insides of the boxes in an <answer>: "The answer is \boxed{B}." answers B."""
    found, position = [], 0
    while opening := _OPENING_BOX.search(answer, position):
        end = closing_brace(answer, opening.end())
        if end is None:
            return []
        found.append(answer[opening.end() : end].strip())
        position = end + 1
    return found


def read_calls(body: str, is_closed: bool) -> tuple[Calls, int]:
    """Reads the calls at the beginning of a <tool_call> in whatever form they are; see `ReadBlock`."""
    if _FUNCTION.match(body):
        return _read_functions(body)
    if opening := _PAIRS.match(body):
        return _read_pairs(body, opening, is_closed)
    return read_json_calls(body, read_call, f"expected {_CALL_FORM}")


def read_json_calls(body: str, read: ReadObject, expected: str) -> tuple[Calls, int]:
    """Reads calls written as JSON objects, one after another or in a list; see `ReadBlock`. `read` makes a call of an
    object, `expected` says in messages what one should be.
    """
    calls: Calls = []
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
    near = quote(body[max(0, position - 20) :].strip(), 40)
    return Mistake(message=f'the call is not valid JSON ({cause} near "{near}"); {expected}. Write it again.')


def is_noise(text: str) -> bool:
    """Whether a text beside a call has neither words nor anything that could be a call."""
    return _SIGNS.fullmatch(text) is not None


def read_call(value: Mapping[str, Any]) -> OperationCall | Mistake:
    """Reads `{"name": <name>, "arguments": {...}}`, `{"name": ..., "parameters": ...}` or OpenAI's `{"function": ...}`.

    The name is a string, the arguments are an object, and there is nothing else.
    """
    expected = f"expected {_CALL_FORM}"
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


def _read_functions(body: str) -> tuple[Calls, int]:
    """Reads calls as Qwen3.5 writes them: `<function=NAME>`, `<parameter=KEY>` and their closing tags."""
    calls: Calls = []
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


def _read_pairs(body: str, opening: re.Match[str], is_closed: bool) -> tuple[Calls, int]:
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
