"""VQA accuracy: the normalization of the official page by hand, the formula against leaving out each human."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.scoring import get_scorer
from pxr_env.scoring.text import vqa_words
from pxr_env.types import Sample

vqa_accuracy = get_scorer("vqa_accuracy")


def score(answer, *answers):
    return vqa_accuracy(answer, Sample(sample_id="1", question="", sources=(), answers=answers))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dog", "dog"),
        ("the dog and a cat", "dog and cat"),
        ("an apple", "apple"),
        ("Two", "2"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),
        ("oclock", "o'clock"),
        ("yall'd've", "y'all'd've"),
        ("wed", "wed"),  # a word of its own
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        ("1,200 black-white", "1200 blackwhite"),  # a comma between digits: no blanks for any mark
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("red , blue-green", "red blue green"),
        ("yes!", "yes"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("u.s.a.", "usa"),
        (" red\n\tbox ", "red box"),
        ("the", ""),
        ("", ""),
    ],
)
def test_normalization(text, expected):
    assert vqa_words(text) == expected


@pytest.mark.parametrize(
    ("matches", "expected"),
    # 2 of 10: leaving out one of the two leaves 1/3, leaving out another 2/3: (2 * 1/3 + 8 * 2/3) / 10.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_ten_humans(matches, expected):
    result = score("Yes.", *["yes"] * matches, *["no"] * (10 - matches))
    assert result == pytest.approx(expected, abs=1e-12)
    assert vqa_accuracy.is_correct(result) == (matches >= 3)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], 0.0),
        (["yes"], 1.0),
        (["no"], 0.0),
        (["yes", "no"], 0.5),  # leaving out "no" leaves one who agrees
        (["yes", "yes"], 1.0),
        (["yes", "yes", "no"], 2 / 3),  # (1/2 + 1/2 + 1) / 3
        (["yes", "yes", "yes", "no"], 0.75),  # (3 * 2/3 + 1) / 4
        (["yes"] * 4, 1.0),
    ],
)
def test_fewer_humans(answers, expected):
    assert score("yes", *answers) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.booleans(), min_size=4, max_size=15))
def test_the_formula_is_the_average_over_leaving_out_each_human(agrees):
    others = [sum(agrees) - agree for agree in agrees]
    expected = sum(min(Fraction(count, 3), Fraction(1)) for count in others) / len(agrees)
    assert score("yes", *("yes" if agree else "no" for agree in agrees)) == pytest.approx(float(expected), abs=1e-12)


@given(st.text(alphabet="aA .,-'1tdon\n", max_size=15))
def test_an_answer_matches_itself(text):
    assert score(text, *[text] * 10) == 1.0
