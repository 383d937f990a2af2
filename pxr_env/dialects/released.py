"""`mini-o3` and `deepeyes`: the one operation of the released models, zooming, as each of them writes it.

Mini-o3 names its images: the first is "original_image", image i + 1 is "observation_i"; boxes are in fractions::

    <think>The sign is small.</think>
    <grounding>{"bbox_2d": [0.1, 0.2, 0.4, 0.5], "source": "original_image"}</grounding>

DeepEyes knows pixels of the first image as shown; results cannot be zoomed into again, and labels are read over::

    <tool_call>
    {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200], "label": "the sign"}}
    </tool_call>

Both write the final answer as `<answer>...</answer>`. Sources: arXiv 2509.07969 and the code of Mini-o3/Mini-o3
(`verl/trainer/constants.py`); arXiv 2505.14362 and the code of Visual-Agent/DeepEyes
(`verl/workers/agent/envs/mm_process_engine`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pxr_env.coordinates import Frame
from pxr_env.dialects.base import Dialect, Wording, check_frame, frame_times, limits
from pxr_env.dialects.reader import Calls, TurnReader, check_keys, read_calls, read_json_calls, tagged_calls
from pxr_env.dialects.writer import (
    JSON_CALLS,
    checked_answer,
    checked_call,
    inexpressible,
    tool_list,
    write_call,
    write_json,
    zoom_tool,
)
from pxr_env.errors import did_you_mean, quote, show
from pxr_env.operations import Operation
from pxr_env.types import Mistake, OperationCall, Turn
from pxr_env.views import View

_THINK = (
    "You answer questions about an image. Think inside <think> and </think> first, and write one final answer "
    "inside <answer> and </answer>."
)
_ANSWER_FORM = "<answer>answer</answer>"


def _check_only_zoom(dialect: str, names: Sequence[str]) -> None:
    for name in names:
        if name != "zoom_in":
            raise ValueError(
                f'got dialect="{dialect}" with the operation "{name}"; expected only zoom_in, the one operation it '
                'has words for. Leave the others out, or use dialect="hermes" or "tags".'
            )


_FORM = '{"bbox_2d": [x0, y0, x1, y1], "source": "original_image"}'
_GROUNDING_MARKS = re.compile("<think>|</?grounding>|<answer>")
_OBSERVATION = re.compile("observation_([1-9][0-9]{0,8})")


class MiniO3(Dialect):
    """The syntax of Mini-o3. Knows `zoom_in` only, in the unit frame."""

    reminder = f"<grounding>{_FORM}</grounding> or {_ANSWER_FORM}"
    stop_strings = ("</grounding>", "</answer>")

    @property
    def wording(self) -> Wording:
        return Wording(views=_observation, video=_named_frames, error=_grounding_error, place=_after_first_line)

    def parse(self, text: str) -> Turn:
        return TurnReader(text, marks=_GROUNDING_MARKS, read_mark=_READ_GROUNDING, answer_form=_ANSWER_FORM).read()

    def render_call(self, call: OperationCall) -> str:
        arguments = dict(call.arguments)
        number = arguments.pop("target_image", None)
        if call.name != "zoom_in" or set(arguments) != {"bbox_2d"} or not isinstance(number, int):
            raise inexpressible(call, "zoom_in with bbox_2d and target_image")
        body = write_json({**arguments, "source": source_name(number)})
        return checked_call(self.parse, f"<grounding>{body}</grounding>", call)

    def call_opening(self, operation: str) -> str:
        if operation != "zoom_in":
            raise inexpressible(OperationCall(name=operation, arguments={}), "zoom_in")
        return '<grounding>{"bbox_2d": ['

    def render_answer(self, answer: str) -> str:
        return checked_answer(self.parse, answer, f"<answer>{answer}</answer>")

    def check_operations(self, operations: Sequence[Operation]) -> None:
        _check_only_zoom("mini-o3", [operation.name for operation in operations])

    def tools(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        """See `Dialect.tools`: what may stand in <grounding>, under that name."""
        source = {"type": "string", "description": '"original_image" or "observation_1", "observation_2", ...'}
        return [zoom_tool("grounding", operation, {"source": source}, "bbox_2d", "source") for operation in operations]

    def system_prompt(self, operations: Sequence[Operation], *, max_turns: int, max_operations: int) -> str:
        if not operations:
            return _THINK
        return (
            f"{_THINK}\n\n"
            f"Where something is unclear, zoom in by writing <grounding>{_FORM}</grounding>; the region comes with "
            "the next message. (x0, y0) is its upper left and (x1, y1) its lower right corner, in fractions of the "
            'source\'s width and height, from 0 to 1. The source is "original_image" (image 1), or an earlier '
            'result: "observation_1" (image 2), "observation_2" (image 3) and so on.\n'
            f"{limits(max_turns, max_operations)}"
        )


def source_name(target_image: int) -> str:
    """Returns what Mini-o3 calls the image of a number from 1."""
    return "original_image" if target_image == 1 else f"observation_{target_image - 1}"


def _observation(views: Sequence[View], call: OperationCall | None) -> str:
    """Actions count from 0, observations from 1."""
    # zoom_in shows one view.
    number = views[0].index - 1
    return (
        f"After the above Action {number - 1}, here is the zoom-in image (Observation {number}).\n"
        "Go on inside <think> and </think>. Zoom in on the original image or any observation with <grounding> and "
        "</grounding> if needed, or write the final answer inside <answer> and </answer>."
    )


def _after_first_line(text: str, call: OperationCall) -> int:
    return text.index("\n") + 1


def _named_frames(views: Sequence[View], duration: float) -> str:
    names = source_name(views[0].index)
    if len(views) > 1:
        names += f" to {source_name(views[-1].index)}"
    return f"{names}: frames of a video of {duration:.2f} s, at {frame_times(views)} s."


def _grounding_error(message: str, call_number: int | None) -> str:
    where = "" if call_number is None else f" {call_number}"
    return (
        f"ERROR occurs during grounding{where}. Error Information: {message}\n"
        "Look at the error and change your response. Go on inside <think> and </think>."
    )


def _read_groundings(body: str, is_closed: bool) -> tuple[Calls, int]:
    return read_json_calls(body, _grounding, f"expected {_FORM}")


def _grounding(value: dict[str, Any]) -> OperationCall | Mistake:
    expected = f"expected {_FORM}"
    if mistake := check_keys(value, ("bbox_2d", "source"), expected):
        return mistake
    for key in ("bbox_2d", "source"):
        if key not in value:
            return Mistake(message=f'the call lacks "{key}"; {expected}. Add it.')
    source = value["source"]
    observation = _OBSERVATION.fullmatch(source) if isinstance(source, str) else None
    if observation is None and source != "original_image":
        return Mistake(
            message=f'the source is {show(source)}; expected "original_image", or "observation_1", '
            '"observation_2" and so on. Give the name of an image that was shown.'
        )
    target_image = int(observation.group(1)) + 1 if observation else 1
    return OperationCall(name="zoom_in", arguments={"bbox_2d": value["bbox_2d"], "target_image": target_image})


_READ_GROUNDING = tagged_calls("grounding", _read_groundings)


def mini_o3(frame: Frame) -> Dialect:
    """Builds "mini-o3"."""
    check_frame("mini-o3", frame, {"unit": "fractions, what Mini-o3 was trained with"})
    return MiniO3()


#: What DeepEyes calls `zoom_in`.
TOOL = "image_zoom_in_tool"
_TOOL_MARKS = re.compile("<think>|</?tool_call>|<answer>")
_TOOL_ARGUMENTS = ("bbox_2d", "label")
_RESPONSE = "<tool_response>\n"


class DeepEyes(Dialect):
    """The syntax of DeepEyes. Knows `zoom_in` of image 1 only, in the pixel frame. Labels are read over."""

    reminder = (
        f'<tool_call>{{"name": "{TOOL}", "arguments": {{"bbox_2d": [x1, y1, x2, y2]}}}}</tool_call> or {_ANSWER_FORM}'
    )
    stop_strings = ("</tool_call>", "</answer>")

    @property
    def wording(self) -> Wording:
        return Wording(views=_tool_response, place=_inside_response)

    def parse(self, text: str) -> Turn:
        return TurnReader(text, marks=_TOOL_MARKS, read_mark=_READ_TOOL_CALL, answer_form=_ANSWER_FORM).read()

    def render_call(self, call: OperationCall) -> str:
        """See `Dialect.render_call`. Written without a label."""
        arguments = dict(call.arguments)
        if call.name != "zoom_in" or set(arguments) != {"bbox_2d", "target_image"} or arguments["target_image"] != 1:
            raise inexpressible(call, "zoom_in with bbox_2d and target_image=1")
        return checked_call(self.parse, write_call(TOOL, {"bbox_2d": arguments["bbox_2d"]}), call)

    def call_opening(self, operation: str) -> str:
        if operation != "zoom_in":
            raise inexpressible(OperationCall(name=operation, arguments={}), "zoom_in")
        return JSON_CALLS.opening(TOOL, ("bbox_2d", "array"))

    def render_answer(self, answer: str) -> str:
        return checked_answer(self.parse, answer, f"<answer>{answer}</answer>")

    def check_operations(self, operations: Sequence[Operation]) -> None:
        _check_only_zoom("deepeyes", [operation.name for operation in operations])

    def tools(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        label = {"type": "string", "description": "What is in the box; may be left out."}
        return [zoom_tool(TOOL, operation, {"label": label}, "bbox_2d") for operation in operations]

    def system_prompt(self, operations: Sequence[Operation], *, max_turns: int, max_operations: int) -> str:
        if not operations:
            return _THINK
        return (
            f"{_THINK}\n\n"
            "You may call a tool to see more; the resulting image comes with the next message.\n"
            f"{tool_list(self.tools(operations))}\n"
            f"A call: {write_call(TOOL, {'bbox_2d': [10, 20, 100, 200], 'label': 'the sign'})}\n"
            "Boxes are [x1, y1, x2, y2] in pixels of the first image as shown, whatever was shown since.\n"
            f"{limits(max_turns, max_operations)}"
        )


def _tool_response(views: Sequence[View], call: OperationCall | None) -> str:
    return (
        f"{_RESPONSE}Think first, call {TOOL} again if needed, then answer: <think>...</think>, then "
        "<tool_call>...</tool_call> or <answer>...</answer>.\n</tool_response>"
    )


def _inside_response(text: str, call: OperationCall) -> int:
    return len(_RESPONSE)


def _read_tool_calls(body: str, is_closed: bool) -> tuple[Calls, int]:
    calls, n_read = read_calls(body, is_closed)
    return [_tool_zoom(call) for call in calls], n_read


def _tool_zoom(call: OperationCall | Mistake) -> OperationCall | Mistake:
    if isinstance(call, Mistake) or call.name != TOOL:
        return call
    for key in call.arguments:
        if key not in _TOOL_ARGUMENTS:
            return Mistake(
                message=f'the arguments have "{quote(key)}"; expected only bbox_2d and label.'
                f"{did_you_mean(key, _TOOL_ARGUMENTS)} Boxes always refer to the first image."
            )
    box = {key: value for key, value in call.arguments.items() if key == "bbox_2d"}
    return OperationCall(name="zoom_in", arguments={**box, "target_image": 1})


_READ_TOOL_CALL = tagged_calls("tool_call", _read_tool_calls)


def deepeyes(frame: Frame) -> Dialect:
    """Builds "deepeyes"."""
    check_frame("deepeyes", frame, {"pixel": "pixels of the shown image, what DeepEyes was trained with"})
    return DeepEyes()
