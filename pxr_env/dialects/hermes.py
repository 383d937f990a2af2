r"""`hermes`, the syntax of Qwen's tool calls, and its relatives `qwen3-vl`, `qwen3.5`, `glm-4.5v`, `pixel-reasoner`::

    I look at the sign. <tool_call>
    {"name": "zoom_in", "arguments": {"bbox_2d": [0.1, 0.2, 0.4, 0.5], "target_image": 1}}
    </tool_call>

with the final answer as `\boxed{...}` or `<answer>...</answer>`.

`pixel-reasoner` has the names and the replies that the released Pixel-Reasoner checkpoints know. Source: arXiv
2505.15966 and the code of TIGER-AI-Lab/Pixel-Reasoner: `crop_image_normalized` in fractions, the older `crop_image` in
pixels, the newer `zoom_in` in fractions, `select_frames` with `target_frames`. Their code pads crops by 0.1 of each
side (here `zoom_padding=0.1` of the environment) and guesses the frame of a box (here it is declared).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pxr_env.coordinates import Frame
from pxr_env.dialects.base import (
    Dialect,
    Wording,
    check_frame,
    coordinates,
    describe_error,
    describe_views,
    limits,
)
from pxr_env.dialects.reader import BEGIN_OF_BOX, BOXED, END_OF_BOX, TurnReader, read_calls, tagged_calls
from pxr_env.dialects.writer import (
    FUNCTION_CALLS,
    JSON_CALLS,
    PAIR_CALLS,
    CallSyntax,
    checked_answer,
    checked_call,
    first_argument,
    tool_list,
)
from pxr_env.operations import Operation
from pxr_env.types import OperationCall, Turn
from pxr_env.views import View

_MARKS = re.compile(rf"<think>|</?tool_call>|<answer>|{re.escape(BEGIN_OF_BOX)}|{BOXED}")
_READ_MARK = tagged_calls("tool_call", read_calls)
_RESPONSE = "<tool_response>\n"
#: Coordinate frame -> what Pixel-Reasoner calls `zoom_in` there.
_CROP_NAMES = {"unit": "crop_image_normalized", "pixel": "crop_image"}


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
        return f"{self.syntax.reminder} or {self.answer_form}"

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return ("</tool_call>", "</answer>", *([END_OF_BOX] if END_OF_BOX in self.answer_form else []))

    def parse(self, text: str) -> Turn:
        turn = TurnReader(text, marks=_MARKS, read_mark=_READ_MARK, answer_form=self.answer_form).read()
        own = {released: name for name, released in self.released_names.items()}
        calls = (
            replace(call, name=own.get(call.name, call.name)) if isinstance(call, OperationCall) else call
            for call in turn.calls
        )
        return replace(turn, calls=tuple(calls)) if own else turn

    def render_call(self, call: OperationCall) -> str:
        name = self.released_names.get(call.name, call.name)
        return checked_call(self.parse, self.syntax.write(name, call.arguments), call)

    def call_opening(self, operation: str) -> str:
        return self.syntax.opening(self.released_names.get(operation, operation), first_argument(operation))

    def render_answer(self, answer: str) -> str:
        """See `Dialect.render_answer`: in the dialect's own form, or as `<answer>` where braces do not balance."""
        own = self.answer_form.replace("answer", answer, 1)
        return checked_answer(self.parse, answer, own, f"<answer>{answer}</answer>")

    def tools(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        return [operation.tool(self.released_names.get(operation.name)) for operation in operations]

    def system_prompt(self, operations: Sequence[Operation], *, max_turns: int, max_operations: int) -> str:
        parts = [f"You answer questions about images. Think first, then write one final answer as {self.answer_form}."]
        if operations:
            parts.append(
                "You may call operations to see more; the resulting images come with the next message.\n"
                f"{tool_list(self.tools(operations))}\n"
                f"A call: {self.syntax.form}\n"
                f"{coordinates(self.frame, operations)}\n"
                f"{limits(max_turns, max_operations)}"
            )
        return "\n\n".join(parts)


def hermes(frame: Frame) -> Dialect:
    """Builds "hermes"."""
    return Hermes(frame=frame)


def qwen3_vl(frame: Frame) -> Dialect:
    """Builds "qwen3-vl": hermes in integers from 0 to 1000, the coordinates of Qwen3-VL."""
    check_frame("qwen3-vl", frame, {"permille": "integers from 0 to 1000, what Qwen3-VL was trained with"})
    return Hermes(frame=frame)


def qwen3_5(frame: Frame) -> Dialect:
    """Builds "qwen3.5": calls as tags, replies inside <tool_response>, which keeps Qwen3.5's earlier thoughts."""
    check_frame("qwen3.5", frame, {"permille": "integers from 0 to 1000, what Qwen3.5 was trained with"})
    wording = Wording(views=_view_response, error=_error_response, place=_inside_response)
    return Hermes(frame=frame, syntax=FUNCTION_CALLS, wording=wording)


def glm_4_5v(frame: Frame) -> Dialect:
    """Builds "glm-4.5v": calls as pairs of argument and value, answers in GLM's box."""
    check_frame("glm-4.5v", frame, {"permille": "integers from 0 to 1000, what GLM-4.5V was trained with"})
    return Hermes(frame=frame, syntax=PAIR_CALLS, answer_form=f"{BEGIN_OF_BOX}answer{END_OF_BOX}")


def pixel_reasoner(frame: Frame, *, zoom_name: str | None = None) -> Dialect:
    """Builds "pixel-reasoner".

    Args:
        frame: the coordinate frame.
        zoom_name: what `zoom_in` is advertised as; by default the name of most released checkpoints in this frame.

    Raises:
        ValueError: a frame without a released name.
    """
    check_frame("pixel-reasoner", frame, _CROP_NAMES)
    names = {"zoom_in": zoom_name or _CROP_NAMES[frame.name]}
    wording = Wording(views=_crop_result, error=_execution_error, place=_crop_place)
    return Hermes(frame=frame, released_names=names, wording=wording)


def _view_response(views: Sequence[View], call: OperationCall | None) -> str:
    return f"{_RESPONSE}{describe_views(views, call)}\n</tool_response>"


def _error_response(message: str, call_number: int | None) -> str:
    return f"{_RESPONSE}{describe_error(message, call_number)}\n</tool_response>"


def _inside_response(text: str, call: OperationCall) -> int:
    return len(_RESPONSE)


def _crop_result(views: Sequence[View], call: OperationCall | None) -> str:
    name = None if call is None else call.name
    width, height = views[0].size
    if name == "zoom_in":
        return f"Here is the cropped image (Image Size: {width}x{height}):"
    if name == "select_frames":
        first, last = views[0].index, views[-1].index
        return f"Here are the selected frames (Frame Size: {width}x{height}, Numbered {first} to {last}):"
    return describe_views(views, call)


def _crop_place(text: str, call: OperationCall) -> int:
    """Their images follow the words."""
    return len(text) if call.name in ("zoom_in", "select_frames") else 0


def _execution_error(message: str, call_number: int | None) -> str:
    where = "" if call_number is None else f" in call {call_number}"
    return f"Execution error{where}:\n{message}"
