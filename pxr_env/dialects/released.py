r"""Hermes, the syntax of Qwen's tool calls, with its relatives, and the models that can only zoom.

`hermes` has the final answer as `\boxed{...}` or `<answer>...</answer>`, and calls as::

    I look at the sign. <tool_call>
    {"name": "zoom_in", "arguments": {"bbox_2d": [0.1, 0.2, 0.4, 0.5], "target_image": 1}}
    </tool_call>

`pixel-reasoner` has the names and the replies that the released Pixel-Reasoner checkpoints know. Source: arXiv
2505.15966 and the code of TIGER-AI-Lab/Pixel-Reasoner: `crop_image_normalized` in fractions, the older `crop_image` in
pixels, the newer `zoom_in` in fractions, `select_frames` with `target_frames`. Their code pads crops by 0.1 of each
side (here `zoom_padding=0.1` of the environment) and guesses the frame of a box (here it is declared).

`mini-o3` names its images: the first is "original_image", image i + 1 is "observation_i"; boxes are in fractions.
`deepeyes` knows pixels of the first image as shown; results cannot be zoomed into again, and labels are read over.
Sources: arXiv 2509.07969 and the code of Mini-o3/Mini-o3 (`verl/trainer/constants.py`); arXiv 2505.14362 and the code
of Visual-Agent/DeepEyes (`verl/workers/agent/envs/mm_process_engine`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pxr_env.coordinates import Frame
from pxr_env.dialects.base import (
    FUNCTION_CALLS,
    JSON_CALLS,
    PAIR_CALLS,
    CallSyntax,
    Dialect,
    Wording,
    check_frame,
    checked_answer,
    checked_call,
    coordinates,
    describe_error,
    describe_views,
    frame_times,
    inert,
    inexpressible,
    limits,
    tool_call,
    tool_list,
    write_call,
    write_json,
    zoom_tool,
)
from pxr_env.dialects.reader import (
    BEGIN_OF_BOX,
    BOXED,
    END_OF_BOX,
    Calls,
    ReadBlock,
    TurnReader,
    check_keys,
    read_calls,
    read_json_calls,
    tagged_calls,
)
from pxr_env.errors import did_you_mean, quote, show
from pxr_env.operations import Operation
from pxr_env.types import Mistake, OperationCall, Turn
from pxr_env.views import View

_MARKS = re.compile(rf"<think>|</?tool_call>|<answer>|{re.escape(BEGIN_OF_BOX)}|{BOXED}")
_RESPONSE = "<tool_response>\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hermes(Dialect):
    """Qwen's tool-call syntax. Every form of call and answer is read, whichever is written."""

    frame: Frame  # stated in the system prompt
    #: Operation -> the name it is advertised and called by; its own name is understood too.
    released_names: Mapping[str, str] = field(default_factory=dict)
    wording: Wording = field(default_factory=Wording)
    syntax: CallSyntax = JSON_CALLS
    answer_form: str = "\\boxed{answer}"  # how the answer "answer" is written

    @property
    def reminder(self) -> str:
        return f"{self.syntax.reminder} or {self.answer_form}"

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return ("</tool_call>", "</answer>", *([END_OF_BOX] if END_OF_BOX in self.answer_form else []))

    def parse(self, text: str) -> Turn:
        read_mark = tagged_calls("tool_call", read_calls)
        turn = TurnReader(text, marks=_MARKS, read_mark=read_mark, answer_form=self.answer_form).read()
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
        return self.syntax.opening(operation, self.released_names.get(operation, operation))

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
    return Hermes(frame=frame)


def qwen3_vl(frame: Frame) -> Dialect:
    check_frame("qwen3-vl", frame, {"permille": "integers from 0 to 1000, what Qwen3-VL was trained with"})
    return Hermes(frame=frame)


def qwen3_5(frame: Frame) -> Dialect:
    """Calls as tags, replies inside <tool_response>, which keeps Qwen3.5's earlier thoughts."""
    check_frame("qwen3.5", frame, {"permille": "integers from 0 to 1000, what Qwen3.5 was trained with"})
    wording = Wording(views=_view_response, error=_error_response, place=_inside_response)
    return Hermes(frame=frame, syntax=FUNCTION_CALLS, wording=wording)


def _view_response(views: Sequence[View], call: OperationCall | None) -> str:
    return f"{_RESPONSE}{describe_views(views, call)}\n</tool_response>"


def _error_response(message: str, call_number: int | None) -> str:
    return f"{_RESPONSE}{describe_error(message, call_number)}\n</tool_response>"


def _inside_response(text: str, call: OperationCall) -> int:
    return len(_RESPONSE)


def glm_4_5v(frame: Frame) -> Dialect:
    """Calls as pairs of argument and value, answers in GLM's box."""
    check_frame("glm-4.5v", frame, {"permille": "integers from 0 to 1000, what GLM-4.5V was trained with"})
    return Hermes(frame=frame, syntax=PAIR_CALLS, answer_form=f"{BEGIN_OF_BOX}answer{END_OF_BOX}")


def pixel_reasoner(frame: Frame, *, zoom_name: str | None = None) -> Dialect:
    """`zoom_name` is what `zoom_in` is advertised as; by default the name of most released checkpoints."""
    released = {"unit": "crop_image_normalized", "pixel": "crop_image"}
    check_frame("pixel-reasoner", frame, released)
    names = {"zoom_in": zoom_name or released[frame.name]}
    wording = Wording(views=_crop_result, error=_execution_error, place=_crop_place)
    return Hermes(frame=frame, released_names=names, wording=wording)


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


_THINK = (
    "You answer questions about an image. Think inside <think> and </think> first, and write one final answer "
    "inside <answer> and </answer>."
)
_ANSWER_FORM = "<answer>answer</answer>"


@dataclass(frozen=True, kw_only=True, slots=True)
class ZoomDialect(Dialect):
    """The syntax of a model that can only zoom, with answers in <answer>."""

    name: str
    tag: str  # around a call
    form: str  # of a call, for messages
    read: ReadBlock  # calls inside the tag
    write: Callable[[Any, int], str]  # the call of a box and the number of its image
    tool: tuple[str, Mapping[str, Any], tuple[str, ...]]  # name, further and required arguments of the tool schema
    explanation: str  # how to call, for the prompt; {tools} are the tool schemas
    wording: Wording

    @property
    def reminder(self) -> str:
        return f"<{self.tag}>{self.form}</{self.tag}> or {_ANSWER_FORM}"

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (f"</{self.tag}>", "</answer>")

    def parse(self, text: str) -> Turn:
        marks = re.compile(f"<think>|</?{self.tag}>|<answer>")
        read_mark = tagged_calls(self.tag, self.read)
        return TurnReader(text, marks=marks, read_mark=read_mark, answer_form=_ANSWER_FORM).read()

    def render_call(self, call: OperationCall) -> str:
        expected = "zoom_in with a bbox_2d and the target_image of an image that it can zoom into"
        match call:
            case OperationCall(name="zoom_in", arguments={"bbox_2d": box, "target_image": int(image), **rest}) if (
                not rest
            ):
                return checked_call(self.parse, self.write(box, image), call, expected)
        raise inexpressible(call, expected)

    def write_native(self, name: str, arguments: str) -> str:
        """See `Dialect.write_native`. Mini-o3 has one tool, and does not write its name."""
        if self.tag == "tool_call":
            return tool_call(name, arguments)
        return f"<{self.tag}>{inert(arguments)}</{self.tag}>"

    def call_opening(self, operation: str) -> str:
        if operation != "zoom_in":
            raise inexpressible(OperationCall(name=operation, arguments={}), "zoom_in")
        return self.write([0], 1).partition("0]")[0]

    def render_answer(self, answer: str) -> str:
        return checked_answer(self.parse, answer, f"<answer>{answer}</answer>")

    def check_operations(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            if operation.name != "zoom_in":
                raise ValueError(
                    f'got dialect="{self.name}" with the operation "{operation.name}"; expected only zoom_in, the one '
                    'operation it has words for. Leave the others out, or use dialect="hermes" or "tags".'
                )

    def tools(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        name, further, required = self.tool
        return [zoom_tool(name, operation, further, *required) for operation in operations]

    def system_prompt(self, operations: Sequence[Operation], *, max_turns: int, max_operations: int) -> str:
        if not operations:
            return _THINK
        explanation = self.explanation.replace("{tools}", tool_list(self.tools(operations)))
        return f"{_THINK}\n\n{explanation}\n{limits(max_turns, max_operations)}"


_GROUNDING = '{"bbox_2d": [x0, y0, x1, y1], "source": "original_image"}'
_SOURCES = '"original_image" or "observation_1", "observation_2", ...'
_OBSERVATION = re.compile("observation_([1-9][0-9]{0,8})")


def mini_o3(frame: Frame) -> Dialect:
    check_frame("mini-o3", frame, {"unit": "fractions, what Mini-o3 was trained with"})
    return ZoomDialect(
        name="mini-o3",
        tag="grounding",
        form=_GROUNDING,
        read=_read_groundings,
        write=_write_grounding,
        tool=("grounding", {"source": {"type": "string", "description": _SOURCES}}, ("bbox_2d", "source")),
        explanation=(
            f"Where something is unclear, zoom in by writing <grounding>{_GROUNDING}</grounding>; the region comes "
            "with the next message. (x0, y0) is its upper left and (x1, y1) its lower right corner, in fractions of "
            'the source\'s width and height, from 0 to 1. The source is "original_image" (image 1), or an earlier '
            'result: "observation_1" (image 2), "observation_2" (image 3) and so on.'
        ),
        wording=Wording(views=_observation, video=_named_frames, error=_grounding_error, place=_after_first_line),
    )


def source_name(target_image: int) -> str:
    """Returns what Mini-o3 calls the image of a number from 1."""
    return "original_image" if target_image == 1 else f"observation_{target_image - 1}"


def _write_grounding(box: Any, target_image: int) -> str:
    return f"<grounding>{write_json({'bbox_2d': box, 'source': source_name(target_image)})}</grounding>"


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
    return read_json_calls(body, _grounding, f"expected {_GROUNDING}")


def _grounding(value: dict[str, Any]) -> OperationCall | Mistake:
    expected = f"expected {_GROUNDING}"
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


#: What DeepEyes calls `zoom_in`, and its arguments.
_TOOL, _TOOL_ARGUMENTS = "image_zoom_in_tool", ("bbox_2d", "label")
_LABEL = "What is in the box; may be left out."


def deepeyes(frame: Frame) -> Dialect:
    check_frame("deepeyes", frame, {"pixel": "pixels of the shown image, what DeepEyes was trained with"})
    return ZoomDialect(
        name="deepeyes",
        tag="tool_call",
        form=f'{{"name": "{_TOOL}", "arguments": {{"bbox_2d": [x1, y1, x2, y2]}}}}',
        read=_read_tool_calls,
        write=_write_tool_call,
        tool=(_TOOL, {"label": {"type": "string", "description": _LABEL}}, ("bbox_2d",)),
        explanation=(
            "You may call a tool to see more; the resulting image comes with the next message.\n{tools}\n"
            f"A call: {write_call(_TOOL, {'bbox_2d': [10, 20, 100, 200], 'label': 'the sign'})}\n"
            "Boxes are [x1, y1, x2, y2] in pixels of the first image as shown, whatever was shown since."
        ),
        wording=Wording(views=_tool_response, place=_inside_response),
    )


def _write_tool_call(box: Any, target_image: int) -> str:
    return write_call(_TOOL, {"bbox_2d": box})


def _tool_response(views: Sequence[View], call: OperationCall | None) -> str:
    return (
        f"{_RESPONSE}Think first, call {_TOOL} again if needed, then answer: <think>...</think>, then "
        "<tool_call>...</tool_call> or <answer>...</answer>.\n</tool_response>"
    )


def _read_tool_calls(body: str, is_closed: bool) -> tuple[Calls, int]:
    calls, n_read = read_calls(body, is_closed)
    return [_tool_zoom(call) for call in calls], n_read


def _tool_zoom(call: OperationCall | Mistake) -> OperationCall | Mistake:
    if isinstance(call, Mistake) or call.name != _TOOL:
        return call
    for key in call.arguments:
        if key not in _TOOL_ARGUMENTS:
            return Mistake(
                message=f'the arguments have "{quote(key)}"; expected only bbox_2d and label.'
                f"{did_you_mean(key, _TOOL_ARGUMENTS)} Boxes always refer to the first image."
            )
    box = {key: value for key, value in call.arguments.items() if key == "bbox_2d"}
    return OperationCall(name="zoom_in", arguments={**box, "target_image": 1})
