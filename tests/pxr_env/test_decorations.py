"""What stands around an answer, by hand, and in linear time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.decorations import AROUND_FORMULAS, MARKUP, core, layers

#: One decoration each, with what of it is markup.
DECORATED = {
    "**B**": True, "*B*": True, "***B***": True, "__B__": True, "_B_": True, "`B`": True, "~~B~~": True,
    "```\nB\n```": True, "```text\nB\n```": True, "# B": True, "$B$": True, "$$B$$": True, r"\(B\)": True,
    r"\[B\]": True, r"\text{B}": True, r"\textbf{B}": True, r"\textit{B}": True, r"\texttt{B}": True,
    r"\mathrm{B}": True, r"\mathbf{B}": True, r"\mathit{B}": True, r"\mathsf{B}": True, r"\boldsymbol{B}": True,
    r"\emph{B}": True, r"\mbox{B}": True, r"\boxed{B}": True, r"\fbox{B}": True, r"\textcolor{red}{B}": True,
    r"\bf B": True, "<b>B</b>": True, "<strong>B</strong>": True, "<answer>B</answer>": True, '"B"': False,
    "'B'": False, "\u201cB\u201d": False, "\u2018B\u2019": False, "\u201eB\u201c": False, "\u00abB\u00bb": False,
    "\u300cB\u300d": False, "(B)": False, "[B]": False, "{B}": False, "<B>": False, "\uff08B\uff09": False, "B.": False,
    "Answer: B": False, "ANSWER:B": False, "The answer is B": False, "The correct answer is: B": False,
    "So the final answer is B": False, "My answer would be B": False, "**Answer:** B": False, "**Answer**: B": False,
    "### Final Answer: B": False, "Thus, the answer to the question is B": False,
}  # fmt: skip


@pytest.mark.parametrize("text", DECORATED)
def test_one_decoration(text):
    assert core(text) == "B"
    assert core(f" {text}\n") == "B"
    assert (layers(text, MARKUP)[-1] == "B") == DECORATED[text]


@given(st.lists(st.sampled_from([text for text in DECORATED if not text.startswith(("\\bf", "```", "#"))]), max_size=5))
def test_decorations_in_each_other(decorations):
    text = "B"
    for decoration in decorations:
        around = (
            decoration.replace("B", "\0", 1)
            if "B" not in decoration[:-1]
            else decoration[::-1].replace("B", "\0", 1)[::-1]
        )
        text = around.replace("\0", text)
    assert "B" in layers(text)[-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"$\mathbf{(B)}$", ["$\\mathbf{(B)}$", "\\mathbf{(B)}", "(B)", "B"]),
        (
            'The answer is **"a dog"**.',
            ['The answer is **"a dog"**.', 'The answer is **"a dog"**', '**"a dog"**', '"a dog"', "a dog"],
        ),
        ("**B.** a dog", ["**B.** a dog", "B. a dog"]),
        (r"3\text{ cm}", [r"3\text{ cm}", "3 cm"]),
        (r"\textbf{\frac{1}{2}}", [r"\textbf{\frac{1}{2}}", r"\frac{1}{2}"]),
    ],
)
def test_layers_come_off_from_outside_to_inside(text, expected):
    assert layers(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "B", "**", "****", "``", '""', "()", "$$", "*A", "2*3*4", "a_b_c", "snake_case_name", "(1, 2)",
        "[1, 2)", "(a + b)", "(A) and (B)", "[A] [B]", "f(x)", "don't", "'tis", "'A' or 'B'", '"A" or "B"', "$5",
        "$5 to $6", "B..", "...", "<x> y", "<b>B</i>", "10^2", r"\frac{1}{2}", r"\sqrt{2}", "not B", "answers",
        "answer", "The answer", "the answering machine", "red", "\\", "{", "}", "{}", "<>",
    ],
)  # fmt: skip
def test_what_is_no_decoration_stays(text):
    assert layers(text) == [text]


def test_around_a_formula_brackets_stay():
    assert layers("**(x)**", AROUND_FORMULAS)[-1] == "(x)"
    assert layers(r"The answer is $\{x\}$.", AROUND_FORMULAS)[-1] == r"\{x\}"
