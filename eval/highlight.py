"""Cuts a turn into the parts that a reader wants to tell apart. For display only: scoring is the environment's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SegmentKind = Literal["text", "call", "answer", "thought"]

_BRACKETS: tuple[tuple[str, str, SegmentKind], ...] = (
    ("<tool_call>", "</tool_call>", "call"),
    ("<grounding>", "</grounding>", "call"),
    ("<answer>", "</answer>", "answer"),
    ("<think>", "</think>", "thought"),
)
_BOXED = "\\boxed{"


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A part of a turn; the texts of all segments add up to the (shortened) turn."""

    kind: SegmentKind
    text: str


def split_turn(turn: str, limit: int = 4000) -> list[Segment]:
    """Cut a turn into prose, operation calls, answers and thoughts; looks at no more than `limit` characters.

    Args:
        turn: the model's message.
        limit: longer turns are shortened to this many characters, with a note that says by how much.
    """
    shown = turn[:limit]
    segments: list[Segment] = []
    position = 0
    while position < len(shown):
        start, end, kind = _next_special(shown, position)
        if start > position:
            segments.append(Segment(kind="text", text=shown[position:start]))
        if end > start:
            segments.append(Segment(kind=kind, text=shown[start:end]))
        position = end
    if len(turn) > limit:
        segments.append(Segment(kind="text", text=f" … {len(turn) - limit:,} more characters"))
    return segments


def _next_special(text: str, position: int) -> tuple[int, int, SegmentKind]:
    """Start, end and kind of the next call, answer or thought; an empty one at the end of the text if none follows."""
    found: list[tuple[int, int, SegmentKind]] = []
    for opening, closing, kind in _BRACKETS:
        start = text.find(opening, position)
        if start >= 0:
            end = text.find(closing, start)
            found.append((start, len(text) if end < 0 else end + len(closing), kind))
    start = text.find(_BOXED, position)
    if start >= 0:
        found.append((start, _closing_brace(text, start + len(_BOXED)), "answer"))
    return min(found, default=(len(text), len(text), "text"))


def _closing_brace(text: str, position: int) -> int:
    depth = 1
    for index in range(position, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index + 1
    return len(text)
