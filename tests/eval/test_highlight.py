"""Turns cut into parts for display."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.highlight import split_turn

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
