"""Multiple choice and the scorer that chooses a scorer, by hand."""

import itertools
import string

import pytest

from pxr_env.scoring import get_scorer
from pxr_env.scoring.choice import read_options
from pxr_env.types import Sample

QUESTION = "What is it?\n(A) a cat\n(B) A dog.\n(C) the letter D (D) 42"


def score(answer, *answers, question="", options=(), scorer="multiple_choice"):
    sample = Sample(sample_id="1", question=question, sources=(), answers=answers, options=options)
    return get_scorer(scorer)(answer, sample)


RIGHT = ["B", "b.", "(B)", "(b)", "B)", "B:", "B) a dog", "(B) A dog.", "(B): a dog", "B a dog", "b - a dog", "A dog"]
RIGHT += [
    "Option B",
    "option (b)",
    "Choice B: a dog",
    "Answer: B",
    "The answer is B.",
    "The correct answer is (B) a dog",
]
RIGHT += ["the answer is a dog", r"\text{B}", r"\textbf{(B) a dog}"]
WRONG = ["A", "a cat", "B. a cat", "(A) a dog", "A dog is there", "E", "", "D", "42", "AB", "A or B", "B or A", "A, B"]
WRONG += ["(A) and (B)", "B/A", "a cat or a dog", "B. a dog or 42", "(A) a cat (B) a dog", "not B", "Option", "B B"]


#: Declared, decorated, and both.
RIGHT += [
    "The correct answer is (B).", "Answer: B", "ANSWER: $B$", "Final answer: B", "So the final answer is **B. a dog**",
    "It is B", "It's (B).", "The answer is option B", "The correct option is: B",
    "The correct answer is Option B: a dog", "The correct choice would be B", "The best option is B.",
    "My final answer is option (B).", "I choose B.", "I think the answer is B", "Therefore, the answer is B.",
    "Based on the image, the answer is B.", "(B) is the correct answer.", "Option B is correct.", "**Answer:** B",
    "**Answer**: **B**", "## Answer: B", "**B.** a dog", "(**B**) a dog", "$B$: a dog", "`B` - a dog", "B) *a dog*",
    '"B" a dog', "B\na dog", "The **answer** is **B**.", 'The answer is "a dog".', "- B", "B. dog", "```\nB\n```",
    "\uff22", "The answer is B because it barks", "B, because it barks.", "Option B, since its ears hang down.",
]  # fmt: skip
WRONG += [
    "A because it barks", "B because C is wrong, or A", "Because B", "The answer is B because it is not A",
    "The answer is not B", "The answer is B or C", "The answer is A. The answer is B.", "B is wrong", "B is incorrect",
    "B is not the correct answer", "A, actually B", "**A** or **B**", "**A** and **B**", "neither B", "All but B",
    "B. not a dog", "B. a dog or a cat", "B1", "BB", "Based on B", "Because", "Option A or option B", "B? A", "B. a",
    "(A)(B)",
]  # fmt: skip


@pytest.mark.parametrize("accepted", ["B", "(B)", "a dog", "B. a dog"])
@pytest.mark.parametrize(
    ("answer", "expected"), [*((answer, 1.0) for answer in RIGHT), *((answer, 0.0) for answer in WRONG)]
)
def test_options_of_the_question_and_of_the_sample_count_alike(answer, expected, accepted):
    assert score(answer, accepted, question=QUESTION) == expected
    assert score(answer, accepted, options=("a cat", "A dog.", "the letter D", "42")) == expected


@pytest.mark.parametrize("order", list(itertools.permutations(["red", "green", "blue"])))
def test_in_every_order_exactly_the_right_letter_and_the_right_text_are_right(order):
    target = "ABC"[order.index("blue")]
    for letter, text in zip("ABC", order, strict=True):
        expected = float(text == "blue")
        assert score(letter, target, options=order) == expected
        assert score(text, target, options=order) == expected
        assert score(f"({letter}) {text}", target, options=order) == expected
        assert score(f"({letter}) blue", target, options=order) == expected


def test_letters_go_to_z():
    options = tuple(f"option number {index}" for index in range(26))
    for letter, text in zip(string.ascii_uppercase, options, strict=True):
        assert score(letter, text, options=options) == 1.0
        assert score(f"{letter.lower()}. {text}", letter, options=options) == 1.0
    assert score("Z", "Y", options=options) == 0.0


def test_options_that_are_letters():
    options = ("b", "a", "D", "c")
    assert score("A", "A", options=options) == 1.0  # a capital is a name
    assert score("(A)", "A", options=options) == 1.0
    assert score("a", "B", options=options) == 1.0  # a small letter that is an option's text is that text
    assert score("a", "A", options=options) == 0.0
    assert score("d", "D", options=options) == 1.0  # "D" is not written so, hence the name
    assert score("T", "B", options=("S", "T")) == 1.0


@pytest.mark.parametrize(
    "options",
    [
        ("CO", "Co", "co"), ("mW", "MW", "kW"), ("10\u00b2", "102", "10\u2082"), ("\u00bd", "1/2", "12"),
        ("\u2460", "1"), ("m\u00b2", "m2", "m\u00b3"), ("x", "X", "**x**", "`x`"), ("the dog", "a dog", "dog"),
        ("U.S.", "US"), ("no.", "no"), ("na\u00efve", "naive"), ("1.0", "1", "01"), ("-5", "5"), ("A B", "AB"),
        ("don't", "dont"), ("\u2163", "IV"), ("it is red", "red"), ('"x"', "x"), ("5%", "5", "$5"), ("a, b", "a b"),
        ("[x]", "(x)", "x"), ("Stra\u00dfe", "Strasse"), ("B. a cat", "a cat"), (r"\text{x}", "x"),
        ("The answer is x", "x"), ("x", "x is correct"), ("\u2122", "TM"), ("1e-7", "2e-7"), ("x\u00b9", "x1"),
        ("\u2103", "\u00b0C"),
    ],
)  # fmt: skip
def test_options_that_differ_stay_apart(options):
    for target, right in zip(string.ascii_uppercase, options, strict=False):
        assert [score(text, target, options=options) for text in options] == [float(text == right) for text in options]
        assert score(f"\u201c{right}\u201d", target, options=options) == 1.0


def test_what_fits_two_options_names_none():
    for target in "AB":
        assert score("co", target, options=("CO", "Co")) == 0.0
    assert score("co", "C", options=("CO", "Co", "copper")) == 0.0
    assert score("cu", "C", options=("CO", "Co", "Cu")) == 1.0
    assert score("A. Co", "A", options=("CO", "Co")) == 0.0


def test_an_article_and_a_pronoun_are_no_letters():
    options = ("cat", "dog", "c", "d", "e", "f", "g", "h", "an ear")
    for answer in ("A dog", "a dog.", "A dog is visible", "I see a cat", "I", "I."):
        assert score(answer, "A", options=options) == 0.0
    assert score("I", "I", options=options) == 1.0
    assert score("I see nothing", "I", options=options) == 0.0


def test_without_options_letters_or_texts_are_compared():
    assert score("(c)", "C") == 1.0
    assert score("Option C", "C") == 1.0
    assert score("C", "D") == 0.0
    assert score("A dog", "a dog") == 1.0
    assert score("t-shirt", "T-shirt") == 1.0
    assert score("c", "c. a dog") == 0.0


UNLISTED = [
    "B", "b", "(B)", "[B]", "B.", "B)", "B:", "(B) couple", "B. couple", "B: couple", "Option B", "The answer is (B).",
    "**B**", "$B$",
]  # fmt: skip
TWO_OR_NONE = [
    "A", "(A) bench", "A. B", "(A) or (B)", "B or C", "not B", "B couple or C", "AB", "B. or C",
    "The answer is A. The answer is B.",
]  # fmt: skip
QUESTIONS = [
    "Which of the four marked regions shows it?",
    "What? Options: A: A park bench near the water., B: A couple sitting on a bench., C: A bridge., D: A mountain.",
    "What is shown? A. bench B. couple C. bridge",
    "Which? (a) bench (b) couple (c) bridge",
    "Which? [A] bench [B] couple [C] bridge",
    "Which?\na) bench\nb) couple\nc) bridge",
    "Which?\nA. bench\nB. couple",
]


@pytest.mark.parametrize("scorer", ["auto", "multiple_choice"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_an_accepted_letter_is_named_as_an_option_is_however_options_are_listed(question, scorer):
    for accepted in ("B", "(b)"):
        scores = [score(answer, accepted, question=question, scorer=scorer) for answer in UNLISTED]
        assert scores == [1.0] * len(UNLISTED)
    scores = [score(answer, "B", question=question, scorer=scorer) for answer in TWO_OR_NONE]
    assert scores == [0.0] * len(TWO_OR_NONE)
    if question != QUESTIONS[0]:
        assert score("B. a bridge" if "D:" in question else "B. bench", "B", question=question, scorer=scorer) == 0.0


def test_letters_read_from_a_picture_need_no_options():
    for scorer in ("exact", "auto", "multiple_choice"):
        assert score("t", "T", scorer=scorer) == 1.0
        assert score("**T**", "T", scorer=scorer) == 1.0
        assert score("A dog", "A", scorer=scorer) == 0.0
        assert score("TT", "T", scorer=scorer) == 0.0
    # Names that look like a list of options stay names.
    assert score("B. Jones", "B. Jones", question="Who is taller, A. Smith or B. Jones?", scorer="auto") == 1.0


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("What?\n(A) a cat\n(B) a dog", ("a cat", "a dog")),
        ("What? (A) a cat (B) a dog", ("a cat", "a dog")),
        ("What?\nA. a cat\n  B. a dog\nAnswer with a letter.", ("a cat", "a dog")),
        ("What?\nA) a cat\nB: a dog", ("a cat", "a dog")),
        ("What?\r\n(A) a cat\r\n(B) a dog\r\n", ("a cat", "a dog")),
        ("(A)\n(B) a dog", ("", "a dog")),
        ("Who drinks vitamin (C)?\n(A) he\n(B) she", ("he", "she")),
        ("Which of figure (A)?\n(A) he\n(B) she", ("he", "she")),
        ("Choose (A) or (B).\n(A) he\n(B) she", ("he", "she")),
        ("(A) he (B) she\nChoose (A) or (B).", ("he", "she")),
        ("What is (A)?", ()),
        ("(B) she (C) it", ()),
        ("Is it U.S. A. or not?", ()),
        ("", ()),
    ],
)
def test_options_are_read_from_the_question(question, options):
    assert read_options(question) == options


def test_auto_chooses_by_the_sample():
    assert score("(B) a dog", "B", question=QUESTION, scorer="auto") == 1.0
    assert score("a dog", "B", options=("a cat", "a dog"), scorer="auto") == 1.0
    assert score("3.0", "3", scorer="auto") == 1.0
    assert score("3.0", "3", "three", scorer="auto") == 0.0  # not all accepted answers are numbers: exact
    assert score("Red", "red", scorer="auto") == 1.0
    assert score("1", "B", options=("1", "2"), scorer="auto") == 0.0
