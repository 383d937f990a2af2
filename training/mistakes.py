"""Operations that are wrong on purpose: of the right kind, well written, and beside the evidence.

They open error-induced self-corrections (arXiv 2505.15966, section 4): the policy sees that the view shows nothing of
use, and repairs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pxr_env.env import VisualReasoningEnv, shows_evidence
from pxr_env.media import Box, VideoSource
from pxr_env.types import OperationCall

Mistaken = Callable[[VisualReasoningEnv, OperationCall, np.random.Generator], OperationCall]

WITHOUT = "demonstrations without corrections (correction=0)"


class NoMistakeError(ValueError):
    """There is nothing beside the evidence that an operation could show by mistake."""


def wrong_call(env: VisualReasoningEnv, right: OperationCall, rng: np.random.Generator) -> OperationCall:
    """A call of the same operation as `right` that does not show the evidence of the environment's running sample.

    Raises:
        NoMistakeError: nobody has said how this operation goes wrong (`WRONG`), or there is no room to go wrong in.
    """
    if right.name not in WRONG:
        raise NoMistakeError(
            f"No wrong call of {right.name!r} is known; expected one of {', '.join(WRONG)}, or {WITHOUT}"
        )
    return WRONG[right.name](env, right, rng)


def _zoom_elsewhere(env: VisualReasoningEnv, right: OperationCall, rng: np.random.Generator) -> OperationCall:
    """A box of the same size that shares no pixel with the evidence."""
    view = env.views[right.arguments["target_image"] - 1]
    evidence = env.sample.evidence_box
    assert evidence is not None, "an oracle zooms into the evidence box"
    box = wrong_box(env.sample.sources[0].size, evidence, rng)
    numbers = env.frame.from_source(box, view)
    return _changed(right, bbox_2d=numbers)


def _seek_elsewhere(env: VisualReasoningEnv, right: OperationCall, rng: np.random.Generator) -> OperationCall:
    """A span of as many frames, before or after the right one, drawn evenly from the longer side."""
    video = env.sample.sources[right.arguments.get("target_video", 1) - 1]
    assert isinstance(video, VideoSource), "seek is for videos"
    found = video.frames_between(right.arguments["start"], right.arguments["end"])
    before, after = found[0], video.n_frames - 1 - found[-1]
    n_frames = min(len(found), max(before, after))
    if not n_frames:
        raise NoMistakeError(
            f"The evidence of sample {env.sample.sample_id!r} fills its video; expected frames before or after it, or "
            f"{WITHOUT}"
        )
    low = 0 if before >= after else found[-1] + 1
    first = low + int(rng.integers(max(before, after) - n_frames + 1))
    times = [*video.times, video.duration]
    return _changed(right, start=_rounded_down(times[first]), end=_rounded_down(times[first + n_frames]))


def _select_others(env: VisualReasoningEnv, right: OperationCall, rng: np.random.Generator) -> OperationCall:
    """As many other frames of the video, none of which shows the evidence."""
    chosen = right.arguments["target_frames"]
    others = [
        view.index
        for view in env.views
        if view.frame is not None and view.index not in chosen and not shows_evidence(view, env)
    ]
    if not others:
        raise NoMistakeError(
            f"All frames that are shown of sample {env.sample.sample_id!r} show its evidence; expected others, or "
            f"{WITHOUT}"
        )
    picked = rng.choice(others, size=min(len(chosen), len(others)), replace=False)
    return _changed(right, target_frames=sorted(int(number) for number in picked))


def _changed(call: OperationCall, **arguments: Any) -> OperationCall:
    return OperationCall(name=call.name, arguments={**call.arguments, **arguments})


#: Operation -> how a call of it goes wrong.
WRONG: dict[str, Mistaken] = {"zoom_in": _zoom_elsewhere, "seek": _seek_elsewhere, "select_frames": _select_others}


def wrong_box(size: tuple[int, int], box: Box, rng: np.random.Generator) -> Box:
    """A box as large as `box` in an image of `size` (width, height) that shares no pixel with it.

    It is drawn evenly from the side of the box with most room.

    Raises:
        NoMistakeError: there is no room for one beside the box.
    """
    (width, height), (x1, y1, x2, y2) = size, box
    w, h = x2 - x1, y2 - y1
    # Ranges of the upper left corner: left of the box, right of it, above and below.
    ranges = [
        ((0.0, x1 - w), (0.0, height - h)),
        ((x2, width - w), (0.0, height - h)),
        ((0.0, width - w), (0.0, y1 - h)),
        ((0.0, width - w), (y2, height - h)),
    ]
    room = [min(high - low for low, high in ends) for ends in ranges]
    if max(room) < 0:
        raise NoMistakeError(
            f"The evidence box {box} leaves no room for a wrong one of its size in {width}x{height} pixels; expected "
            f"a smaller box, or {WITHOUT}"
        )
    (left, right), (top, bottom) = ranges[int(np.argmax(room))]
    x, y = float(np.floor(rng.uniform(left, right))), float(np.floor(rng.uniform(top, bottom)))
    return (max(x, left), max(y, top), max(x, left) + w, max(y, top) + h)


def _rounded_down(seconds: float) -> float:
    """To the three decimals that are written."""
    return math.floor(seconds * 1000 + 1e-6) / 1000
