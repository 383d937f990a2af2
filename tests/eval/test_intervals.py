"""Intervals and paired tests against SciPy, exact enumeration, published values and values by hand."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.intervals import coverage
from eval.intervals import (
    ALL_SIGNS,
    Z_95,
    cluster_sums,
    difference_interval,
    holm,
    mcnemar_p,
    mean_interval,
    paired_test,
    share_interval,
    sign_flip_p,
    wilson_interval,
)


def ones(n: int) -> np.ndarray:
    return np.ones(n)


def right(count: int, total: int) -> np.ndarray:
    return np.array([1.0] * count + [0.0] * (total - count))


@pytest.mark.parametrize("total", [1, 2, 7, 60, 191])
def test_single_answers_have_the_interval_of_scipy(total: int) -> None:
    for count in range(total + 1):
        expected = stats.binomtest(count, total).proportion_ci(method="wilson")
        assert share_interval(right(count, total), ones(total)) == pytest.approx((expected.low, expected.high))


@given(st.floats(0.5, 500), st.floats(0, 1))
def test_wilson_solves_the_score_equation(total: float, share: float) -> None:
    low, high = wilson_interval(share * total, total)
    assert -1e-9 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1 + 1e-9
    # The bounds are the p at which the score test just rejects: |share - p| = z sqrt(p (1 - p) / n).
    for p in (max(0.0, low), min(1.0, high)):
        assert abs(share - p) == pytest.approx(Z_95 * math.sqrt(p * (1 - p) / total), abs=1e-6)


@pytest.mark.parametrize(("count", "total"), [(1, 0), (-1, 5), (6, 5), (math.nan, 5), (0, math.nan)])
def test_wilson_refuses_impossible_counts(count: float, total: float) -> None:
    with pytest.raises(ValueError, match="expected 0 <= successes <= trials"):
        wilson_interval(count, total)


@pytest.mark.parametrize("interval", [share_interval, difference_interval])
def test_nothing_has_no_interval(interval: object) -> None:
    assert callable(interval)
    with pytest.raises(ValueError, match="expected at least one"):
        interval(np.zeros(2), np.zeros(2))


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("n", [2, 15, 50])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_one_more_right_answer_never_lowers_a_bound(size: int, n: int, one_by_one: bool) -> None:
    # Answers turn right cluster after cluster, or in every cluster in turn.
    order = range(n * size) if one_by_one else [c * size + k for k in range(size) for c in range(n)]
    answers, bounds = np.zeros(n * size), []
    for place in [None, *order]:
        if place is not None:
            answers[place] = 1.0
        bounds.append(share_interval(answers.reshape(n, size).sum(axis=1), size * ones(n)))
    lows, highs = zip(*bounds, strict=True)
    assert list(lows) == sorted(lows)
    assert list(highs) == sorted(highs)
    assert (lows[0], highs[-1]) == (0.0, 1.0)


def test_sixty_of_sixty_is_surer_than_fifty_nine() -> None:
    # Wilson by hand for n of n: n / (n + z^2).
    assert share_interval(right(60, 60), ones(60))[0] == pytest.approx(60 / (60 + Z_95**2))
    assert share_interval(right(59, 60), ones(60))[0] == pytest.approx(0.91145, abs=5e-6)


def test_an_effective_number_by_hand() -> None:
    # Two clusters of two, one right of each; added are 2 right and 2 wrong clusters: share 6 / 12. The two lie at 0
    # from it, the four at 1 each: 4 against 12 / 4 = 3 of independent answers. 4 answers count as 4 / (4 / 3) = 3.
    assert share_interval(ones(2), 2 * ones(2)) == pytest.approx(wilson_interval(1.5, 3))
    # Four orders that are always answered alike, of 40 questions: the interval of 40 answers.
    once = share_interval(right(30, 40), ones(40))
    assert share_interval(4 * right(30, 40), 4 * ones(40)) == pytest.approx(once)
    # A cluster that counts nothing changes nothing.
    with_it = share_interval(np.array([1.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0]))
    assert with_it == share_interval(ones(2), ones(2))


def test_graded_scores_that_are_all_equal_have_a_width() -> None:
    low, high = share_interval(0.5 * ones(60), ones(60))
    assert low < 0.49 < 0.51 < high
    assert share_interval(ones(60), ones(60)) == wilson_interval(60, 60)


def test_students_interval_by_hand() -> None:
    # 9 and 27: mean 18, standard error 9, t of one degree of freedom 12.706.
    assert mean_interval(np.array([9.0, 27.0]), ones(2)) == pytest.approx((0.0, 18 + 12.7062 * 9), abs=1e-3)
    values = np.array([1.0, 2.0, 4.0, 9.0])
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert mean_interval(values, ones(4)) == pytest.approx((max(0.0, expected.low), expected.high))
    # Two alike each: half as many independent values.
    assert mean_interval(2 * values, 2 * ones(4)) == pytest.approx((max(0.0, expected.low), expected.high))
    assert mean_interval(np.array([3.0]), ones(1)) is None
    assert mean_interval(3 * ones(5), ones(5)) == (3.0, 3.0)


def test_differences_as_agresti_and_min_have_them() -> None:
    # 12 pairs, 5 only the second and 1 only the first right: (b + c + 1) / n - d^2 of d = 4 / 14, n = 14.
    d = 4 / 14
    half = Z_95 * math.sqrt((7 / 14 - d * d) / 14)
    differences = np.array([1.0] * 5 + [-1.0] + [0.0] * 6)
    assert difference_interval(differences, ones(12)) == pytest.approx((d - half, d + half))


def test_equal_differences_have_a_width() -> None:
    for value in (-1.0, 0.0, 1.0):
        low, high = difference_interval(value * ones(12), ones(12))
        assert -1 <= low <= value <= high <= 1
        assert high - low > 0.2
        # Twelve copies of one question tell what one does.
        assert difference_interval(np.array([12 * value]), np.array([12.0])) == pytest.approx(
            difference_interval(np.array([value]), ones(1))
        )


def test_clusters_are_summed_in_order() -> None:
    sums, sizes = cluster_sums([1, 2, 3, 4], ["b", "a", "b", "c"])
    assert (sums.tolist(), sizes.tolist()) == ([4.0, 2.0, 4.0], [2.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="2 values and 1 clusters"):
        cluster_sums([1, 2], ["a"])


def test_intervals_hold_what_they_promise_for_questions_in_four_orders() -> None:
    """Answers to the four orders of a question correlate by 1/2; 1,000 sets of 50 questions."""
    as_if_alone, by_cluster = coverage(n_clusters=50, size=4, share=0.7, correlation=0.5, n_sets=1000)
    assert 0.75 <= as_if_alone <= 0.83
    assert 0.935 <= by_cluster <= 0.985


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
