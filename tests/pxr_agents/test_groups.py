"""Groups are settled where they are made: curiosity by hand, and rewards that stay the sums of their terms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_agents.groups import group_jobs, settle
from pxr_agents.statistics import term_returns
from pxr_agents.types import episode_seed
from tests.training.rows import make_episode


def test_jobs_of_two_groups_and_what_environments_are_told():
    jobs = group_jobs(["a", "b"], 2, seed=(1, 2))
    assert [(job.sample_id, job.group, job.options) for job in jobs] == [("a", 0, {})] * 2 + [("b", 1, {})] * 2
    assert [job.seed for job in jobs] == [episode_seed((1, 2), s, k) for s in "ab" for k in (0, 1)]
    told = [job.options for job in group_jobs(["a", "b"], 2, seed=(1, 2), arms={"a": ["zoom_in", None]})]
    assert told == [{"probe": "zoom_in"}, {"probe": None}, {"probe": None}, {"probe": None}]


def test_a_group_is_settled_with_its_exact_rate():
    # One of four used an operation: .5 * (.3 - .25) = .025 for it; two operations more than allowed cost .05 each.
    episodes = [make_episode([0.0, 0.0, 0.0, 1.0], usage=3), *(make_episode([0.0]) for _ in range(3))]
    settled = settle(episodes, 4)[0].episodes
    assert term_returns(settled[0]) == pytest.approx({"correct": 1.0, "curiosity": 0.025, "penalty": -0.1})
    assert settled[0].reward == pytest.approx(0.925)
    assert [step.reward for step in settled[0].steps[:3]] == [0, 0, 0]
    assert settled[0].steps[3].reward == pytest.approx(0.925)
    assert [episode.reward for episode in settled[1:]] == [0, 0, 0]
    # What came in is as it was.
    assert episodes[0].reward == 1.0
    assert "curiosity" not in episodes[0].steps[3].reward_terms


def test_a_preset_may_take_a_reward_that_an_earlier_turn_earned():
    episodes = [make_episode([1.0, 0.0], usage=1, unrepaired=True), make_episode([1.0], usage=1)]
    settled = settle(episodes, 2, preset="released-code")[0].episodes
    assert term_returns(settled[0])["correct"] == 0.0
    assert [step.reward for step in settled[0].steps] == [1.0, -1.0]
    assert term_returns(settled[1])["correct"] == 1.0


@given(
    st.lists(st.tuples(st.lists(st.floats(-2, 2), min_size=1, max_size=4), st.integers(0, 4)), min_size=1, max_size=8)
)
def test_rewards_of_steps_are_the_sums_of_their_terms(group):
    episodes = [make_episode(rewards, usage=usage) for rewards, usage in group]
    [whole] = settle(episodes, len(episodes), overrides={"alpha": 1.5})
    for before, after in zip(episodes, whole.episodes, strict=True):
        for step in after.steps:
            assert step.reward == pytest.approx(sum(step.reward_terms.values()))
        terms = term_returns(after)
        assert after.reward == pytest.approx(sum(terms.values()))
        assert terms["correct"] == pytest.approx(term_returns(before)["correct"])
        assert after.reward == pytest.approx(before.reward + terms["curiosity"] + terms["penalty"])


def test_probes_are_settled_apart():
    probes = [make_episode([reward], turns=[4], n_forced=2, usage=1) for reward in (1.0, 0.0)]
    others = [make_episode([reward], turns=[4], usage=int(k == 0)) for k, reward in enumerate((1.0, 0.0, 0.0, 0.0))]
    # One of four others used an operation: the rate is 1/4, not 3/6.
    settled = [term_returns(episode)["curiosity"] for episode in settle([*probes, *others], 6)[0].episodes]
    assert settled == pytest.approx([0, 0, 0.5 * (0.3 - 0.25), 0, 0, 0])
