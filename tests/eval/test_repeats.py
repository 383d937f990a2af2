"""pass@k and the majority's vote, by hand and by counting."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.intervals import wilson_interval
from eval.metrics import evaluation_metrics
from eval.records import Record
from eval.repeats import majority, pass_at_k
from pxr_agents.types import Episode


def record(sample_id: str, repeat: int, answer: str | None, correct: bool, error: str | None = None) -> Record:
    episode = Episode(task="t", sample_id=sample_id, answer=answer, correct=correct, error=error)
    return Record(episode=episode, repeat=repeat, score=float(correct))


def test_pass_at_k_by_hand() -> None:
    # 5 answers, 2 right: of the 10 pairs the 3 among the wrong ones fail.
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)
    assert pass_at_k(5, 2, 1) == pytest.approx(0.4)
    assert pass_at_k(5, 2, 4) == 1.0
    assert pass_at_k(5, 0, 5) == 0.0


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(correct: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(correct)))
    subsets = [any(subset) for subset in itertools.combinations(correct, k)]
    assert pass_at_k(len(correct), sum(correct), k) == pytest.approx(sum(subsets) / len(subsets))


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, 1, 0), (3, 1, 4), (3, -1, 1)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= correct <= n"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["a", "b", "b"], True),
        (["a", "a", "b"], False),
        # Normalized texts are compared.
        (["a", " B. ", "b"], True),
        # A tie goes to the answer that came first.
        (["b", "a"], True),
        (["a", "b"], False),
        # Who did not answer does not vote.
        ([None, None, "b"], True),
        ([None, None], False),
    ],
)
def test_majority(answers: list[str | None], expected: bool) -> None:
    records = [
        record("s", repeat, answer, answer is not None and answer.strip(" .").lower() == "b")
        for repeat, answer in enumerate(answers)
    ]
    assert majority(records[::-1]) is expected


def test_statistics_over_samples_with_repeats() -> None:
    records = [
        *(record("1", repeat, answer, answer == "b") for repeat, answer in enumerate("aabb")),
        *(record("2", repeat, "b", True) for repeat in range(4)),
        record("3", 0, "b", True),
        record("3", 1, None, False, error="model: away"),
    ]
    metrics = evaluation_metrics(records)
    statistics = metrics["statistics"]
    assert (statistics["n_episodes"], statistics["n_errors"]) == (9, 1)
    assert statistics["accuracy"] == pytest.approx(7 / 9)
    # Sample 3 has one answer: it counts for k = 1 only. Sample 1: 1 - C(2, 2) / C(4, 2) = 5/6 for k = 2.
    assert statistics["pass@1"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert statistics["pass@2"] == pytest.approx((5 / 6 + 1) / 2)
    assert statistics["pass@4"] == 1.0
    # "a" and "b" have two votes in sample 1, and "a" came first.
    assert statistics["majority_accuracy"] == pytest.approx(2 / 3)
    assert metrics["intervals"]["pass@4"] == pytest.approx(wilson_interval(2, 2))
