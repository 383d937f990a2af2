"""Scorers of texts: exact, ANLS and VQA accuracy, by hand, by the official pages and by simple second ways."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.scoring import get_scorer, normalize
from pxr_env.scoring.text import levenshtein, meant, vqa_words
from pxr_env.types import Sample


def score(name, answer, *answers):
    return get_scorer(name)(answer, Sample(sample_id="1", question="", sources=(), answers=answers))


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
    assert score("exact", answer, *answers) == expected


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


@pytest.mark.parametrize(
    ("answer", "expected"),
    # The example of the Robust Reading Competition (ST-VQA), there rounded to two digits.
    [("The Coca", 0.0), ("CocaCola", 0.89), ("Coca cola", 1.0), ("Cola", 0.0), ("Cat", 0.0)],
)
def test_the_example_of_the_competition(answer, expected):
    assert round(score("anls", answer, "Coca Cola", "Coca Cola Company"), 2) == expected


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
def test_anls_by_hand(answer, answers, expected):
    assert score("anls", answer, *answers) == pytest.approx(expected, abs=1e-12)


def test_only_an_exact_reading_is_correct_by_anls():
    assert get_scorer("anls").is_correct(score("anls", "RED", "red"))
    assert not get_scorer("anls").is_correct(score("anls", "CocaCola", "Coca Cola"))


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
def test_anls_is_symmetric_and_one_for_equal_texts_only(first, second):
    assert score("anls", first, second) == score("anls", second, first)
    assert (score("anls", first, second) == 1.0) == (
        " ".join(first.lower().split()) == " ".join(second.lower().split())
    )


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
def test_words_of_vqa(text, expected):
    assert vqa_words(text) == expected


@pytest.mark.parametrize(
    ("matches", "expected"),
    # 2 of 10: leaving out one of the two leaves 1/3, leaving out another 2/3: (2 * 1/3 + 8 * 2/3) / 10.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_ten_humans(matches, expected):
    result = score("vqa_accuracy", "Yes.", *["yes"] * matches, *["no"] * (10 - matches))
    assert result == pytest.approx(expected, abs=1e-12)
    assert get_scorer("vqa_accuracy").is_correct(result) == (matches >= 3)


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
    assert score("vqa_accuracy", "yes", *answers) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.booleans(), min_size=4, max_size=15))
def test_vqa_accuracy_is_the_average_over_leaving_out_each_human(agrees):
    others = [sum(agrees) - agree for agree in agrees]
    expected = sum(min(Fraction(count, 3), Fraction(1)) for count in others) / len(agrees)
    assert score("vqa_accuracy", "yes", *("yes" if agree else "no" for agree in agrees)) == pytest.approx(
        float(expected), abs=1e-12
    )


@given(st.text(alphabet="aA .,-'1tdon\n", max_size=15))
def test_an_answer_matches_itself(text):
    assert score("vqa_accuracy", text, *[text] * 10) == 1.0
