"""ANLS: the values of the official task page, values by hand, and the distance against a naive one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.scoring import get_scorer
from pxr_env.scoring.text import levenshtein
from pxr_env.types import Sample

anls = get_scorer("anls")


def score(answer, *answers):
    return anls(answer, Sample(sample_id="1", question="", sources=(), answers=answers))


@pytest.mark.parametrize(
    ("answer", "expected"),
    # The example of the Robust Reading Competition (ST-VQA), there rounded to two digits.
    [("The Coca", 0.0), ("CocaCola", 0.89), ("Coca cola", 1.0), ("Cola", 0.0), ("Cat", 0.0)],
)
def test_the_example_of_the_competition(answer, expected):
    assert round(score(answer, "Coca Cola", "Coca Cola Company"), 2) == expected


@pytest.mark.parametrize(
    ("answer", "answers", "expected"),
    [
        ("kitten", ["sitting"], 1 - 3 / 7),  # k -> s, e -> i, + g
        ("1994", ["1995"], 0.75),
        ("ab", ["ac"], 0.5),  # exactly the threshold counts
        ("abc", ["axy"], 0.0),  # 1 - 2/3 is below it
        ("abcde", ["abxyz"], 0.0),  # 1 - 3/5
        ("  Red \n Box ", ["red box"], 1.0),
        ("redbox", ["red box"], 1 - 1 / 7),
        ("red box.", ["red box"], 1 - 1 / 8),
        (r"\text{red box}", ["red box"], 1.0),
        ("red", ["blue", "bed", "red"], 1.0),
        ("", ["red"], 0.0),
        ("red", [], 0.0),
    ],
)
def test_values_by_hand(answer, answers, expected):
    assert score(answer, *answers) == pytest.approx(expected, abs=1e-12)


def test_only_an_exact_reading_is_correct():
    assert anls.is_correct(score("RED", "red"))
    assert not anls.is_correct(score("CocaCola", "Coca Cola"))


def naive_levenshtein(first, second):
    table = [[i + j if i * j == 0 else 0 for j in range(len(second) + 1)] for i in range(len(first) + 1)]
    for i, one in enumerate(first, start=1):
        for j, other in enumerate(second, start=1):
            replaced = table[i - 1][j - 1] + (one != other)
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, replaced)
    return table[-1][-1]


@given(st.text("abc", max_size=12), st.text("abc", max_size=12), st.integers(0, 13))
def test_the_distance_is_the_naive_one_up_to_the_limit(first, second, limit):
    assert levenshtein(first, second, limit) == min(naive_levenshtein(first, second), limit + 1)


@given(st.text("abcdefgh ", min_size=60, max_size=90), st.text("abcdefgh ", min_size=60, max_size=90))
def test_the_distance_of_texts_beyond_a_machine_word(first, second):
    assert levenshtein(first, second, 90) == naive_levenshtein(first, second)


@given(st.text(max_size=20), st.text(max_size=20))
def test_the_score_is_symmetric_and_one_for_equal_texts_only(first, second):
    assert score(first, second) == score(second, first)
    assert (score(first, second) == 1.0) == (" ".join(first.lower().split()) == " ".join(second.lower().split()))
