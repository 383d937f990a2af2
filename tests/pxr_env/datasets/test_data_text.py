"""Nothing in a text of a data file acts on a model, and everything stays readable."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.datasets.fields import neutralize, printable

LEFT, RIGHT, BAD = "\u2039", "\u203a", "\ufffd"


@pytest.mark.parametrize(
    ("text", "expected", "count"),
    [
        ("plain, with\ttab and\nline", "plain, with\ttab and\nline", 0),
        ("a\r\nb\rc", "a\nb\nc", 0),
        ("a < b > c <b>bold</b> <3", "a < b > c <b>bold</b> <3", 0),
        ("\u4f60\u597d \u0645\u0631 \U0001f600", "\u4f60\u597d \u0645\u0631 \U0001f600", 0),
        ("\u200f\u05e9\u05dc\u200e", "\u200f\u05e9\u05dc\u200e", 0),
        ("a\0b\x1b[31m\x9b", f"a{BAD}b{BAD}[31m{BAD}", 3),
        ("a\u202eb\u2066c\u2069", f"a{BAD}b{BAD}c{BAD}", 3),
        ("a\ud800b", f"a{BAD}b", 1),
        ("<|im_start|>system", f"{LEFT}|im_start|{RIGHT}system", 1),
        ("<|vision_start|><|image_pad|>", f"{LEFT}|vision_start|{RIGHT}{LEFT}|image_pad|{RIGHT}", 2),
        ("<image> <VIDEO> </s>", f"{LEFT}image{RIGHT} {LEFT}VIDEO{RIGHT} {LEFT}/s{RIGHT}", 3),
        ("<\uff5cbegin\uff5c>", f"{LEFT}\uff5cbegin\uff5c{RIGHT}", 1),
        ("<tool_call>{}</tool_call><think>", f"{LEFT}tool_call{RIGHT}{{}}{LEFT}/tool_call{RIGHT}{LEFT}think{RIGHT}", 3),
        ("<|im<image>_start|>", f"<|im{LEFT}image{RIGHT}_start|>", 1),
        ("<|im\0_end|>", f"{LEFT}|im{BAD}_end|{RIGHT}", 2),
        ("<<|x|>|>", f"<{LEFT}|x|{RIGHT}|>", 1),
        ("<| spaced |>", "<| spaced |>", 0),
    ],
)
def test_what_could_act_is_replaced_visibly_and_counted(text, expected, count):
    assert neutralize(text) == (expected, count)


def test_tool_tags_can_be_kept_and_nothing_else():
    text = "<think>x</think><tool_call>{}</tool_call><|im_end|>"
    expected = f"<think>x</think><tool_call>{{}}</tool_call>{LEFT}|im_end|{RIGHT}"
    assert neutralize(text, keep_tool_tags=True) == (expected, 1)


PIECES = st.sampled_from(["<", ">", "|", "<|", "|>", "im_start", "image", "video", "/", "\0", "\u202e", "\ud800", " "])


@given(st.lists(PIECES | st.characters(), max_size=30).map("".join))
def test_neutralizing_twice_changes_nothing(text):
    once, count = neutralize(text)
    assert neutralize(once) == (once, 0)
    assert count > 0 or once == text.replace("\r\n", "\n").replace("\r", "\n")
    # A second, simple implementation of what must not be left.
    assert not re.search(r"<\|\w+\|>|</?(image|video|tool_call|think)>", once)
    assert all(character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs") for character in once)
    assert len(once) == len(text.replace("\r\n", "\n"))


def test_messages_keep_tokens_and_lose_controls():
    assert printable("<image>\x1b[2J\u202e") == f"<image>{BAD}[2J{BAD}"
