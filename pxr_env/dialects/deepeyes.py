"""`deepeyes`: the one tool of the released DeepEyes models::

    <think>The sign is small.</think>
    <tool_call>
    {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200], "label": "the sign"}}
    </tool_call>

with the final answer as `<answer>...</answer>`. Boxes are in pixels of the first image as shown; results cannot be
zoomed into again. Source: arXiv 2505.14362 and the code of Visual-Agent/DeepEyes
(`verl/workers/agent/envs/mm_process_engine`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pxr_env.coordinates import Frame
from pxr_env.dialects.base import Dialect, check_frame, check_only_zoom
from pxr_env.dialects.calls import read_calls
from pxr_env.dialects.reader import TurnReader, tagged_calls
from pxr_env.dialects.syntax import open_call, write_call
from pxr_env.dialects.wording import limits
from pxr_env.dialects.writer import checked_answer, checked_call, inexpressible, tool_list, zoom_tool
from pxr_env.errors import did_you_mean, quote
from pxr_env.operations import Operation
from pxr_env.types import Mistake, OperationCall, Turn
from pxr_env.views import View

#: What `zoom_in` is called.
TOOL = "image_zoom_in_tool"

_MARKS = re.compile("<think>|</?tool_call>|<answer>")
_RESPONSE = "<tool_response>\n"
_ARGUMENTS = ("bbox_2d", "label")
_EXAMPLE = {"bbox_2d": [10, 20, 100, 200], "label": "the sign"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepEyes(Dialect):
    """The syntax of DeepEyes. Knows `zoom_in` of image 1 only, in the pixel frame. Labels are read over."""

    @property
    def reminder(self) -> str:
        """See `Dialect.reminder`."""
        return (
            f'<tool_call>{{"name": "{TOOL}", "arguments": {{"bbox_2d": [x1, y1, x2, y2]}}}}</tool_call> '
            "or <answer>answer</answer>"
        )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """See `Dialect.stop_strings`."""
        return ("</tool_call>", "</answer>")

    def parse(self, text: str) -> Turn:
        """See `Dialect.parse`."""
        return TurnReader(text, marks=_MARKS, read_mark=_READ_MARK, answer_form="<answer>answer</answer>").read()

    def render_call(self, call: OperationCall) -> str:
        """See `Dialect.render_call`. Written without a label."""
        arguments = dict(call.arguments)
        if call.name != "zoom_in" or set(arguments) != {"bbox_2d", "target_image"} or arguments["target_image"] != 1:
            raise inexpressible(call, "zoom_in with bbox_2d and target_image=1")
        del arguments["target_image"]
        return checked_call(self, write_call(TOOL, arguments), call)

    def call_opening(self, operation: str) -> str:
        """See `Dialect.call_opening`."""
        if operation != "zoom_in":
            raise inexpressible(OperationCall(name=operation, arguments={}), "zoom_in")
        return open_call(TOOL, ("bbox_2d", "array"))

    def render_answer(self, answer: str) -> str:
        """See `Dialect.render_answer`."""
        return checked_answer(self, answer, (f"<answer>{answer}</answer>",))

    def check_operations(self, operations: Sequence[Operation]) -> None:
        """See `Dialect.check_operations`."""
        check_only_zoom("deepeyes", operations)

    def tools(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        """See `Dialect.tools`."""
        label = {"type": "string", "description": "What is in the box; may be left out."}
        return [zoom_tool(TOOL, operation, {"label": label}, ("bbox_2d",)) for operation in operations]

    def system_prompt(self, operations: Sequence[Operation], *, max_turns: int, max_operations: int) -> str:
        """See `Dialect.system_prompt`."""
        parts = [
            "You answer questions about an image. Think inside <think> and </think> first, and write one final answer "
            "inside <answer> and </answer>."
        ]
        if operations:
            parts.append(
                "You may call a tool to see more; the resulting image comes with the next message.\n"
                f"{tool_list(self.tools(operations))}\n"
                f"A call: {write_call(TOOL, _EXAMPLE)}\n"
                "Boxes are [x1, y1, x2, y2] in pixels of the first image as shown, whatever was shown since.\n"
                f"{limits(max_turns=max_turns, max_operations=max_operations)}"
            )
        return "\n\n".join(parts)

    def render_views(self, views: Sequence[View], call: OperationCall | None = None) -> str:
        """See `Dialect.render_views`."""
        return (
            f"{_RESPONSE}Think first, call {TOOL} again if needed, then answer: <think>...</think>, then "
            "<tool_call>...</tool_call> or <answer>...</answer>.\n</tool_response>"
        )

    def image_place(self, text: str, call: OperationCall) -> int:
        """See `Dialect.image_place`: inside <tool_response>."""
        return len(_RESPONSE)


def _read_block(body: str, is_closed: bool) -> tuple[list[OperationCall | Mistake], int]:
    calls, n_read = read_calls(body, is_closed)
    return [_zoom(call) for call in calls], n_read


def _zoom(call: OperationCall | Mistake) -> OperationCall | Mistake:
    if isinstance(call, Mistake) or call.name != TOOL:
        return call
    for key in call.arguments:
        if key not in _ARGUMENTS:
            return Mistake(
                message=f'the arguments have "{quote(key)}"; expected only bbox_2d and label.'
                f"{did_you_mean(key, _ARGUMENTS)} Boxes always refer to the first image."
            )
    box = {key: value for key, value in call.arguments.items() if key == "bbox_2d"}
    return OperationCall(name="zoom_in", arguments={**box, "target_image": 1})


_READ_MARK = tagged_calls("tool_call", _read_block)


def deepeyes(frame: Frame) -> Dialect:
    """Builds "deepeyes".

    Raises:
        ValueError: another frame than "pixel".
    """
    check_frame("deepeyes", frame, {"pixel": "pixels of the shown image, what DeepEyes was trained with"})
    return DeepEyes()
