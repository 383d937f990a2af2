"""What a dialect is: how a turn is read and written, and how the environment words its replies; the registry; and what
writes calls, answers and tool schemas, never so that they would be read as something else.
"""

from __future__ import annotations

import json
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

from pxr_env.coordinates import Frame
from pxr_env.errors import quote, show
from pxr_env.operations import BOX, Operation, get_operation
from pxr_env.types import OperationCall, Turn
from pxr_env.views import Region, View


def describe_views(views: Sequence[View], call: OperationCall | None) -> str:
    """Returns one line per new view: "Image 2 (84x84).", "Image 17 (448x252): frame 121 at 4.00 s."."""
    return "\n".join(_describe(view, call) for view in views)


def introduce_video(views: Sequence[View], duration: float) -> str:
    """Returns the line before the frames of a video: their images' numbers, its duration and their times."""
    if len(views) == 1:
        who = f"Image {views[0].index} is a frame"
    else:
        who = f"Images {views[0].index} to {views[-1].index} are frames"
    return f"{who} of a video of {duration:.2f} s, at {frame_times(views)} s."


def frame_times(views: Sequence[View]) -> str:
    """Returns the times of frames in seconds: "0.70, 2.20"."""
    return ", ".join(f"{view.time:.2f}" for view in views)


def describe_error(message: str, call_number: int | None) -> str:
    """Returns a mistake of the model, "Error: ..." or "Error in call 2: ..."."""
    return f"Error: {message}" if call_number is None else f"Error in call {call_number}: {message}"


def images_first(text: str, call: OperationCall) -> int:
    """Returns 0: the images of a result come before its text."""
    return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """The replies of the environment, for models that know them in other words. See the methods of `Dialect`: `views`
    words a result, `video` the introduction of a video, `error` a mistake; `place` is where a result has its images.
    """

    views: Callable[[Sequence[View], OperationCall | None], str] = describe_views
    video: Callable[[Sequence[View], float], str] = introduce_video
    error: Callable[[str, int | None], str] = describe_error
    place: Callable[[str, OperationCall], int] = images_first


class Dialect(Protocol):
    """How a turn is read and written. Everything a model says or is told in words goes through its dialect.

    Calls are canonical on the environment's side: names and arguments are those of `pxr_env.operations`, whatever the
    model calls them. What a dialect cannot express is a ValueError.
    """

    @property
    @abstractmethod
    def reminder(self) -> str:
        """The syntax of a call and of an answer in a few words, for messages to the model."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Where generation of a turn may stop; they belong to the turn. Whoever stops there gets one call per turn."""
        return ()

    @property
    def wording(self) -> Wording:
        """The words of the replies."""
        return Wording()

    @abstractmethod
    def parse(self, text: str) -> Turn:
        """Finds calls, answers and mistakes in one message. Never raises; linear in the length of `text`."""

    @abstractmethod
    def render_call(self, call: OperationCall) -> str:
        """Writes a call so that `parse` finds exactly it, floats rounded to 4 decimals."""

    @abstractmethod
    def call_opening(self, operation: str) -> str:
        """Returns how a call of an operation begins, up to the value of its first required argument: to force one."""

    @abstractmethod
    def render_answer(self, answer: str) -> str:
        """Writes a final answer so that `parse` finds exactly it."""

    def write_native(self, name: str, arguments: str) -> str:
        """Writes a call that came apart from the text: the name of one of `tools`, and JSON as the model wrote it.
        What is no JSON is written as it is, and read as a mistake."""
        return tool_call(name, arguments)

    @abstractmethod
    def tools(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        """Returns the tool schemas of the operations under the names the dialect knows, new dicts."""

    @abstractmethod
    def system_prompt(self, operations: Sequence[Operation], *, max_turns: int, max_operations: int) -> str:
        """Returns what the model is told before the first image."""

    def check_operations(self, operations: Sequence[Operation]) -> None:
        """Raises ValueError if the dialect cannot call one of these operations."""
        return

    def render_views(self, views: Sequence[View], call: OperationCall | None = None) -> str:
        """Words the result of a call: what the new images are."""
        return self.wording.views(views, call)

    def image_place(self, text: str, call: OperationCall) -> int:
        """Returns how many characters of a result's text a released model saw before its images; 0 for none."""
        return self.wording.place(text, call)

    def render_video(self, views: Sequence[View], *, duration: float) -> str:
        """Words what introduces the frames of a video of `duration` seconds."""
        return self.wording.video(views, duration)

    def render_error(self, message: str, *, call_number: int | None = None) -> str:
        """Words a mistake of the model; `call_number` counts the calls of a turn from 1 where there are several."""
        return self.wording.error(message, call_number)


def native_prompt(
    dialect: Dialect, frame: Frame, operations: Sequence[Operation], *, max_turns: int, max_operations: int
) -> str:
    """Returns a system prompt for agents that get the operations as native tools: no schemas, no syntax of calls."""
    task = "You answer questions about images. Think first, then write one final answer as "
    parts = [f"{task}{dialect.render_answer('answer')}."]
    if operations:
        parts.append(
            "You may call tools to see more; the resulting images come with their results.\n"
            f"{coordinates(frame, operations)}\n{limits(max_turns, max_operations)}"
        )
    return "\n\n".join(parts)


def check_frame(dialect: str, frame: Frame, known: Mapping[str, str]) -> None:
    """Raises ValueError if a dialect does not know a frame; `known` has those it knows, and what they are there."""
    if frame.name not in known:
        choices = " or ".join(f'"{name}" ({meaning})' for name, meaning in known.items())
        raise ValueError(
            f'got dialect="{dialect}" with coordinates="{frame.name}"; expected coordinates {choices}. '
            'Use dialect="hermes" for other frames.'
        )


def coordinates(frame: Frame, operations: Sequence[Operation]) -> str:
    """Returns the sentences of a prompt about what the numbers of these operations mean."""
    sentences = [frame.description]
    if any("points" in operation.parameters["properties"] for operation in operations):
        sentences.append("Points [x, y] and lines use the same numbers.")
    return " ".join([*sentences, "Images are numbered from 1 in the order shown."])


def limits(max_turns: int, max_operations: int) -> str:
    """Returns the sentence of a prompt about how much may be called."""
    return f"At most {max_operations} operations in {max_turns} messages, and no call in the message with the answer."


def _describe(view: View, call: OperationCall | None) -> str:
    width, height = view.size
    facts = _pair(call) if view.is_comparison else ", ".join(_facts(view.region))
    return f"Image {view.index} ({width}x{height})" + (f": {facts}." if facts else ".")


def _pair(call: OperationCall | None) -> str:
    if call is not None and call.name == "compare":
        arguments = call.arguments
        return f"image {arguments['first_image']} on the left, image {arguments['second_image']} on the right"
    return "two images side by side"


def _facts(region: Region) -> list[str]:
    """What sets a region apart from a plain part of an image."""
    facts = []
    if region.frame is not None:
        facts.append(f"frame {region.frame + 1} at {region.time:.2f} s")
    if not region.quad.is_upright:
        facts.append(_orientation(region))
    for adjustment in region.adjustments:
        factors = ", ".join(f"{name} {factor:g}" for name, factor in adjustment.as_dict().items())
        facts.append(f"enhanced ({factors})")
    if region.marks:
        facts.append("with 1 mark" if len(region.marks) == 1 else f"with {len(region.marks)} marks")
    if region.grid:
        facts.append("under a grid")
    return facts


def _orientation(region: Region) -> str:
    quad = region.quad
    (x, y), (right_x, right_y), (below_x, below_y) = quad.top_left, quad.top_right, quad.bottom_left
    right, down = (right_x - x, right_y - y), (below_x - x, below_y - y)
    if right[0] * down[1] - right[1] * down[0] > 0:
        # What points to the right in the picture points up in a source that was turned clockwise by 90 degrees.
        degrees = math.degrees(math.atan2(-right[1], right[0])) % 360
        return f"turned {round(degrees, 1):g} degrees clockwise"
    if right[1] == 0:
        return "left and right exchanged" if right[0] < 0 else "top and bottom exchanged"
    return "turned and mirrored"


#: Floats in rendered calls have at most this many decimals.
CALL_DECIMALS = 4

_OPENING_TAG = re.compile("<(?=tool_call>|grounding>)")


def rounded(value: Any) -> Any:
    """Returns a JSON value with its floats rounded to `CALL_DECIMALS` and its tuples as lists."""
    if isinstance(value, float):
        # Also the float of numpy, which is a subclass.
        return round(float(value), CALL_DECIMALS)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def same_json(first: object, second: object, *, exact: bool = False) -> bool:
    """Whether two JSON values say the same. 1 is 1.0 unless it has to be `exact`; true is never 1."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(
            same_json(value, second[key], exact=exact) for key, value in first.items()
        )
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(
            same_json(one, other, exact=exact) for one, other in zip(first, second, strict=True)
        )
    kinds_fit = type(first) is type(second) if exact else isinstance(first, bool) == isinstance(second, bool)
    return kinds_fit and first == second


def same_call(first: OperationCall, second: OperationCall) -> bool:
    """Whether two calls ask for the same: 1 is 1.0, and the order of keys does not matter."""
    return first.name == second.name and same_json(first.arguments, second.arguments)


def checked_call(
    parse: Callable[[str], Turn],
    text: str,
    call: OperationCall,
    expected: str = "arguments that can be written so that they are read again",
) -> str:
    """Returns `text`, written for a call; raises ValueError if the dialect does not read exactly this call in it."""
    turn = parse(text)
    match turn.calls:
        case (OperationCall(name=call.name) as read,) if not turn.answers and not turn.mistakes:
            if same_json(read.arguments, rounded(call.arguments), exact=True):
                return text
    raise inexpressible(call, expected)


def checked_answer(parse: Callable[[str], Turn], answer: str, *forms: str) -> str:
    """Returns the first of the texts in which a dialect reads exactly this answer; raises ValueError if none is."""
    for text in forms:
        if parse(text) == Turn(answers=(answer,)):
            return text
    raise ValueError(
        f'got the answer "{quote(answer)}"; expected text without surrounding blanks, closing tags and unbalanced '
        "braces. Such an answer cannot be written in this dialect."
    )


def inexpressible(call: OperationCall, expected: str) -> ValueError:
    return ValueError(
        f'got the call of "{quote(call.name)}" with {show(dict(call.arguments))}; expected {expected}. '
        "Such a call cannot be written in this dialect."
    )


def write_json(value: Mapping[str, Any]) -> str:
    """Returns a part of a call as JSON without closing tags, floats rounded; raises ValueError if it is no JSON."""
    try:
        text = json.dumps(rounded(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"got {show(dict(value))}; expected text, finite numbers, true, false, null, and lists and dicts of them. "
            "Such a call cannot be written in this dialect."
        ) from error
    return inert(text)


def tool_call(name: str, arguments: str) -> str:
    """Returns a <tool_call> with arguments as somebody else wrote them, which should be JSON."""
    named = json.dumps(name, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {inert(named)}, "arguments": {inert(arguments)}}}\n</tool_call>'


def inert(json_text: str) -> str:
    """Returns JSON that says the same, and holds no tags."""
    return _OPENING_TAG.sub(r"\\u003c", json_text.replace("</", "<\\/"))


def zoom_tool(name: str, operation: Operation, extra: Mapping[str, Any], *required: str) -> dict[str, Any]:
    """Returns the tool schema of `zoom_in` under another name, with a box and `extra` instead of its arguments."""
    properties = deepcopy({"bbox_2d": dict(BOX), **extra})
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    function = {"name": name, "description": operation.description, "parameters": parameters}
    return {"type": "function", "function": function}


def tool_list(tools: Sequence[Mapping[str, Any]]) -> str:
    """Returns tool schemas as a prompt lists them, one a line inside <tools>."""
    return "\n".join(["<tools>", *(json.dumps(tool, ensure_ascii=False) for tool in tools), "</tools>"])


@dataclass(frozen=True, kw_only=True, slots=True)
class CallSyntax:
    """How one family of models writes a call."""

    form: str  # with words in place of name and arguments, for the prompt
    reminder: str  # the same on one line, for messages
    write: Callable[[str, Mapping[str, Any]], str]  # of a name with arguments; ValueError if they are no JSON
    end: str  # closes a call after its last argument
    openings: Mapping[str, str]  # JSON type -> how a value of it begins

    def opening(self, operation: str, name: str) -> str:
        """Returns how a call of an operation under that name begins, up to the value of its first required argument.

        Raises:
            ValueError: there is no such operation.
        """
        schema = get_operation(operation).parameters
        required = schema.get("required", ())
        if not required:
            return self.write(name, {}).removesuffix(self.end)
        kind = schema["properties"][required[0]]["type"]
        return self.write(name, {required[0]: 0}).rpartition("0")[0] + self.openings.get(kind, "")


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Returns a <tool_call> of JSON; raises ValueError if the arguments are none."""
    return f"<tool_call>\n{write_json({'name': name, 'arguments': arguments})}\n</tool_call>"


def _write_function(name: str, arguments: Mapping[str, Any]) -> str:
    parameters = "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in _texts(arguments))
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


def _write_pairs(name: str, arguments: Mapping[str, Any]) -> str:
    pairs = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{text}</arg_value>\n" for key, text in _texts(arguments))
    return f"<tool_call>{name}\n{pairs}</tool_call>"


def _texts(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Argument and text: a string as it is, everything else as JSON."""
    return [
        (key, value if isinstance(value, str) else write_json({"": value})[len('{"": ') : -1])
        for key, value in arguments.items()
    ]


_OPENINGS = {"array": "[", "object": "{"}

#: What Qwen2.5-VL and Qwen3-VL write, and most others.
JSON_CALLS = CallSyntax(
    form='<tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>',
    reminder='<tool_call>{"name": ..., "arguments": {...}}</tool_call>',
    write=write_call,
    end="}}\n</tool_call>",
    openings={**_OPENINGS, "string": '"'},
)
#: What Qwen3.5 writes, from its chat template.
FUNCTION_CALLS = CallSyntax(
    form="<tool_call>\n<function=NAME>\n<parameter=ARGUMENT>\nVALUE\n</parameter>\n</function>\n</tool_call>",
    reminder="<tool_call><function=NAME><parameter=ARGUMENT>VALUE</parameter></function></tool_call>",
    write=_write_function,
    end="</function>\n</tool_call>",
    openings=_OPENINGS,
)
#: What GLM-4.5V writes, from its chat template.
PAIR_CALLS = CallSyntax(
    form="<tool_call>NAME\n<arg_key>ARGUMENT</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>",
    reminder="<tool_call>NAME<arg_key>ARGUMENT</arg_key><arg_value>VALUE</arg_value></tool_call>",
    write=_write_pairs,
    end="</tool_call>",
    openings=_OPENINGS,
)
