"""Formulas: values by hand, threads, forks, and what takes too long."""

import os
import shutil
import signal
import sys
import threading

import pytest

from pxr_env.errors import quote
from pxr_env.scoring import mathematics
from pxr_env.scoring.mathematics import as_formula
from pxr_env.types import Sample


@pytest.fixture(scope="module")
def math():
    pytest.importorskip("math_verify")
    from pxr_env.scoring import get_scorer

    return get_scorer("math")


def sample(*answers):
    return Sample(sample_id="1", question="", sources=(), answers=answers)


@pytest.mark.parametrize(
    ("answer", "accepted", "expected"),
    [
        (r"\frac{1}{2}", "0.5", 1.0),
        ("2/4", r"$\frac12$", 1.0),
        (r"2\sqrt{2}", r"\sqrt{8}", 1.0),
        ("x + x", "2x", 1.0),
        (r"\(3\)", "3", 1.0),
        ("x = 3", "3", 1.0),
        ("170\u00b0", r"170^\circ", 1.0),
        ("1,200", "1200", 1.0),
        ("(1, 2)", "(1,2)", 1.0),
        ("12 cm", "12", 1.0),
        ("50%", "0.5", 1.0),
        ("Isosceles", "isosceles", 1.0),
        ("1e-7", "1e-7", 1.0),
        (r"10^{-7}", "0.0000001", 1.0),
        ("0.333333", r"\frac{1}{3}", 1.0),
        ("0.5x + x", "1.5x", 1.0),
        (r"6.6 \times 10^{-34}", r"66 \times 10^{-35}", 1.0),
        (r"\{10^{-7}, 1\}", r"\{1, 10^{-7}\}", 1.0),
        ("50%", "50", 1.0),
        ("0.0000001", "0.0000002", 0.0),
        ("0.0000001", "0", 0.0),
        (r"10^{-8}", r"10^{-9}", 0.0),
        ("1.00000001", "1.00000002", 0.0),
        ("10000000.01", "10000000.02", 0.0),
        ("0.00000034", r"\frac{1}{3000000}", 0.0),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", 0.0),
        (r"10^{-20}x", r"2 \times 10^{-20}x", 0.0),
        (r"(10^{-7}, 1)", r"(2 \times 10^{-7}, 1)", 0.0),
        ("0.0000001%", "0.0000002%", 0.0),
        ("X", "x", 0.0),
        ("X + 1", "x + 1", 0.0),
        ("5 mW", "5 MW", 0.0),
        ("X + 1", "1 + X", 1.0),
        ("NO", "no", 1.0),
        ("3", "4", 0.0),
        ("[1, 2]", "(1, 2)", 0.0),
        ("0.33", r"\frac{1}{3}", 0.0),
        ("3 or 4", "3", 0.0),
        ("3, 4", "3", 0.0),
        (r"3} \boxed{4", "4", 0.0),
        ("$3$ $4$", "4", 0.0),
        ("2**3", "2", 0.0),
        ("tac", "cat", 0.0),
        (r"\text{tac}", "cat", 0.0),
        ("\ud800", "3", 0.0),
        ("", "3", 0.0),
    ],
)
def test_values_by_hand(math, answer, accepted, expected):
    assert math(answer, sample(accepted)) == expected
    assert math(answer, sample("77", accepted)) == expected


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        (" x^2 ", "x^2"),
        (r"\sin(x)", r"\sin(x)"),
        ("3 apples", "3 apples"),
        ("$", None),
        ("}{", None),
        ("{" * 21 + "3" + "}" * 21, None),
        ("1" * 301, None),
    ],
)
def test_a_formula_is_all_of_the_text(text, formula):
    assert as_formula(text) == formula, quote(text)


def test_what_takes_too_long_is_unequal_and_the_next_answer_is_compared(math):
    assert math("9^{9^{9^9}}", sample("3")) == 0.0
    assert math("2/4", sample("0.5")) == 1.0


def test_threads_share_a_process_and_signals_stay_alone(math):
    handler = signal.getsignal(signal.SIGALRM)
    scores = {}
    threads = [
        threading.Thread(target=lambda i=i: scores.update({i: math(f"{i}/2", sample(str(i / 2)))})) for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scores == dict.fromkeys(range(6), 1.0)
    assert signal.getsignal(signal.SIGALRM) is handler


def test_a_process_that_died_is_replaced(math):
    assert math("2/4", sample("0.5")) == 1.0
    process = mathematics._comparer()._process
    process.kill()
    process.wait()
    assert math("2/4", sample("0.5")) == 1.0


def test_a_forked_process_starts_its_own(math):
    assert math("2/4", sample("0.5")) == 1.0
    child = os.fork()
    if child == 0:
        os._exit(int(math("3/6", sample("0.5"))) + len(mathematics._COMPARERS))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert math("2/4", sample("0.5")) == 1.0


def test_a_process_that_does_not_start_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match=r"python -m pxr_env\.scoring\.compare_formulas"):
        mathematics.Comparer().equal("1", ["2"])
