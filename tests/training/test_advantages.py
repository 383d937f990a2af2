"""Advantages against values computed by hand and against a second, naive implementation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.advantages import DEAD_BELOW, credit_tokens, gae, group_advantages

NUMBERS = st.floats(-10, 10, width=32)


def naive_gae(rewards, values, gamma, gae_lambda):
    """A_t = sum over k of (gamma lambda)^k delta_{t+k}, written out for every t."""
    deltas = [r + gamma * after - v for r, v, after in zip(rewards, values, [*values[1:], 0.0], strict=True)]
    return [sum((gamma * gae_lambda) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


class TestGae:
    def test_by_hand(self):
        # A turn of two ids that earned nothing, and one of one id that earned 1.
        # deltas: 0 + .5 * 3 - 2 = -.5;  0 + .5 * 4 - 3 = -1;  1 + .5 * 0 - 4 = -3
        # backwards with gamma * lambda = .25: -3;  -1 + .25 * -3 = -1.75;  -.5 + .25 * -1.75 = -.9375
        advantages, returns = gae([0.0, 0.0, 1.0], [2.0, 3.0, 4.0], gamma=0.5, gae_lambda=0.5)
        assert advantages.tolist() == [-0.9375, -1.75, -3.0]
        assert returns.tolist() == [1.0625, 1.25, 1.0]

    @given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12), st.floats(0, 1), st.floats(0, 1))
    def test_recomputed(self, ids, gamma, gae_lambda):
        rewards, values = [r for r, _ in ids], [v for _, v in ids]
        advantages, returns = gae(rewards, values, gamma=gamma, gae_lambda=gae_lambda)
        expected = naive_gae(rewards, values, gamma, gae_lambda)
        assert advantages == pytest.approx(expected, abs=1e-9)
        assert returns == pytest.approx(np.array(expected) + values, abs=1e-9)

    @given(st.lists(NUMBERS, min_size=1, max_size=8))
    def test_lambda_one_is_the_return(self, rewards):
        _, returns = gae(rewards, [0.5] * len(rewards), gamma=1.0, gae_lambda=1.0)
        assert returns == pytest.approx([math.fsum(rewards[t:]) for t in range(len(rewards))], abs=1e-9)

    def test_mistakes(self):
        with pytest.raises(ValueError, match="2 rewards came for 1 values"):
            gae([0.0, 1.0], [0.0], gamma=1.0, gae_lambda=1.0)


REWARDS = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=8)


class TestGroupAdvantages:
    def test_by_hand(self):
        advantages = group_advantages([1.0, 0.0, 1.0, 0.0, 0.0, 0.0], [True, True] + [False] * 4)
        # mean of the four others = .25
        assert advantages == pytest.approx([0.75, -0.25, 0.75, -0.25, -0.25, -0.25])

    def test_a_probe_that_did_what_nobody_did(self):
        assert group_advantages([1, 0, 0, 0], [True, False, False, False]).tolist() == [1, 0, 0, 0]
        normalized = group_advantages([1, 0, 0, 0], [True, False, False, False], normalize_std=True)
        # root mean square of (1, 0, 0, 0) = .5; the others have no spread, and no advantage
        assert normalized == pytest.approx([1 / 0.5001, 0.0, 0.0, 0.0])

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
