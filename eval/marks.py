"""Where boxes and their numbers are drawn on a source. Nothing here knows HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pxr_agents.types import Episode

#: How many colours turns have; the next turn begins with the first again.
COLOURS = 6
#: Height of a number's badge as a share of the picture's longer side, and its width for every character.
_BADGE_HEIGHT, _BADGE_WIDTH = 0.052, 0.034


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A box drawn on a source, all in source pixels.

    Args:
        x, y, width, height: of the box.
        points: its corners where it is turned, as the `points` of an SVG polygon; None for an upright one.
        kind: "view" or "evidence".
        label: the number of the view, "" for the evidence.
        turn: which turn asked for it, 0 for the question.
        badge: x, y, width, height of the label's background.
    """

    x: float
    y: float
    width: float
    height: float
    points: str | None
    kind: str
    label: str
    turn: int
    badge: tuple[float, float, float, float]

    @property
    def colour(self) -> int:
        """The number of the turn's colour, from 1."""
        return (self.turn - 1) % COLOURS + 1


def arrange(
    episode: Episode, source: int, frame: int | None, size: tuple[float, float], time: float | None = None
) -> tuple[Mark, ...]:
    """The boxes of all views of one source in their order, then the evidence.

    Views of the whole source get no box, it would only frame the picture. Badges stand in the upper left corner of
    their box, and to the right of a badge that stands there already.

    Args:
        episode: whose views.
        source: its number, from 1.
        frame: of a video; None for an image.
        size: of the source in pixels.
        time: of the frame, where the video is there; else what the views say of it.
    """
    marks: list[Mark] = []
    for view in episode.views:
        for part in view.get("panels", [view]):
            box = tuple(part["box"])
            if part["source"] == source and part.get("frame") == frame and box != (0, 0, *size):
                badge = _free_place(str(view["index"]), box, size, [mark.badge for mark in marks])
                marks.append(_mark(part, "view", str(view["index"]), view["turn"], badge))
    if source == 1 and episode.evidence_box is not None and _in_time(episode, frame, time):
        marks.append(_mark({"box": episode.evidence_box}, "evidence", "", 0, (0.0, 0.0, 0.0, 0.0)))
    return tuple(marks)


def evidence_frame(times: Sequence[float], evidence_time: tuple[float, float]) -> int:
    """The frame of a video, by its times, that is nearest to the middle of the evidence."""
    middle = sum(evidence_time) / 2
    return min(range(len(times)), key=lambda index: abs(times[index] - middle))


def _in_time(episode: Episode, frame: int | None, time: float | None) -> bool:
    """Whether a frame shows the evidence, as far as that is known."""
    if frame is None or episode.evidence_time is None:
        return True
    start, end = episode.evidence_time
    if time is not None:
        return start <= time < end
    parts = [part for view in episode.views for part in view.get("panels", [view])]
    return any(part.get("frame") == frame and start <= part.get("time", start) < end for part in parts)


def _mark(part: Mapping[str, Any], kind: str, label: str, turn: int, badge: tuple[float, float, float, float]) -> Mark:
    x1, y1, x2, y2 = part["box"]
    corners = part.get("corners")
    return Mark(
        x=x1,
        y=y1,
        width=x2 - x1,
        height=y2 - y1,
        points=None if corners is None else " ".join(f"{x:g},{y:g}" for x, y in corners),
        kind=kind,
        label=label,
        turn=turn,
        badge=badge,
    )


def _free_place(
    label: str,
    box: Sequence[float],
    size: tuple[float, float],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
    """The upper left corner of `box`, or above it where it is small; past badges that are there, inside the picture."""
    side = max(size)
    height, width = _BADGE_HEIGHT * side, (_BADGE_WIDTH * len(label) + 0.012) * side
    top = box[1]
    if box[3] - box[1] < 2 * height or box[2] - box[0] < 2 * width:
        # What is looked at must not be covered.
        top = box[1] - height if box[1] >= height else box[3]
    x, y = max(0.0, min(box[0], size[0] - width)), max(0.0, min(top, size[1] - height))
    for left, top, across, down in sorted(taken):
        if left < x + width and x < left + across and top < y + height and y < top + down:
            x = left + across
    if x + width > size[0]:
        x = max(0.0, min(box[0], size[0] - width))
    return round(x, 2), round(y, 2), round(width, 2), round(height, 2)
