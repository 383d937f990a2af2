r"""Reading messages: one pass from mark to mark.

Text inside <think>...</think> is not searched, prose around the rest is fine. Whatever comes is read without an
exception, and in time linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pxr_env.decorations import closing_brace, core
from pxr_env.dialects.calls import ReadBlock, is_noise, no_json
from pxr_env.types import Mistake, OperationCall, Turn

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
                position = self._skip_thinking(start)
            elif mark.group() in _ANSWER_TAGS:
                body, position = self.until(_ANSWER_TAGS[mark.group()], start)
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
            opening = next(opening for opening, closing in _ANSWER_TAGS.items() if closing == tag)
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

    def _calls_at_the_end(self, start: int) -> list[OperationCall | Mistake]:
        """The calls after `start` behind which the message has nothing else."""
        reader = TurnReader(self.text, marks=self._marks, read_mark=self._read_mark, answer_form=self._answer_form)
        last: list[OperationCall | Mistake] = []
        position = start
        while mark := self._marks.search(self.text, position):
            n_before = len(reader.calls)
            is_call = mark.group() not in ("<think>", *_ANSWER_TAGS) and not mark.group().startswith("\\")
            end = self._read_mark(reader, mark) if is_call else mark.end()
            new = reader.calls[n_before:]
            last = new if not new or self.text[position : mark.start()].strip() else [*last, *new]
            position = len(self.text) if end is None else end
        return last if _SPECIAL_TOKENS.fullmatch(self.text, position) else []

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


def tagged_calls(tag: str, read_block: ReadBlock) -> Callable[[TurnReader, re.Match[str]], int | None]:
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
