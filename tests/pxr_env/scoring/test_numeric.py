"""Numbers, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.scoring import get_scorer
from pxr_env.types import Sample


def score(answer, *answers, scorer="number", question="How many dogs?"):
    return get_scorer(scorer)(answer, Sample(sample_id="1", question=question, sources=(), answers=answers))


@pytest.mark.parametrize(
    ("answer", "accepted", "expected"),
    [
        ("3", "3", 1.0),
        ("3.0", "3", 1.0),
        ("3.", "3", 1.0),
        ("1,200", "1200", 1.0),
        ("1,234,567.5", "1234567.50", 1.0),
        ("+7", "7", 1.0),
        (".5", "0.50", 1.0),
        ("\u22123", "-3", 1.0),  # a minus sign
        ("-0", "0", 1.0),
        ("007", "7", 1.0),
        (r"\text{3}", "3", 1.0),
        ("\uff13", "3", 1.0),  # a full width digit
        ("\u200f3", "3", 1.0),  # after a direction mark
        ("5%", "5.0 %", 1.0),
        (r"5\%", "5%", 1.0),
        ("5%", "5", 0.0),
        ("5%", "0.05", 0.0),
        ("5", "5%", 0.0),
        ("-3", "3", 0.0),
        ("12,00", "1200", 0.0),
        ("1,2000", "12000", 0.0),
        ("3 or 4", "3", 0.0),
        ("3, 4", "3", 0.0),
        ("3,4", "34", 0.0),
        ("1/2", "0.5", 0.0),
        ("nan", "nan", 0.0),
        ("inf", "inf", 0.0),
        ("1e3", "1000", 0.0),
        ("9" * 200, "9" * 200, 0.0),
        ("\u0663", "3", 0.0),  # an Arabic digit
        ("10\u00b2", "102", 0.0),  # ten squared
        ("x\u2082", "2", 0.0),
        ("", "0", 0.0),
    ],
)
@pytest.mark.parametrize("scorer", ["number", "number_strict"])
def test_digits_alone_are_read_alike_by_both(answer, accepted, expected, scorer):
    assert score(answer, accepted, scorer=scorer) == expected


LENIENT = [
    "three", "Three.", "3 dogs", "three dogs", "3 red dogs", "3 people", "3 cm", "3cm", "3 m", "$3", r"\$3", "$3$ dogs",
    "**3** dogs", r"3\text{ dogs}", r"3~\mathrm{cm}", "There are 3 dogs.", "there are three", "I count 3", "It is 3.",
    "= 3", "3 dogs are visible", "three (3)", "The answer is 3 dogs.", r"3^\circ",
]  # fmt: skip
LUCKY = [
    "3 dogs and 4 cats", "three dogs and four cats", "3 dogs, 2 cats", "not 3", "no 3", "3 or 4", "three or four",
    "3-4", "3 to 4", "3 of 4", "about 3", "at least 3", "more than 3", "3 or more", "~3", "3+", "3!", "3\u00b2",
    "3 squared", "3 million", "3k", "3 K", "3M", "3 dozen", "3 hundred", "three hundred", "three thousand",
    "three halves", "three quarters", "3 and a half", "three point five", "3 1/2", "3/4", "3:00", "3rd", "3D", "3x",
    "3 times 2", "3 pairs", "3%", "3 percent", "-3", "thirty three", "three four", "33", "3 3", "threefold",
    "3 (not 4)", "3?", "1 3", "3,4", "3 wrong",
]  # fmt: skip


@pytest.mark.parametrize("answer", LENIENT)
def test_words_and_what_is_counted_are_read_by_number_alone(answer):
    assert score(answer, "3") == 1.0
    assert score(answer, "4") == 0.0
    assert score(answer, "3", scorer="number_strict") == 0.0


@pytest.mark.parametrize("answer", LUCKY)
def test_another_number_or_several_are_not_the_first(answer):
    assert score(answer, "3") == score(answer, "3", scorer="number_strict") == 0.0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("12,345", 1.0),
        ("12{,}345", 1.0),
        (r"12,\!345", 1.0),
        ("12 345", None),
        (r"12\,345", None),
        (r"12\;345", None),
        ("12~345", None),
        ("12\u202f345", None),
        ("12'345", None),
        ("12_345", None),
        (r"\$12{,}345.00", None),
        ("12 345.0 dogs", None),
        ("12 3456", 0.0),
        ("12 34", 0.0),
        ("12,345 6", 0.0),
        ("1 2,345", 0.0),
        ("12.345", 0.0),
        ("12 345 6", 0.0),
    ],
)
def test_thousands(answer, expected):
    """None: `number` reads it, `number_strict` does not."""
    assert score(answer, "12345") == (1.0 if expected is None else expected)
    assert score(answer, "12345", scorer="number_strict") == (expected or 0.0)


@pytest.mark.parametrize(
    ("answer", "accepted", "expected"),
    [
        ("5 cm", "5 cm", 1.0),
        ("5", "5 cm", 1.0),
        ("5 m", "5 cm", 0.0),
        ("5 mW", "5 MW", 0.0),
        ("$5", "$5.00", 1.0),
        ("\u20ac5", "$5", 0.0),
        ("3 dogs", "3 dog", 1.0),
        ("3 cats", "3 dogs", 0.0),
        ("5 percent", "5%", 1.0),
        ("two hundred and five", "205", 1.0),
        ("twenty-one dogs", "21", 1.0),
        ("ninety nine", "99", 1.0),
        ("None", "0", 1.0),
    ],
)
def test_units_and_words(answer, accepted, expected):
    assert score(answer, accepted) == expected


def test_what_the_question_asks_for_may_follow_the_number():
    assert score("3 pairs", "3", question="How many pairs of shoes?") == 1.0
    assert score("3 pairs", "3", question="How many shoes?") == 0.0
    assert score("3 dogs and cats", "3", question="How many dogs and cats?") == 1.0


def test_one_of_the_accepted_numbers_is_enough():
    assert score("4", "three", "4") == 1.0
    assert score("3", "three", "4") == 1.0
    assert score("3", "three", "4", scorer="number_strict") == 0.0


@given(st.integers(), st.integers())
def test_integers_are_equal_with_and_without_commas_if_they_are_equal(first, second):
    assert score(f"{first:,}", str(first)) == 1.0
    assert score(f"{first:,}", str(second)) == float(first == second)
