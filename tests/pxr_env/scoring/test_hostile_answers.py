"""No answer raises, takes long, or scores differently the second time."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pxr_env.scoring import get_scorer
from pxr_env.types import Sample

TEXT = Sample(sample_id="1", question="Where?", sources=(), answers=("Coca Cola", "7", "red"))
CHOICE = Sample(sample_id="2", question="What?\n(A) a cat\n(B) 42", sources=(), answers=("B",))
NUMBER = Sample(sample_id="3", question="How many?", sources=(), answers=("7",))
BOX = Sample(sample_id="4", question="Where?", sources=(), answers=("[0, 0, 10, 10]",))
CASES = [
    (name, sample)
    for name in ("exact", "anls", "vqa_accuracy", "number", "number_strict", "auto")
    for sample in (TEXT, NUMBER)
]
CASES += [("multiple_choice", TEXT), ("multiple_choice", CHOICE), ("auto", CHOICE), ("iou", BOX)]
ids = [f"{name}-{sample.sample_id}" for name, sample in CASES]

MEGABYTE = 1_000_000
HOSTILE = {
    "long": "a" * MEGABYTE,
    "blanks": " " * MEGABYTE + "7",
    "braces": r"\text{" * 300 + "7" + "}" * 300,
    "brackets": "[" * 900 + "]" * 900,
    "combining marks": "a" + "\u0301\u0323" * 900,  # quadratic to normalize
    "expanding": "\ufdfa" * 1990,  # 18 characters each after normalization
    "digits": "1" * 1990,
    "commas": "1" + ",000" * 490,
    "full stops": "." * 1990,
    "exponent": "1e999999999, 0, 1e-999999999, 9",
    "marks": "(A) " * 490,
    "dashes": "a " + "-" * 1900,
    "surrogate": "\ud800",
    "nested fonts": r"\textbf{" * 250 + "}" * 250,
    "open fonts": r"\textbf{" * 250,
    "stars": "*" * 1990,
    "stars apart": "*a " * 660,
    "dollars": "$ " * 990,
    "formulas": r"\(" * 990,
    "tags": "<b>" * 600,
    "declared": "The answer is " * 140,
    "options": "Option " * 280,
    "blanks within": "the answer" + " \t" * 990 + "x",
    "labels": "A. " * 660,
    "JSON": "[" * 990 + "0" + "]" * 990,
    "digits of others": "\u0667\u06f7\u096d",
}


@pytest.mark.parametrize(("name", "sample"), CASES, ids=ids)
@given(answer=st.text() | st.text("aAbB42(). :,%[]-+e\\{}text$\u200f\u0663\ud800", max_size=30))
@example(answer="")
@example(answer="\u202e7\u202c")
@example(answer="\x007")
def test_any_text_gets_the_same_score_from_0_to_1_twice(name, sample, answer):
    scorer = get_scorer(name)
    score = scorer(answer, sample)
    assert 0.0 <= score <= 1.0
    assert scorer(answer, sample) == score


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_answer_is_wrong_everywhere(answer):
    assert {(name, sample.sample_id): get_scorer(name)(answer, sample) for name, sample in CASES} == {
        (name, sample.sample_id): 0.0 for name, sample in CASES
    }


@given(answer=st.text(max_size=20) | st.text(r"1x^{}\frac()=$+,", max_size=12))
def test_no_text_breaks_the_comparison_of_formulas(answer):
    pytest.importorskip("math_verify")
    math = get_scorer("math")
    assert math(answer, NUMBER) == math(answer, NUMBER)
