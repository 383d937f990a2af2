"""Advantages against values computed by hand and against a second, naive implementation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.advantages import DEAD_BELOW, credit_tokens, gae, group_advantages

NUMBERS = st.floats(-10, 10, width=32)


def naive_gae(rewards, values, gamma, gae_lambda, bootstrap_value):
    """A_t = sum over k of (gamma lambda)^k delta_{t+k}, written out for every t."""
    states = [*values, bootstrap_value]
    deltas = [reward + gamma * states[t + 1] - states[t] for t, reward in enumerate(rewards)]
    return [sum((gamma * gae_lambda) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


@st.composite
def episodes(draw):
    """Turns of 1-4 action tokens, each after 0-3 observation tokens, and some observation tokens at the end."""
    turns = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), NUMBERS), min_size=1, max_size=5))
    mask, ends, rewards = [], [], []
    for observed, acted, reward in turns:
        mask += [False] * observed + [True] * acted
        ends.append(len(mask) - 1)
        rewards.append(reward)
    mask += [False] * draw(st.integers(0, 3))
    values = draw(st.lists(NUMBERS, min_size=len(mask), max_size=len(mask)))
    return rewards, ends, mask, values


RATES = st.floats(0, 1)


class TestGae:
    def test_by_hand(self):
        # One observation token, a turn of two tokens (reward 0), one observation token, a turn of one token (reward 1).
        # deltas: 0 + .5 * 3 - 2 = -.5;  0 + .5 * 4 - 3 = -1;  1 + .5 * 0 - 4 = -3
        # backwards with gamma * lambda = .25: -3;  -1 + .25 * -3 = -1.75;  -.5 + .25 * -1.75 = -.9375
        advantages, returns = gae(
            [0.0, 1.0],
            (2, 4),
            [False, True, True, False, True],
            [9.0, 2.0, 3.0, 9.0, 4.0],
            gamma=0.5,
            gae_lambda=0.5,
        )
        assert advantages.tolist() == [0.0, -0.9375, -1.75, 0.0, -3.0]
        assert returns.tolist() == [0.0, 1.0625, 1.25, 0.0, 1.0]

    @given(episodes(), RATES, RATES, NUMBERS)
    def test_recomputed(self, episode, gamma, gae_lambda, bootstrap_value):
        rewards, ends, mask, values = episode
        actions = [t for t, sampled in enumerate(mask) if sampled]
        per_action = [rewards[ends.index(t)] if t in ends else 0.0 for t in actions]
        advantages, returns = gae(
            rewards, ends, mask, values, gamma=gamma, gae_lambda=gae_lambda, bootstrap_value=bootstrap_value
        )
        expected = naive_gae(per_action, [values[t] for t in actions], gamma, gae_lambda, bootstrap_value)
        assert advantages[actions] == pytest.approx(expected, abs=1e-9)
        assert returns[actions] == pytest.approx([e + values[t] for e, t in zip(expected, actions, strict=True)])
        assert not advantages[~np.array(mask)].any()
        assert not returns[~np.array(mask)].any()

    @given(episodes(), st.data(), RATES, RATES, NUMBERS)
    def test_inserted_observation_tokens_change_nothing(self, episode, data, gamma, gae_lambda, bootstrap_value):
        rewards, ends, mask, values = episode
        constants = {"gamma": gamma, "gae_lambda": gae_lambda, "bootstrap_value": bootstrap_value}
        # In place of token t stand inserted[t] tokens of an observation, and token t itself.
        inserted = data.draw(st.lists(st.integers(0, 2), min_size=len(mask), max_size=len(mask)))
        position = [t + sum(inserted[: t + 1]) for t in range(len(mask))]
        longer_mask = np.zeros(len(mask) + sum(inserted), dtype=bool)
        longer_mask[position] = mask
        longer_values = np.full(len(longer_mask), np.nan)
        longer_values[position] = values
        longer = gae(rewards, [position[end] for end in ends], longer_mask, longer_values, **constants)
        shorter = gae(rewards, ends, mask, values, **constants)
        for long, short in zip(longer, shorter, strict=True):
            assert long[position].tolist() == short.tolist()
            assert not np.delete(long, position).any()

    @given(episodes())
    def test_lambda_one_is_the_return(self, episode):
        rewards, ends, mask, values = episode
        _, returns = gae(rewards, ends, mask, values, gamma=1.0, gae_lambda=1.0)
        for turn, end in enumerate(ends):
            assert returns[end] == pytest.approx(math.fsum(rewards[turn:]), abs=1e-9)

    def test_truncated_episodes_go_on_with_the_bootstrap_value(self):
        episode = ([0.0], (1,), [True, True], [0.5, 0.25])
        terminated = gae(*episode, gamma=0.5, gae_lambda=0.0)[0]
        truncated = gae(*episode, gamma=0.5, gae_lambda=0.0, bootstrap_value=2.0)[0]
        assert terminated.tolist() == [0.5 * 0.25 - 0.5, 0 - 0.25]
        assert truncated.tolist() == [0.5 * 0.25 - 0.5, 0.5 * 2.0 - 0.25]

    def test_an_episode_without_turns(self):
        advantages, returns = gae([], (), [False, False], [1.0, 1.0], gamma=1.0, gae_lambda=1.0)
        assert advantages.tolist() == returns.tolist() == [0.0, 0.0]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"turn_ends": (1,)}, "2 rewards for 1 turn_ends"),
            ({"turn_ends": (3, 1)}, "ascending"),
            ({"turn_ends": (2, 3)}, "ascending positions of action tokens"),
            ({"turn_ends": (0, 1)}, r"the last action token \(3\)"),
            ({"action_mask": [1, 1, 0, 1]}, r"expected bool\[L\]"),
            ({"values": [0.0] * 3}, r"values have shape \[3\]"),
            ({"values": [math.nan, 0.0, 0.0, 0.0]}, "finite"),
            ({"bootstrap_value": math.inf}, "finite"),
            ({"rewards_per_turn": [math.nan, 0.0]}, "rewards_per_turn"),
        ],
    )
    def test_mistakes(self, changes, message):
        arguments = {
            "rewards_per_turn": [0.0, 1.0],
            "turn_ends": (1, 3),
            "action_mask": [True, True, False, True],
            "values": [0.0] * 4,
        }
        gae(**arguments, gamma=1.0, gae_lambda=1.0)
        with pytest.raises(ValueError, match=message):
            gae(**(arguments | changes), gamma=1.0, gae_lambda=1.0)


REWARDS = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=8)


class TestGroupAdvantages:
    def test_by_hand(self):
        advantages = group_advantages([1.0, 0.0, 1.0, 0.0, 0.0, 0.0], [True, True] + [False] * 4)
        # mean of the four others = .25
        assert advantages == pytest.approx([0.75, -0.25, 0.75, -0.25, -0.25, -0.25])

    def test_a_probe_that_did_what_nobody_did(self):
        assert group_advantages([1, 0, 0, 0], [True, False, False, False]).tolist() == [1, 0, 0, 0]
        normalized = group_advantages([1, 0, 0, 0], [True, False, False, False], normalize_std=True, eps=1e-9)
        # root mean square of (1, 0, 0, 0) = .5; the others have no spread, and no advantage
        assert normalized == pytest.approx([2.0, 0.0, 0.0, 0.0])

    @given(REWARDS, REWARDS, st.booleans())
    def test_others_are_compared_as_if_there_were_no_probes(self, own, probes, normalize_std):
        flags = np.array([True] * len(probes) + [False] * len(own))
        both = group_advantages(probes + own, flags, normalize_std=normalize_std)
        alone = group_advantages(own, np.zeros(len(own), bool), normalize_std=normalize_std)
        assert np.array_equal(both[len(probes) :], alone)

    @given(REWARDS, st.booleans())
    def test_without_probes_it_is_the_advantage_of_grpo(self, rewards, normalize_std):
        mean = sum(rewards) / len(rewards)
        spread = (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5
        expected = [(r - mean) / (spread + 1e-4 if normalize_std else 1.0) for r in rewards]
        advantages = group_advantages(rewards, [False] * len(rewards), normalize_std=normalize_std)
        assert advantages == pytest.approx(expected, abs=1e-6)

    def test_a_tie_is_exactly_zero(self):
        assert group_advantages([0.1] * 7, [False] * 7).tolist() == [0.0] * 7

    def test_no_rollouts(self):
        assert group_advantages([], []).shape == (0,)

    @pytest.mark.parametrize(
        ("rewards", "probed", "message"),
        [
            ([1.0, 0.0], [True, True], "all 2 rollouts of a group are probes"),
            ([1.0, 0.0], [True], r"probed is bool\[1\]; expected bool\[2\]"),
            ([1.0, 0.0], [1, 0], "probed is int64"),
            ([1.0, np.nan], [True, False], "expected a sequence of finite numbers"),
        ],
    )
    def test_mistakes(self, rewards, probed, message):
        with pytest.raises(ValueError, match=message):
            group_advantages(rewards, probed)


# Two forced tokens, the first one unlikely, then two sampled ones.
FORCED = [True, True, False, False]


class TestCreditTokens:
    def test_a_win_is_imitated_however_unlikely(self):
        credit = credit_tokens([-14.0, -0.1, -1.0, -0.5], FORCED, 0.75)
        assert credit.advantages.tolist() == [0.75] * 4
        assert credit.trained.all()

    @pytest.mark.parametrize("advantage", [-0.25, 0.0])
    def test_a_loss_of_a_dead_opening_teaches_the_rest_only(self, advantage):
        assert DEAD_BELOW == 1e-4
        # log 1e-4 = -9.21; -9.0 and -0.3 together are below it, though neither is alone
        credit = credit_tokens([-9.0, -0.3, -1.0, -0.5], FORCED, advantage)
        assert credit.advantages.tolist() == [0.0, 0.0, advantage, advantage]
        assert credit.trained.tolist() == [False, False, True, True]

    def test_a_loss_of_a_living_opening_counts(self):
        credit = credit_tokens([-9.0, -0.1, -1.0, -0.5], FORCED, -0.25)
        assert credit.advantages.tolist() == [-0.25] * 4
        assert credit.trained.all()

    def test_the_bound(self):
        dead = [-14.0, -0.1, -1.0, -0.5]
        alive = [-0.1, -0.1, -1.0, -0.5]
        assert credit_tokens(dead, FORCED, -1.0, dead_below=0.0).trained.all()
        assert not credit_tokens(alive, FORCED, -1.0, dead_below=1.0).trained[:2].any()

    @given(st.lists(st.floats(-40, 0), max_size=6), st.floats(-2, 2))
    def test_a_rollout_that_is_no_probe_is_left_alone(self, logprobs, advantage):
        credit = credit_tokens(logprobs, [False] * len(logprobs), advantage)
        assert credit.advantages.tolist() == [advantage] * len(logprobs)
        assert credit.trained.all()

    @pytest.mark.parametrize(
        ("logprobs", "forced", "advantage", "message"),
        [
            ([-1.0], [True, False], 1.0, r"forced is bool\[2\]; expected bool\[1\]"),
            ([-1.0], [1], 1.0, "forced is int64"),
            ([-np.inf], [True], 1.0, "old_logprobs are .*; expected a sequence of finite numbers"),
            ([-1.0], [True], np.nan, "the advantage is nan"),
        ],
    )
    def test_mistakes(self, logprobs, forced, advantage, message):
        with pytest.raises(ValueError, match=message):
            credit_tokens(logprobs, forced, advantage)
