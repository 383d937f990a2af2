"""What a scorer promises, and what the registry refuses."""

import math
import sys
from fractions import Fraction

import numpy as np
import pytest

from pxr_env.scoring import Scorer, get_scorer, register_scorer, registry, scorer_names
from pxr_env.types import Sample

SAMPLE = Sample(sample_id="train-7", question="", sources=(), answers=("red",))


def scorer_of(result, **fields):
    return Scorer(name="mine", function=lambda answer, sample: result, source="ours", **fields)


@pytest.mark.parametrize(
    ("result", "score"),
    [(True, 1.0), (False, 0.0), (0, 0.0), (1, 1.0), (0.25, 0.25), (np.float32(0.5), 0.5), (Fraction(1, 2), 0.5)],
)
def test_scores_are_floats(result, score):
    value = scorer_of(result)("red", SAMPLE)
    assert type(value) is float
    assert value == score


@pytest.mark.parametrize("result", [math.nan, math.inf, -0.001, 1.001, 10**400, None, "1", [1.0]])
def test_anything_else_is_an_error_that_names_scorer_and_sample(result):
    with pytest.raises(ValueError, match=r'"mine" returned .* for sample "train-7"; expected a number from 0 to 1'):
        scorer_of(result)("red", SAMPLE)


def test_correct_is_what_reaches_the_least_correct_score():
    assert scorer_of(1).is_correct(1.0)
    assert not scorer_of(1).is_correct(0.999)
    assert scorer_of(1, correct_from=0.5).is_correct(0.5)


def test_longer_answers_are_not_read():
    assert scorer_of(1, longest_answer=3)("red", SAMPLE) == 1.0
    assert scorer_of(1, longest_answer=3)("blue", SAMPLE) == 0.0


def test_users_register_their_own(monkeypatch):
    monkeypatch.setattr(registry, "_SCORERS", dict(registry._SCORERS))

    @register_scorer("longer", source="ours", correct_from=0.5)
    def longer(answer, sample):
        return len(answer) > len(sample.answers[0])

    scorer = get_scorer("longer")
    assert (scorer.name, scorer.source, scorer("crimson", SAMPLE), scorer("red", SAMPLE)) == ("longer", "ours", 1.0, 0)
    assert scorer.is_correct(0.5)
    assert scorer_names()[-1] == "longer"
    with pytest.raises(ValueError, match='"longer" twice'):
        register_scorer("longer", source="ours")


@pytest.mark.parametrize("correct_from", [0, -1, 1.5, math.nan])
def test_a_least_correct_score_that_cannot_be(correct_from):
    with pytest.raises(ValueError, match='for the scorer "mine", expected a number above 0'):
        register_scorer("mine", source="ours", correct_from=correct_from)


def test_an_unknown_scorer_is_named():
    with pytest.raises(ValueError, match='Did you mean "exact"'):
        get_scorer("exakt")


def test_every_scorer_says_where_its_rule_comes_from():
    names = ["exact", "anls", "multiple_choice", "number", "number_strict", "auto", "iou", "math", "vqa_accuracy"]
    assert sorted(scorer_names()) == sorted(names)
    assert all(registry._SCORERS[name].source for name in names)


def test_math_says_what_to_install_when_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ImportError, match=r"pip install pxr-gym\[math\]"):
        get_scorer("math")
