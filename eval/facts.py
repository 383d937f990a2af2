"""What a list shows of an episode, and the filters that an episode passes: the same in the report and in the viewer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.records import RunRecord
from pxr_agents.statistics import used
from pxr_agents.types import Episode, Step

#: Tags of an episode and what their filter says.
FILTERS = {
    "wrong": "wrong",
    "correct": "correct",
    "used": "used an operation",
    "unused": "used none",
    "failed": "had a failure",
    "needless": "needless",
    "missing": "missing",
    "truncated": "truncated",
    "cut": "cut off",
    "unscored": "not scored",
}
#: The ones that are offered even where no episode passes them.
ALWAYS = ("wrong", "correct", "used", "unused", "failed")

#: Most characters of an id, a question and an answer in a list.
ID_LIMIT, QUESTION_LIMIT, ANSWER_LIMIT = 200, 240, 80

#: What dialects write above the question about a video: its frames and their times.
_VIDEO_LINES = re.compile(r"^[^\n]{1,1000} of a video of [0-9.]+ s, at [0-9., ]+ s\.\n", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """One row of a list.

    Args:
        sample_id, repeat: which episode it is; the id is shortened to `ID_LIMIT` characters.
        category, question, answer, target: as in the episode, shortened.
        outcome: "correct", "wrong", "truncated" or "error".
        score: of the answer, from 0 to 1; None if it has none.
        reward: sum over the turns.
        usage, failures: by name; names that count nothing are left out.
        tags: the filters that the episode passes.
        sample_sha256: as in the record.
    """

    sample_id: str
    repeat: int
    category: str | None
    question: str
    answer: str | None
    target: str | None
    outcome: str
    score: float | None
    reward: float
    usage: Mapping[str, int]
    failures: Mapping[str, int]
    tags: tuple[str, ...]
    sample_sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What a list is filtered by; every condition has to hold.

    Args:
        tags: keys of `FILTERS`.
        operation: the name of an operation that was executed.
        category: as in the episode.
        text: stands in the id, category, question, answer or target, in capitals or not.
    """

    tags: tuple[str, ...] = ()
    operation: str | None = None
    category: str | None = None
    text: str = ""

    def matches(self, facts: Facts) -> bool:
        """Whether an episode passes."""
        if not all(tag in facts.tags for tag in self.tags):
            return False
        if self.operation is not None and not facts.usage.get(self.operation):
            return False
        if self.category is not None and facts.category != self.category:
            return False
        return not self.text or self.text.casefold() in search_text(facts)


def facts_of(record: RunRecord) -> Facts:
    """The row of an episode."""
    episode = record.episode
    return Facts(
        sample_id=episode.sample_id[:ID_LIMIT],
        repeat=record.repeat,
        category=_shorten(episode.category, ID_LIMIT),
        question=" ".join(_VIDEO_LINES.sub("", episode.prompt[:4000]).split())[:QUESTION_LIMIT],
        answer=_shorten(episode.answer, ANSWER_LIMIT),
        target=_shorten(episode.target, ANSWER_LIMIT),
        outcome=outcome(episode),
        score=record.score,
        reward=episode.reward,
        usage={name: count for name, count in episode.usage.items() if count},
        failures={name: count for name, count in episode.failures.items() if count},
        tags=tags(episode),
        sample_sha256=record.sample_sha256,
    )


def offered_filters(facts: Sequence[Facts]) -> dict[str, str]:
    """The filters that say something about these episodes."""
    present = {tag for each in facts for tag in each.tags}
    return {tag: text for tag, text in FILTERS.items() if tag in present or tag in ALWAYS}


def outcome(episode: Episode) -> str:
    """One word for an episode's badge."""
    if episode.error is not None:
        return "error"
    if episode.truncated_by is not None:
        return "truncated"
    return "correct" if episode.correct else "wrong"


def tags(episode: Episode) -> tuple[str, ...]:
    """The filters that `episode` passes, in the order of `FILTERS`. One without a score is neither right nor wrong."""
    scored = episode.error is None
    holds = {
        "wrong": scored and not episode.correct,
        "correct": scored and episode.correct,
        "used": used(episode),
        "unused": not used(episode),
        "failed": any(episode.failures.values()),
        "needless": scored and episode.needs_operation is False and used(episode),
        "missing": scored and episode.needs_operation is True and not used(episode),
        "truncated": episode.truncated_by is not None,
        "cut": any(is_cut(step) for step in episode.steps),
        "unscored": not scored,
    }
    return tuple(tag for tag in FILTERS if holds[tag])


def is_cut(step: Step) -> bool:
    """Whether the limit of tokens cut a turn, so that what looks malformed is only unfinished."""
    return step.finish_reason == "length"


def search_text(facts: Facts) -> str:
    """What a search for text looks into."""
    parts = (facts.sample_id, facts.category, facts.question, facts.answer, facts.target)
    return "\n".join(part for part in parts if part).casefold()


def _shorten(text: str | None, limit: int) -> str | None:
    return None if text is None else text[:limit]


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
