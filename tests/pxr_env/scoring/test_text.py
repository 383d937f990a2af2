"""Texts and exact answers, by hand."""

import pytest

from pxr_env.scoring import get_scorer, normalize
from pxr_env.scoring.text import meant
from pxr_env.types import Sample


@pytest.mark.parametrize(
    ("answer", "answers", "expected"),
    [
        ("T", ["T"], 1.0),
        (" t ", ["T"], 1.0),
        ("T.", ["T"], 1.0),
        (r"\text{Red  Box}", ["red box"], 1.0),
        ("Straße", ["STRASSE"], 1.0),
        ("\uff21", ["A"], 1.0),  # full width A
        ("\u200fred\u200b", ["red"], 1.0),  # a direction mark, a zero-width blank
        ("red", ["blue", "red"], 1.0),
        ("reddish", ["red"], 0.0),
        ("red or blue", ["red", "blue"], 0.0),
        (r"\text{\text{red}}", ["red"], 1.0),
        ("\ufb01re", ["fire"], 1.0),  # a ligature
        ("red..", ["red"], 0.0),
        ("red", [], 0.0),
    ],
)
def test_exact(answer, answers, expected):
    sample = Sample(sample_id="1", question="", sources=(), answers=tuple(answers))
    assert get_scorer("exact")(answer, sample) == expected


def test_zero_width_joiners_stay():
    assert normalize("\u0646\u200c\u0647") != normalize("\u0646\u0647")  # two Persian spellings


def test_letter_by_letter_counts_before_case_and_before_what_stands_around():
    texts = ("CO", "Co", "[x]", "(x)", "**y**", "y", "no.", "no")
    assert [meant(text, texts) for text in texts] == [[index] for index in range(len(texts))]
    assert meant("co", texts) == [0, 1]
    assert meant('"Co"', texts) == [1]
    assert meant("**Y**", texts) == [4]
    assert meant("`Y`", texts) == [5]
    assert meant("No.", texts) == [6, 7]
    assert meant("z", texts) == []


def test_votes_are_counted_by_what_is_said():
    assert normalize("**Red.**") == normalize(r"\text{red}") == normalize("The answer is red.") == "red"
    assert normalize("10\u00b2") != normalize("102")
