"""What a list says of an episode, and which episodes a filter lets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.facts import FILTERS, Facts, Selection, facts_of, outcome, split_turn, tags
from eval.records import RunRecord
from pxr_agents.types import Episode, Step


def episode(**changes: object) -> Episode:
    return Episode(**({"task": "t", "sample_id": "s", "prompt": "How many?"} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "expected", "word"),
    [
        ({"correct": True}, {"correct", "unused"}, "correct"),
        ({"correct": False, "usage": {"zoom_in": 0}}, {"wrong", "unused"}, "wrong"),
        ({"usage": {"zoom_in": 2}, "needs_operation": False}, {"wrong", "used", "needless"}, "wrong"),
        ({"usage": {"zoom_in": 2}, "needs_operation": True}, {"wrong", "used"}, "wrong"),
        ({"correct": True, "needs_operation": True}, {"correct", "unused", "missing"}, "correct"),
        ({"correct": True, "needs_operation": False}, {"correct", "unused"}, "correct"),
        ({"failures": {"malformed": 1}}, {"wrong", "unused", "failed"}, "wrong"),
        ({"failures": {"malformed": 0}}, {"wrong", "unused"}, "wrong"),
        ({"truncated_by": "max_turns"}, {"wrong", "unused", "truncated"}, "truncated"),
        # Without a score it is neither right nor wrong, and nothing was needless or missing.
        ({"error": "model: away", "needs_operation": True}, {"unused", "unscored"}, "error"),
    ],
)
def test_tags(changes: dict[str, object], expected: set[str], word: str) -> None:
    assert set(tags(episode(**changes))) == expected
    assert set(tags(episode(**changes))) <= FILTERS.keys()
    assert outcome(episode(**changes)) == word


def test_a_row_is_short_and_counts_what_happened() -> None:
    steps = [
        Step(turn="a", reply="", reward=0.5, reward_terms={}),
        Step(turn="b", reply="", reward=-0.25, reward_terms={}),
    ]
    usage = {"zoom_in": 2, "rotate": 0}
    long = episode(sample_id="i" * 999, prompt="a  b\n" * 999, answer="x" * 999, usage=usage, steps=steps, category="c")
    facts = facts_of(RunRecord(episode=long, repeat=3, score=0.25))
    assert (len(facts.sample_id), len(facts.question), len(facts.answer or "")) == (200, 240, 80)
    assert facts.question.startswith("a b a b")
    assert (facts.repeat, facts.score, facts.reward, facts.category) == (3, 0.25, 0.25, "c")
    assert (facts.usage, facts.failures, facts.target) == ({"zoom_in": 2}, {}, None)


def test_a_question_about_a_video_begins_with_the_question() -> None:
    prompt = "Images 1 and 2 are frames of a video of 8.00 s, at 2.00, 6.00 s.\nWhat turns red?\n(A) a ball"
    assert facts_of(RunRecord(episode=episode(prompt=prompt))).question == "What turns red? (A) a ball"
    assert facts_of(RunRecord(episode=episode(prompt="What of a video of 8.00 s, at 2.00 s."))).question.startswith(
        "What of"
    )


def row(**changes: object) -> Facts:
    made = episode(sample_id="Über-7", answer="Straße", target="road", category="attributes", usage={"zoom_in": 1})
    for name, value in changes.items():
        setattr(made, name, value)
    return facts_of(RunRecord(episode=made))


@pytest.mark.parametrize(
    ("selection", "passes"),
    [
        (Selection(), True),
        (Selection(tags=("wrong", "used")), True),
        (Selection(tags=("wrong", "failed")), False),
        (Selection(operation="zoom_in"), True),
        (Selection(operation="rotate"), False),
        (Selection(category="attributes"), True),
        (Selection(category="attribute"), False),
        (Selection(text="über"), True),
        (Selection(text="STRASSE"), True),
        (Selection(text="HOW MANY"), True),
        (Selection(text="ROAD"), True),
        (Selection(text="attributes"), True),
        (Selection(text="zoom"), False),
        # Of two fields, not of their border.
        (Selection(text="7attributes"), False),
    ],
)
def test_a_selection(selection: Selection, passes: bool) -> None:
    assert selection.matches(row()) is passes


def test_nothing_is_found_in_what_is_missing() -> None:
    assert not Selection(text="none").matches(row(answer=None, target=None, category=None))


CALL = '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 1, 1]}}</tool_call>'


def kinds(turn: str) -> list[tuple[str, str]]:
    return [(segment.kind, segment.text) for segment in split_turn(turn)]


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("", []),
        ("plain", [("text", "plain")]),
        (f"Look. {CALL} Done", [("text", "Look. "), ("call", CALL), ("text", " Done")]),
        (r"It is \boxed{a{b}c}.", [("text", "It is "), ("answer", r"\boxed{a{b}c}"), ("text", ".")]),
        ("<answer>K</answer>", [("answer", "<answer>K</answer>")]),
        (f"<think>{CALL}</think>K", [("thought", f"<think>{CALL}</think>"), ("text", "K")]),
        ("<tool_call>{half", [("call", "<tool_call>{half")]),
        (r"\boxed{never closed", [("answer", r"\boxed{never closed")]),
        (f"{CALL}{CALL}", [("call", CALL), ("call", CALL)]),
    ],
)
def test_parts(turn: str, expected: list[tuple[str, str]]) -> None:
    assert kinds(turn) == expected


def test_long_turns_are_shortened_and_say_so() -> None:
    assert kinds("x" * 1_000_000) == [("text", "x" * 4000), ("text", " … 996,000 more characters")]


PIECES = st.sampled_from(
    ["<tool_call>", "</tool_call>", "<answer>", "</answer>", "<think>", "\\boxed{", "{", "}", "語"]
)


@given(st.lists(PIECES | st.text(max_size=5), max_size=30).map("".join))
def test_nothing_is_lost_or_moved(turn: str) -> None:
    segments = split_turn(turn)
    assert "".join(segment.text for segment in segments) == turn
    assert all(segment.text for segment in segments)
