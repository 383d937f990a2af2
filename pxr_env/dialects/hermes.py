r"""`hermes`, the syntax of Qwen's tool calls, and `qwen3-vl`, the same in the coordinates of Qwen3-VL::

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
from pxr_env.dialects.reader import BOXED, TurnReader, read_call, tagged_calls
from pxr_env.dialects.wording import Wording, coordinates, limits
from pxr_env.dialects.writer import checked_answer, checked_call, first_argument, open_call, tool_list, write_call
from pxr_env.operations import Operation
from pxr_env.types import Mistake, OperationCall, Turn
from pxr_env.views import View

_MARKS = re.compile(rf"<think>|</?tool_call>|<answer>|{BOXED}")
_READ_MARK = tagged_calls("tool_call", read_call)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hermes(Dialect):
    """Qwen's tool-call syntax.

    Args:
        frame: the coordinate frame, stated in the system prompt.
        released_names: operation -> the name it is advertised and called by; its own name is understood too.
        wording: the words of the replies.
    """

    frame: Frame
    released_names: Mapping[str, str] = field(default_factory=dict)
    wording: Wording = field(default_factory=Wording)

    @property
    def reminder(self) -> str:
        """See `Dialect.reminder`."""
        return '<tool_call>{"name": ..., "arguments": {...}}</tool_call> or \\boxed{answer}'

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """See `Dialect.stop_strings`."""
        return ("</tool_call>", "</answer>")

    def parse(self, text: str) -> Turn:
        """See `Dialect.parse`. Text inside <think>...</think> is not searched, prose around the rest is fine."""
        reader = TurnReader(text, marks=_MARKS, read_mark=_READ_MARK, answer_form="\\boxed{answer}")
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
        return checked_call(self, write_call(name, call.arguments), call)

    def call_opening(self, operation: str) -> str:
        """See `Dialect.call_opening`."""
        return open_call(self.released_names.get(operation, operation), first_argument(operation))

    def render_answer(self, answer: str) -> str:
        r"""See `Dialect.render_answer`: `\boxed{answer}`, or `<answer>` where braces do not balance."""
        return checked_answer(self, answer, (f"\\boxed{{{answer}}}", f"<answer>{answer}</answer>"))

    def tools(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        """See `Dialect.tools`."""
        return [operation.tool(self.released_names.get(operation.name)) for operation in operations]

    def system_prompt(self, operations: Sequence[Operation], *, max_turns: int, max_operations: int) -> str:
        """See `Dialect.system_prompt`."""
        parts = ["You answer questions about images. Think first, then write one final answer as \\boxed{answer}."]
        if operations:
            parts.append(
                "You may call operations to see more; the resulting images come with the next message.\n"
                f"{tool_list(self.tools(operations))}\n"
                'A call: <tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>\n'
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
