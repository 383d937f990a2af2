r"""`hermes`, the syntax of Qwen's tool calls, and its relatives `qwen3-vl`, `qwen3.5` and `glm-4.5v`::

    I look at the sign. <tool_call>
    {"name": "zoom_in", "arguments": {"bbox_2d": [0.1, 0.2, 0.4, 0.5], "target_image": 1}}
    </tool_call>

with the final answer as `\boxed{...}` or `<answer>...</answer>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pxr_env.coordinates import Frame
from pxr_env.dialects.base import Dialect, check_frame
from pxr_env.dialects.calls import read_calls
from pxr_env.dialects.reader import BEGIN_OF_BOX, BOXED, END_OF_BOX, TurnReader, tagged_calls
from pxr_env.dialects.syntax import FUNCTION_CALLS, JSON_CALLS, PAIR_CALLS, CallSyntax
from pxr_env.dialects.wording import Wording, coordinates, describe_error, describe_views, limits
from pxr_env.dialects.writer import checked_answer, checked_call, first_argument, tool_list
from pxr_env.operations import Operation
from pxr_env.types import Mistake, OperationCall, Turn
from pxr_env.views import View

_MARKS = re.compile(rf"<think>|</?tool_call>|<answer>|{re.escape(BEGIN_OF_BOX)}|{BOXED}")
_READ_MARK = tagged_calls("tool_call", read_calls)
_RESPONSE = "<tool_response>\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hermes(Dialect):
    """Qwen's tool-call syntax. Every form of call and answer is read, whichever is written.

    Args:
        frame: the coordinate frame, stated in the system prompt.
        released_names: operation -> the name it is advertised and called by; its own name is understood too.
        wording: the words of the replies.
        syntax: how calls are written.
        answer_form: how the answer "answer" is written.
    """

    frame: Frame
    released_names: Mapping[str, str] = field(default_factory=dict)
    wording: Wording = field(default_factory=Wording)
    syntax: CallSyntax = JSON_CALLS
    answer_form: str = "\\boxed{answer}"

    @property
    def reminder(self) -> str:
        """See `Dialect.reminder`."""
        return f"{self.syntax.reminder} or {self.answer_form}"

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """See `Dialect.stop_strings`."""
        return ("</tool_call>", "</answer>", *([END_OF_BOX] if END_OF_BOX in self.answer_form else []))

    def parse(self, text: str) -> Turn:
        """See `Dialect.parse`. Text inside <think>...</think> is not searched, prose around the rest is fine."""
        reader = TurnReader(text, marks=_MARKS, read_mark=_READ_MARK, answer_form=self.answer_form)
        turn = reader.read()
        return replace(turn, calls=tuple(map(self._canonical, turn.calls))) if self.released_names else turn

    def _canonical(self, call: OperationCall | Mistake) -> OperationCall | Mistake:
        if isinstance(call, OperationCall):
            for name, released in self.released_names.items():
                if call.name == released:
                    return OperationCall(name=name, arguments=call.arguments)
        return call

    def render_call(self, call: OperationCall) -> str:
        """See `Dialect.render_call`."""
        name = self.released_names.get(call.name, call.name)
        return checked_call(self, self.syntax.write(name, call.arguments), call)

    def call_opening(self, operation: str) -> str:
        """See `Dialect.call_opening`."""
        return self.syntax.open(self.released_names.get(operation, operation), first_argument(operation))

    def render_answer(self, answer: str) -> str:
        """See `Dialect.render_answer`: in the dialect's own form, or as `<answer>` where braces do not balance."""
        return checked_answer(
            self, answer, (self.answer_form.replace("answer", answer, 1), f"<answer>{answer}</answer>")
        )

    def tools(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        """See `Dialect.tools`."""
        return [operation.tool(self.released_names.get(operation.name)) for operation in operations]

    def system_prompt(self, operations: Sequence[Operation], *, max_turns: int, max_operations: int) -> str:
        """See `Dialect.system_prompt`."""
        parts = [f"You answer questions about images. Think first, then write one final answer as {self.answer_form}."]
        if operations:
            parts.append(
                "You may call operations to see more; the resulting images come with the next message.\n"
                f"{tool_list(self.tools(operations))}\n"
                f"A call: {self.syntax.form}\n"
                f"{coordinates(self.frame, operations)}\n"
                f"{limits(max_turns=max_turns, max_operations=max_operations)}"
            )
        return "\n\n".join(parts)

    def render_views(self, views: Sequence[View], call: OperationCall | None = None) -> str:
        """See `Dialect.render_views`."""
        return self.wording.views(views, call)

    def image_place(self, text: str, call: OperationCall) -> int:
        """See `Dialect.image_place`."""
        return self.wording.place(text, call)

    def render_video(self, views: Sequence[View], *, duration: float) -> str:
        """See `Dialect.render_video`."""
        return self.wording.video(views, duration)

    def render_error(self, message: str, *, call_number: int | None = None) -> str:
        """See `Dialect.render_error`."""
        return self.wording.error(message, call_number)


def hermes(frame: Frame) -> Dialect:
    """Builds "hermes"."""
    return Hermes(frame=frame)


def qwen3_vl(frame: Frame) -> Dialect:
    """Builds "qwen3-vl": hermes in integers from 0 to 1000, the coordinates of Qwen3-VL.

    Raises:
        ValueError: another frame.
    """
    check_frame("qwen3-vl", frame, {"permille": "integers from 0 to 1000, what Qwen3-VL was trained with"})
    return Hermes(frame=frame)


def qwen3_5(frame: Frame) -> Dialect:
    """Builds "qwen3.5": calls as tags, replies inside <tool_response>, which keeps Qwen3.5's earlier thoughts.

    Raises:
        ValueError: another frame than "permille".
    """
    check_frame("qwen3.5", frame, {"permille": "integers from 0 to 1000, what Qwen3.5 was trained with"})
    wording = Wording(views=_view_response, error=_error_response, place=_inside_response)
    return Hermes(frame=frame, syntax=FUNCTION_CALLS, wording=wording)


def glm_4_5v(frame: Frame) -> Dialect:
    """Builds "glm-4.5v": calls as pairs of argument and value, answers in GLM's box.

    Raises:
        ValueError: another frame than "permille".
    """
    check_frame("glm-4.5v", frame, {"permille": "integers from 0 to 1000, what GLM-4.5V was trained with"})
    return Hermes(frame=frame, syntax=PAIR_CALLS, answer_form=f"{BEGIN_OF_BOX}answer{END_OF_BOX}")


def _view_response(views: Sequence[View], call: OperationCall | None) -> str:
    return _response(describe_views(views, call))


def _error_response(message: str, call_number: int | None) -> str:
    return _response(describe_error(message, call_number))


def _response(text: str) -> str:
    return f"{_RESPONSE}{text}\n</tool_response>"


def _inside_response(text: str, call: OperationCall) -> int:
    return len(_RESPONSE)
