"""Estimates, the gate and the relocation, by hand and as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.curiosity import Attempts, gate, relocation, solved


def test_estimates_lean_on_the_mean_where_little_was_tried():
    assert solved(Attempts(0.0, 0.0), 0.6, prior=1.0) == 0.6
    # 2 of 3 right, and the mean counts for two more: (2 + 2 * .6) / 5.
    assert solved(Attempts(3.0, 2.0), 0.6, prior=2.0) == pytest.approx(0.64)
    assert solved(Attempts(4.0, 1.0), 0.6, prior=0.0) == 0.25
    assert Attempts(4.0, 1.0).faded(0.5) + Attempts(1.0, 1.0) == Attempts(3.0, 1.5)
    assert (Attempts().share, Attempts(4.0, 1.0).share) == (None, 0.25)


@pytest.mark.parametrize(("accuracy", "expected"), [(None, 0.0), (0.2, 0.0), (0.7, 0.0), (0.85, 0.5), (1.0, 1.0)])
def test_the_gate_opens_with_mastery(accuracy, expected):
    assert gate(accuracy, 0.7) == pytest.approx(expected)


def test_a_gate_that_never_opens_is_refused():
    with pytest.raises(ValueError, match=r"threshold is 1\.0"):
        gate(0.5, 1.0)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 20),
)
def test_relocation_pays_nobody_on_the_whole(rollouts, here, mean, strength):
    looked, free = [look for look, _ in rollouts], [is_free for _, is_free in rollouts]
    added = relocation(looked, free, solved=here, mean=mean, strength=strength)
    assert sum(one for one, is_free in zip(added, free, strict=True) if is_free) == pytest.approx(0, abs=1e-9)
    # Looking first is never worth less than not doing so where samples are solved less often than others.
    for one, look in zip(added, looked, strict=True):
        for other, other_look in zip(added, looked, strict=True):
            if look and not other_look:
                assert (one - other) * (mean - here) >= 0


def test_relocation_by_hand():
    # One of two free ones looked first; the third was made to answer.
    added = relocation([True, False, False], [True, True, False], solved=0.25, mean=0.75, strength=4.0)
    assert added == [1.0, -1.0, -1.0]
    assert relocation([True], [False], solved=0.0, mean=1.0, strength=1.0) == [0.0]
