"""The sentences of the environment's replies and of its prompts that most dialects share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pxr_env.coordinates import Frame
from pxr_env.operations import Operation
from pxr_env.types import OperationCall
from pxr_env.views import Region, View


def describe_views(views: Sequence[View], call: OperationCall | None) -> str:
    """Returns one line per new view: "Image 2 (84x84).", "Image 17 (448x252): frame 121 at 4.00 s."."""
    return "\n".join(_describe(view, call) for view in views)


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
    (x, y), (right_x, right_y), (below_x, below_y) = (
        region.quad.top_left,
        region.quad.top_right,
        region.quad.bottom_left,
    )
    right, down = (right_x - x, right_y - y), (below_x - x, below_y - y)
    if right[0] * down[1] - right[1] * down[0] > 0:
        # What points to the right in the picture points up in a source that was turned clockwise by 90 degrees.
        degrees = math.degrees(math.atan2(-right[1], right[0])) % 360
        return f"turned {round(degrees, 1):g} degrees clockwise"
    if right[1] == 0:
        return "left and right exchanged" if right[0] < 0 else "top and bottom exchanged"
    return "turned and mirrored"


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


def images_first(text: str, call: OperationCall) -> int:
    """Returns 0: the images of a result come before its text."""
    return 0


def describe_error(message: str, call_number: int | None) -> str:
    """Returns a mistake of the model, "Error: ..." or "Error in call 2: ..."."""
    return f"Error: {message}" if call_number is None else f"Error in call {call_number}: {message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """The replies of the environment, for models that know them in other words.

    Args:
        views: words a result, see `Dialect.render_views`.
        video: words the introduction of a video, see `Dialect.render_video`.
        error: words a mistake, see `Dialect.render_error`.
        place: where a result has its images, see `Dialect.image_place`.
    """

    views: Callable[[Sequence[View], OperationCall | None], str] = describe_views
    video: Callable[[Sequence[View], float], str] = introduce_video
    error: Callable[[str, int | None], str] = describe_error
    place: Callable[[str, OperationCall], int] = images_first


def coordinates(frame: Frame, operations: Sequence[Operation]) -> str:
    """Returns the sentences of a prompt about what the numbers of these operations mean."""
    sentences = [frame.description]
    if any("points" in operation.parameters["properties"] for operation in operations):
        sentences.append("Points [x, y] and lines use the same numbers.")
    return " ".join([*sentences, "Images are numbered from 1 in the order shown."])


def limits(*, max_turns: int, max_operations: int) -> str:
    """Returns the sentence of a prompt about how much may be called."""
    return f"At most {max_operations} operations in {max_turns} messages, and no call in the message with the answer."
