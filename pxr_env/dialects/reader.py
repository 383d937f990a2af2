r"""Reading messages: one pass from mark to mark, and strict JSON.

Text inside <think>...</think> is not searched, prose around the rest is fine. Whatever comes is read without an
exception, and nothing is read twice: what is not closed ends the reading.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from pxr_env.decorations import closing_brace, core
from pxr_env.errors import did_you_mean, quote, show
from pxr_env.types import Mistake, OperationCall, Turn

#: The mark of a boxed answer, for `TurnReader`.
BOXED = r"\\(?:boxed|fbox|framebox)\s*\{"

_OPENING_BOX = re.compile(BOXED)
# What stands in a box that only names the format.
_PLACEHOLDER = re.compile(
    r"[\s.?…_]*|\\(?:l?dots|cdots|square)"
    r"|(?:(?:the|your|final|correct|option) )*(?:answer|letter|option|choice|number)(?: (?:letter|here))?",
    re.IGNORECASE,
)


class TurnReader:
    r"""One pass over a message.

    Args:
        text: the message.
        marks: finds <think>, <answer>, \boxed{ if it counts, and whatever calls begin with.
        read_mark: reads what begins at any other mark into `calls` and `mistakes`, and returns where to read on, None
            for nowhere.
        answer_form: how an answer is written, for messages.
    """

    def __init__(
        self,
        text: str,
        *,
        marks: re.Pattern[str],
        read_mark: Callable[[TurnReader, re.Match[str]], int | None],
        answer_form: str,
    ) -> None:
        # A lone surrogate is no text; it would break whoever writes the answer to a file.
        self.text = text.encode("utf-8", "replace").decode("utf-8")
        self.calls: list[OperationCall | Mistake] = []
        self.answers: list[str] = []
        self.mistakes: list[Mistake] = []
        self._marks, self._read_mark, self._answer_form = marks, read_mark, answer_form

    def read(self) -> Turn:
        """Reads the message."""
        position: int | None = self._skip_opened_thinking()
        while position is not None and (mark := self._marks.search(self.text, position)):
            start = mark.end()
            if mark.group() == "<think>":
                position = self.until("</think>", start)[1]
            elif mark.group() == "<answer>":
                body, position = self.until("</answer>", start)
                if body is not None:
                    self.answers.extend(_boxes_within(body) or [body.strip()])
            elif mark.group().startswith("\\"):
                position = self._boxed(start)
            else:
                position = self._read_mark(self, mark)
        return Turn(
            calls=tuple(self.calls), answers=self._different_answers(), mistakes=tuple(dict.fromkeys(self.mistakes))
        )

    def until(self, tag: str, start: int) -> tuple[str | None, int | None]:
        """Returns the text from `start` to a closing tag, and where to read on; a tag that lacks is a mistake."""
        end = self.text.find(tag, start)
        if end < 0:
            opening = tag.replace("/", "")
            self.add_mistake(f"{opening} is not closed; expected {tag} after it. Write it again.")
            return None, None
        return self.text[start:end], end + len(tag)

    def add_mistake(self, message: str) -> None:
        """Adds a mistake that belongs to no call."""
        self.mistakes.append(Mistake(message=message))

    def _skip_opened_thinking(self) -> int:
        """Chat templates may open <think> for the model: then the message begins inside it."""
        close = self.text.find("</think>")
        if close < 0 or "<think>" in self.text[:close]:
            return 0
        return close + len("</think>")

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


def tagged_calls(
    tag: str, read_body: Callable[[str], OperationCall | Mistake]
) -> Callable[[TurnReader, re.Match[str]], int | None]:
    """Returns the `read_mark` of calls written between `<tag>` and `</tag>`."""

    def read_mark(reader: TurnReader, mark: re.Match[str]) -> int | None:
        if mark.group() == f"</{tag}>":
            reader.add_mistake(f"</{tag}> closes nothing; expected <{tag}> before it.")
            return None
        body, position = reader.until(f"</{tag}>", mark.end())
        if body is not None:
            reader.calls.append(read_body(body))
        return position

    return read_mark


def read_call(body: str) -> OperationCall | Mistake:
    """Reads a call as `{"name": <name>, "arguments": {...}}`: name a string, arguments an object, nothing else."""
    expected = 'expected {"name": <name>, "arguments": {...}}'
    value = read_object(body, ("name", "arguments"), expected)
    if isinstance(value, Mistake):
        return value
    name, arguments = value.get("name"), value.get("arguments")
    if not isinstance(name, str):
        got = f"the name of the call is {show(name)}" if "name" in value else "the call has no name"
        return Mistake(message=f"{got}; {expected}.")
    if not isinstance(arguments, dict):
        got = (
            f"the arguments of the call are {show(arguments)}" if "arguments" in value else "the call has no arguments"
        )
        return Mistake(message=f"{got}; {expected}.")
    return OperationCall(name=name, arguments=arguments)


def read_object(body: str, keys: tuple[str, ...], expected: str) -> dict[str, Any] | Mistake:
    """Reads the JSON object of a call that has no other keys than `keys`; `expected` says what it should be."""
    try:
        value = strict_json(body)
    except RecursionError:
        return Mistake(message=f"the call is nested too deeply; {expected}.")
    except json.JSONDecodeError as error:
        near = quote(body[max(0, error.pos - 20) :].strip(), 40)
        return Mistake(message=f'the call is not valid JSON ({error.msg} near "{near}"); {expected}. Write it again.')
    except ValueError as error:
        return Mistake(message=f"the call is not valid JSON ({quote(str(error))}); {expected}. Write it again.")
    if not isinstance(value, dict):
        return Mistake(message=f"the call is {show(value)}; {expected}.")
    for key in value:
        if key not in keys:
            return Mistake(
                message=f'the call has "{quote(key)}"; {expected} and nothing else.{did_you_mean(key, keys)}'
            )
    return value


def strict_json(text: str) -> Any:
    """Reads JSON. Strict: no NaN, no infinity, no key twice.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name in value if counts[name] > 1)
        raise ValueError(f'the key "{quote(twice, 40)}" came twice')
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


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
