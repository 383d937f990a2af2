"""What a list shows of an episode, and the filters that an episode passes: the same in the report and in the viewer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pxr_agents.statistics import used
from pxr_agents.types import Episode, Step
from .records import RunRecord

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
    """One row of a list: an episode with its texts shortened.

    Args:
        outcome: "correct", "wrong", "truncated" or "error".
        reward: sum over the turns.
        usage, failures: by name; names that count nothing are left out.
        tags: the filters that the episode passes.
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
        text: stands in the id, category, question, answer or target, in capitals or not.
    """

    tags: tuple[str, ...] = ()
    operation: str | None = None
    category: str | None = None
    text: str = ""

    def matches(self, facts: Facts) -> bool:
        """Whether an episode passes."""
        parts = (facts.sample_id, facts.category, facts.question, facts.answer, facts.target)
        return (
            set(self.tags) <= set(facts.tags)
            and (self.operation is None or self.operation in facts.usage)
            and self.category in (None, facts.category)
            and self.text.casefold() in "\n".join(part for part in parts if part).casefold()
        )


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


def _shorten(text: str | None, limit: int) -> str | None:
    return None if text is None else text[:limit]


SegmentKind = Literal["text", "call", "answer", "thought"]

#: A call, an answer or thoughts up to their end, or that of the turn; of a box only the beginning, for its braces.
_SPECIAL = re.compile(r"<(tool_call|grounding|answer|think)>.*?(?:</\1>|\Z)|\\boxed\{", re.DOTALL)
_KINDS: Mapping[str | None, SegmentKind] = {
    "tool_call": "call", "grounding": "call", "answer": "answer", "think": "thought", None: "answer",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a turn; the texts of all segments add up to the (shortened) turn."""

    kind: SegmentKind
    text: str


def split_turn(turn: str, limit: int = 4000) -> list[Segment]:
    """Cut a turn into prose, operation calls, answers and thoughts.

    Args:
        limit: longer turns are shortened to this many characters, with a note that says by how much.
    """
    shown, position = turn[:limit], 0
    segments: list[Segment] = []
    while found := _SPECIAL.search(shown, position):
        end = found.end() if found[1] else _closing_brace(shown, found.end())
        segments += [
            Segment("text", shown[position : found.start()]),
            Segment(_KINDS[found[1]], shown[found.start() : end]),
        ]
        position = end
    segments.append(Segment("text", shown[position:]))
    if len(turn) > limit:
        segments.append(Segment("text", f" … {len(turn) - limit:,} more characters"))
    return [segment for segment in segments if segment.text]


def _closing_brace(text: str, position: int) -> int:
    depth = 1
    for index in range(position, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index + 1
    return len(text)
