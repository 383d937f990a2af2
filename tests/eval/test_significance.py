"""Paired tests against exact enumeration and published examples."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eval.intervals import ALL_SIGNS, holm, mcnemar_p, paired_test, sign_flip_p


@given(st.integers(0, 7), st.integers(0, 7))
def test_mcnemar_is_the_share_of_coin_throws_at_least_as_uneven(n_first: int, n_second: int) -> None:
    total = n_first + n_second
    throws = [sum(throw) for throw in itertools.product((0, 1), repeat=total)]
    as_uneven = sum(abs(2 * heads - total) >= abs(n_first - n_second) for heads in throws)
    assert mcnemar_p(n_first, n_second) == pytest.approx(float(Fraction(as_uneven, len(throws))))


@pytest.mark.parametrize(("n_first", "n_second"), [(900, 1100), (0, 1100), (3, 40)])
def test_mcnemar_of_many_samples(n_first: int, n_second: int) -> None:
    expected = stats.binomtest(n_first, n_first + n_second).pvalue
    assert mcnemar_p(n_first, n_second) == pytest.approx(expected, rel=1e-9)


def test_right_and_wrong_answers_are_compared_exactly() -> None:
    first = [1.0] * 5 + [0.0] * 5
    second = [1.0] * 4 + [0.0] + [1.0] * 5
    test = paired_test(first, second)
    assert (test.name, test.n_first, test.n_second, test.n) == ("mcnemar", 1, 5, 10)
    assert test.difference == pytest.approx(0.4)
    assert test.p_value == pytest.approx(14 / 64)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), max_size=16))
def test_the_sign_flip_test_of_single_answers_is_mcnemars(differences: list[float]) -> None:
    p_value = sign_flip_p(differences)
    exact = mcnemar_p(differences.count(-1.0), differences.count(1.0))
    tolerance = 1e-12 if len(differences) - differences.count(0.0) <= ALL_SIGNS else 0.02
    assert p_value == pytest.approx(exact, abs=tolerance)


@pytest.mark.parametrize("n", [5, 13])
def test_all_signs_are_tried_as_scipy_does(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    expected = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert sign_flip_p(differences) == pytest.approx(expected.pvalue)


def test_four_orders_of_a_question_are_one() -> None:
    # Three questions gained, in all of their four orders: 12 of 12 as if alone, and 3 of 3 throws of a coin.
    first, second = [0.0] * 12 + [1.0] * 8, [1.0] * 20
    assert paired_test(first, second).p_value == pytest.approx(2 / 2**12)
    test = paired_test(first, second, [f"question {number // 4}" for number in range(20)])
    assert (test.name, test.p_value, test.n, test.n_clusters, test.n_second) == ("sign-flip", 2 / 2**3, 20, 5, 12)
    assert test.low < 0 < test.high
    # Names of clusters do not matter, nor does their order.
    assert paired_test(first, second, [number % 20 for number in range(20)]).name == "mcnemar"


def test_graded_scores_are_compared_by_changing_signs() -> None:
    generator = np.random.default_rng(0)
    first = generator.random(200)
    test = paired_test(first, np.clip(first + 0.05, 0, 1))
    assert test.name == "sign-flip"
    assert test.low > 0
    # No random signs give as large a difference: 1 of 10,000.
    assert test.p_value == 1 / 10_000
    assert paired_test(first, np.clip(first + 0.05, 0, 1)) == test


def test_equal_scores_do_not_differ_as_far_as_so_few_can_tell() -> None:
    scores = [0.25, 0.5, 0.75]
    test = paired_test(scores, scores)
    assert (test.difference, test.p_value) == (0.0, 1.0)
    # Three pairs, none of which differs, with the two that are added: 1.96 sqrt(1 / 5 / 5).
    assert (test.low, test.high) == pytest.approx((-1.96 / 5, 1.96 / 5), abs=1e-4)


def test_scores_of_other_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 and 1 scores"):
        paired_test([1.0, 0.0], [1.0])


def test_holm_by_hand() -> None:
    # Sorted .01, .03, .04: times 3, 2, 1, and never smaller than the one before.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
