"""The order in which samples come, and where a run goes on in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.run_directory import SampleCursor

IDS = [f"s{k}" for k in range(7)]


def test_every_sample_once_an_epoch_in_a_new_order():
    cursor = SampleCursor(IDS, seed=0)
    first, second = cursor.take(7), cursor.take(7)
    assert sorted(first) == sorted(second) == IDS
    assert first != second
    assert first != IDS


def test_the_seed_is_all_the_order_depends_on():
    assert SampleCursor(IDS, seed=3).take(5) == SampleCursor(IDS, seed=3).take(5)
    assert SampleCursor(IDS, seed=3).take(7) != SampleCursor(IDS, seed=4).take(7)


@given(st.lists(st.integers(1, 7), max_size=10), st.integers(0, 10))
def test_a_stored_cursor_goes_on_where_it_was(sizes, at):
    straight, stopped = SampleCursor(IDS, seed=1), SampleCursor(IDS, seed=1)
    for k, n in enumerate(sizes):
        if k == at:
            state = stopped.state_dict()
            stopped = SampleCursor(IDS, seed=1)
            stopped.load_state_dict(state)
        taken = straight.take(n)
        assert taken == stopped.take(n)
        assert len(set(taken)) == n


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no samples"):
        SampleCursor([], seed=0)
    with pytest.raises(ValueError, match=r"got data of 7 samples, expected 8 different ones at a time; set groups_per"):
        SampleCursor(IDS, seed=0).take(8)
