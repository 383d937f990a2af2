"""What a dialect is: how a turn is read and written, and how the environment words its replies; and the registry."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pxr_env.coordinates import Frame
from pxr_env.errors import choose
from pxr_env.operations import Operation
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


#: Builds a dialect for a coordinate frame. Raises ValueError if it cannot speak of that frame.
DialectFactory = Callable[[Frame], Dialect]
_DIALECTS: dict[str, DialectFactory] = {}


def register_dialect(name: str, factory: DialectFactory) -> None:
    """Adds a dialect under a new name; raises ValueError if it is taken."""
    if name in _DIALECTS:
        raise ValueError(f'got the dialect "{name}" a second time; expected a new name. Choose another one.')
    _DIALECTS[name] = factory


def get_dialect(name: str, frame: Frame) -> Dialect:
    """Builds the dialect of that name for a coordinate frame.

    Raises:
        ValueError: there is no such dialect, or it cannot speak of this frame.
    """
    return choose(_DIALECTS, name, "dialect=", "Choose the one the model was trained with.")(frame)


def dialect_names() -> list[str]:
    return list(_DIALECTS)


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
