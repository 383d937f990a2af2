"""`mini-o3`: zooming by <grounding>, as the released Mini-o3 models write it::

    <think>The sign is small.</think>
    <grounding>{"bbox_2d": [0.1, 0.2, 0.4, 0.5], "source": "original_image"}</grounding>

with the final answer as `<answer>...</answer>`. The first image is "original_image", image i + 1 is "observation_i".
Boxes are in fractions. Source: arXiv 2509.07969 and the code of Mini-o3/Mini-o3 (`verl/trainer/constants.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pxr_env.coordinates import Frame
from pxr_env.dialects.base import Dialect, check_frame, check_only_zoom
from pxr_env.dialects.calls import check_keys, read_json_calls
from pxr_env.dialects.reader import TurnReader, tagged_calls
from pxr_env.dialects.wording import frame_times, limits
from pxr_env.dialects.writer import checked_answer, checked_call, inexpressible, write_json, zoom_tool
from pxr_env.errors import show
from pxr_env.operations import Operation
from pxr_env.types import Mistake, OperationCall, Turn
from pxr_env.views import View

_FORM = '{"bbox_2d": [x0, y0, x1, y1], "source": "original_image"}'
_MARKS = re.compile("<think>|</?grounding>|<answer>")
_OBSERVATION = re.compile("observation_([1-9][0-9]{0,8})")


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniO3(Dialect):
    """The syntax of Mini-o3. Knows `zoom_in` only, in the unit frame."""

    @property
    def reminder(self) -> str:
        """See `Dialect.reminder`."""
        return f"<grounding>{_FORM}</grounding> or <answer>answer</answer>"

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """See `Dialect.stop_strings`."""
        return ("</grounding>", "</answer>")

    def parse(self, text: str) -> Turn:
        """See `Dialect.parse`."""
        return TurnReader(text, marks=_MARKS, read_mark=_READ_MARK, answer_form="<answer>answer</answer>").read()

    def render_call(self, call: OperationCall) -> str:
        """See `Dialect.render_call`."""
        arguments = dict(call.arguments)
        number = arguments.pop("target_image", None)
        if call.name != "zoom_in" or set(arguments) != {"bbox_2d"} or not isinstance(number, int):
            raise inexpressible(call, "zoom_in with bbox_2d and target_image")
        body = write_json({**arguments, "source": source_name(number)})
        return checked_call(self, f"<grounding>{body}</grounding>", call)

    def call_opening(self, operation: str) -> str:
        """See `Dialect.call_opening`."""
        if operation != "zoom_in":
            raise inexpressible(OperationCall(name=operation, arguments={}), "zoom_in")
        return '<grounding>{"bbox_2d": ['

    def render_answer(self, answer: str) -> str:
        """See `Dialect.render_answer`."""
        return checked_answer(self, answer, (f"<answer>{answer}</answer>",))

    def check_operations(self, operations: Sequence[Operation]) -> None:
        """See `Dialect.check_operations`."""
        check_only_zoom("mini-o3", operations)

    def tools(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        """See `Dialect.tools`: what may stand in <grounding>, under that name."""
        source = {"type": "string", "description": '"original_image" or "observation_1", "observation_2", ...'}
        required = ("bbox_2d", "source")
        return [zoom_tool("grounding", operation, {"source": source}, required) for operation in operations]

    def system_prompt(self, operations: Sequence[Operation], *, max_turns: int, max_operations: int) -> str:
        """See `Dialect.system_prompt`."""
        parts = [
            "You answer questions about an image. Think inside <think> and </think> first, and write one final answer "
            "inside <answer> and </answer>."
        ]
        if operations:
            parts.append(
                f"Where something is unclear, zoom in by writing <grounding>{_FORM}</grounding>; the region comes with "
                "the next message. (x0, y0) is its upper left and (x1, y1) its lower right corner, in fractions of the "
                'source\'s width and height, from 0 to 1. The source is "original_image" (image 1), or an earlier '
                'result: "observation_1" (image 2), "observation_2" (image 3) and so on.\n'
                f"{limits(max_turns=max_turns, max_operations=max_operations)}"
            )
        return "\n\n".join(parts)

    def render_views(self, views: Sequence[View], call: OperationCall | None = None) -> str:
        """See `Dialect.render_views`. Actions count from 0, observations from 1."""
        # zoom_in shows one view.
        number = views[0].index - 1
        return (
            f"After the above Action {number - 1}, here is the zoom-in image (Observation {number}).\n"
            "Go on inside <think> and </think>. Zoom in on the original image or any observation with <grounding> and "
            "</grounding> if needed, or write the final answer inside <answer> and </answer>."
        )

    def image_place(self, text: str, call: OperationCall) -> int:
        """See `Dialect.image_place`: after the line that announces it."""
        return text.index("\n") + 1

    def render_video(self, views: Sequence[View], *, duration: float) -> str:
        """See `Dialect.render_video`."""
        names = source_name(views[0].index)
        if len(views) > 1:
            names += f" to {source_name(views[-1].index)}"
        return f"{names}: frames of a video of {duration:.2f} s, at {frame_times(views)} s."

    def render_error(self, message: str, *, call_number: int | None = None) -> str:
        """See `Dialect.render_error`."""
        where = "" if call_number is None else f" {call_number}"
        return (
            f"ERROR occurs during grounding{where}. Error Information: {message}\n"
            "Look at the error and change your response. Go on inside <think> and </think>."
        )


def source_name(target_image: int) -> str:
    """Returns what Mini-o3 calls the image of a number from 1."""
    return "original_image" if target_image == 1 else f"observation_{target_image - 1}"


def _target_image(source: object) -> int | None:
    if source == "original_image":
        return 1
    observation = _OBSERVATION.fullmatch(source) if isinstance(source, str) else None
    return int(observation.group(1)) + 1 if observation else None


def _read_block(body: str, is_closed: bool) -> tuple[list[OperationCall | Mistake], int]:
    return read_json_calls(body, _read_grounding, f"expected {_FORM}")


def _read_grounding(value: dict[str, Any]) -> OperationCall | Mistake:
    expected = f"expected {_FORM}"
    if mistake := check_keys(value, ("bbox_2d", "source"), expected):
        return mistake
    for key in ("bbox_2d", "source"):
        if key not in value:
            return Mistake(message=f'the call lacks "{key}"; {expected}. Add it.')
    target_image = _target_image(value["source"])
    if target_image is None:
        return Mistake(
            message=f'the source is {show(value["source"])}; expected "original_image", or "observation_1", '
            '"observation_2" and so on. Give the name of an image that was shown.'
        )
    return OperationCall(name="zoom_in", arguments={"bbox_2d": value["bbox_2d"], "target_image": target_image})


_READ_MARK = tagged_calls("grounding", _read_block)


def mini_o3(frame: Frame) -> Dialect:
    """Builds "mini-o3".

    Raises:
        ValueError: another frame than "unit".
    """
    check_frame("mini-o3", frame, {"unit": "fractions, what Mini-o3 was trained with"})
    return MiniO3()
