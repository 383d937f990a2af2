"""All scorers read decorations alike: they never change a score, and they never make different answers equal."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pxr_env.scoring import get_scorer, scorer_names
from pxr_env.types import Sample


def sample(*answers, options=()):
    return Sample(sample_id="1", question="What?", sources=(), answers=answers, options=options)


ANIMALS = ("a cat", "a dog", "a cow")
#: By scorer: a sample, a right answer, and a wrong one.
CASES = {
    "exact": (sample("red box"), "red box", "blue box"),
    "number": (sample("12345"), "12345.0", "12346"),
    "number_strict": (sample("12345"), "12345.0", "12346"),
    "multiple_choice": (sample("B", options=ANIMALS), "B", "C"),
    "auto": (sample("B"), "B", "C"),
    "math": (sample("0.5"), r"\frac{1}{2}", r"\frac{1}{3}"),
    "iou": (sample("0, 0, 10, 10"), "[0, 0, 10, 10]", "[0, 0, 1, 1]"),
    "anls": (sample("Coca Cola"), "Coca Cola", "Pepsi"),
    "vqa_accuracy": (sample(*["yes"] * 10), "yes", "no"),
}
MARKUP = [
    "**{}**",
    "*{}*",
    "_{}_",
    "__{}__",
    "`{}`",
    "${}$",
    r"\({}\)",
    r"\text{{{}}}",
    r"\textbf{{{}}}",
    r"\mathbf{{{}}}",
]
MARKUP += [r"\mathrm{{{}}}", r"\boxed{{{}}}", r"\fbox{{{}}}", "<b>{}</b>", " {}\n", "```\n{}\n```"]
AROUND = [
    *MARKUP,
    '"{}"',
    "\u201c{}\u201d",
    "'{}'",
    "The answer is {}",
    "Answer: {}",
    "So the final answer is {}.",
    "{}.",
]
ALL = [*AROUND, "({})", "[{}]", "<{}>"]
#: ANLS and VQA accuracy count the signs that a reader sees, as published; brackets belong to formulas and to boxes.
DECORATIONS = {"anls": MARKUP, "vqa_accuracy": MARKUP, "math": AROUND, "iou": AROUND}


def test_every_scorer_is_here():
    assert sorted(CASES) == sorted(scorer_names())


def decorated(answer, decorations):
    for decoration in decorations:
        answer = decoration.format(answer)
    return answer


@pytest.mark.parametrize(
    ("name", "decoration"), [(name, decoration) for name in CASES for decoration in DECORATIONS.get(name, ALL)]
)
def test_a_decoration_does_not_change_the_score(name, decoration):
    if name == "math":
        pytest.importorskip("math_verify")
    asked, right, wrong = CASES[name]
    assert get_scorer(name)(decoration.format(right), asked) == 1.0
    assert get_scorer(name)(decoration.format(wrong), asked) == get_scorer(name)(wrong, asked) < 1.0


# Twice the same sign is no nesting, and what is in a formula is LaTeX.
nested = st.permutations(range(len(ALL))).map(lambda order: [ALL[index] for index in order[:3]])


@pytest.mark.parametrize("name", ["exact", "number", "number_strict", "multiple_choice", "auto"])
@settings(max_examples=60)
@given(decorations=nested)
@example(decorations=["*{}*", "_{}_", "({})"])
def test_decorations_in_each_other_do_not_either(name, decorations):
    asked, right, wrong = CASES[name]
    marks = [sign for decoration in decorations for sign in "*_`\"'." if sign in decoration]
    if len(set(marks)) == len(marks) and not any("$" in one or r"\(" in one for one in decorations[1:]):
        assert get_scorer(name)(decorated(right, decorations), asked) == 1.0, decorated(right, decorations)
    assert get_scorer(name)(decorated(wrong, decorations), asked) == 0.0


#: Pairs that a reader tells apart.
DIFFERENT = [
    ("10\u00b2", "102"), ("\u00bd", "1/2"), ("\u00bd", "12"), ("\u2460", "1"), ("m\u00b2", "m2"), ("x\u2082", "x2"),
    ("H\u2082O", "H2O"), ("\u2122", "tm"), ("\u2163", "IV"), ("\u2103", "C"), ("(1, 2)", "[1, 2]"),
    ("(a + b)", "a + b"), ("5", "5%"), ("-5", "5"), ("na\u00efve", "naive"), ("a, b", "a b"), ("U.S.", "US"),
    ("dont", "don't"), ("not red", "red"), ("red or blue", "red"), ("redbox", "red box"), ("3", "\u0663"),
    ("the red box", "red box"), ("a box", "box"), ("1.5", "15"), ("1,5", "15"), ("2*3*4", "234"), ("1e-7", "2e-7"),
    ("x_1", "x1"), ("A1", "A"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["exact", "auto", "number", "number_strict", "math", "multiple_choice"])
@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_answers_that_differ_stay_apart(name, first, second):
    if name == "math":
        pytest.importorskip("math_verify")
    scorer = get_scorer(name)
    known = (
        {("5", "5%"), ("(a + b)", "a + b"), ("a, b", "a b"), ("x_1", "x1"), ("(1, 2)", "[1, 2]")}
        if name == "math"
        else set()
    )
    if (first, second) not in known:
        assert scorer(second, sample(first)) == scorer(first, sample(second)) == 0.0


WORD = st.text("aAbB12\u00b2\u2082\u2460. *_", min_size=1, max_size=4).filter(lambda text: text.strip() == text)


@given(options=st.lists(WORD, min_size=2, max_size=4, unique=True))
def test_the_text_of_an_option_never_names_another(options):
    choice = get_scorer("multiple_choice")
    for text in options:
        if text.strip(".").casefold() in "abcd" or text[0].casefold() in "abcd":
            continue  # a letter, with a text or without, is a name
        named = [
            letter
            for letter, _ in zip("ABCD", options, strict=False)
            if choice(text, sample(letter, options=tuple(options)))
        ]
        assert named == ["ABCD"[options.index(text)]]
