"""Replayed groups: which are kept, which are drawn how often, how old they are, and that a buffer goes on."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ray")

from training.rllib.algorithm import GroupSelection, ReplayBuffer
from training.rllib.env_runner import SampledGroup


def buffer(**changes):
    return ReplayBuffer(**({"size": 100, "max_bytes": 1000, "staleness": 5} | changes))


def sampled(name, weight=1.0, n_bytes=1):
    return SampledGroup(sample_id=str(name), group=f"group {name}", episodes=[], weight=weight, n_bytes=n_bytes)


def names(drawn):
    return sorted(entry.group.sample_id for entry in drawn)


def test_the_oldest_make_room():
    kept = buffer(size=3, max_bytes=10)
    for k in range(3):
        kept.add(sampled(k, n_bytes=4), iteration=k)
    assert names(kept.draw(9, iteration=3, seed=0)) == ["1", "2"]
    assert kept.n_bytes == 8
    for k in (3, 4):
        kept.add(sampled(k), iteration=k)
    assert names(kept.draw(9, iteration=4, seed=0)) == ["2", "3", "4"]
    # Larger alone than all may be together: it would push everything out and still not fit. And nothing to learn from.
    kept.add(sampled("huge", n_bytes=11), iteration=4)
    kept.add(sampled("uniform", weight=0.0), iteration=4)
    assert len(kept.kept) == 3


def test_stale_groups_are_dropped():
    kept = buffer(staleness=2)
    for k in range(3):
        kept.add(sampled(k), iteration=k)
    assert names(kept.draw(9, iteration=3, seed=0)) == ["1", "2"]
    assert len(kept.kept) == 2
    assert kept.draw(9, iteration=5, seed=0) == kept.kept == []


def test_a_group_is_drawn_as_often_as_its_weight_says():
    kept, weights, draws = buffer(), {"a": 1.0, "b": 0.4, "c": 1.5}, 2000
    for name, weight in weights.items():
        kept.add(sampled(name, weight), iteration=0)
    drawn = [kept.draw(1, iteration=1, seed=seed)[0].group.sample_id for seed in range(draws)]
    for name, weight in weights.items():
        expected = weight / sum(weights.values())
        # Four standard deviations; the seeds are fixed.
        assert abs(drawn.count(name) / draws - expected) < 4 * np.sqrt(expected * (1 - expected) / draws), name


@given(st.lists(st.sampled_from([0.0, 1e-9, 0.5, 1.0]), max_size=8), st.integers(0, 10), st.integers(0, 9))
def test_draws_are_different_groups_and_repeatable(weights, n, seed):
    first, second = buffer(), buffer()
    for kept, (k, weight) in itertools.product((first, second), enumerate(weights)):
        kept.add(sampled(k, weight), iteration=0)
    drawn = first.draw(n, iteration=3, seed=seed)
    assert len(set(names(drawn))) == len(drawn) == min(n, len(first.kept))
    # Drawing does not use anything up.
    second.draw(1, iteration=2, seed=seed)
    assert second.draw(n, iteration=3, seed=seed) == drawn


def test_iterations_and_seeds_draw_differently():
    kept = buffer()
    for k in range(50):
        kept.add(sampled(k), iteration=0)
    orders = [tuple(names(kept.draw(10, iteration=i, seed=s))) for i, s in [(1, 0), (2, 0), (1, 1)]]
    assert len(set(orders)) == 3


def test_a_replayed_group_is_as_old_as_its_rollouts_also_after_a_restart(make_recipe):
    recipe = make_recipe(uniform_groups="replay", replay_staleness=2)
    selection, resumed = GroupSelection(recipe), GroupSelection(recipe)
    assert selection.select([sampled("a")], 3, age=1)[1]["groups/replayed"] == 0
    resumed.load_state_dict(pickle.loads(pickle.dumps(selection.state_dict())))
    uniform = [sampled("b", weight=0.0)]
    for each in (selection, resumed):
        # Sampled at 2: two iterations old at 4, and too old at 5.
        [replayed], books = each.select(uniform, 4)
        assert (replayed.group, books["replay/age"], books["replay/share"]) == ("group a", 2, 1)
        assert each.select(uniform, 5)[1]["groups/replayed"] == 0
