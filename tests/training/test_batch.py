from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pxr_agents.groups import Group
from tests.training.rows import make_episode, make_tokens
from training.batch import (
    TrainingRow,
    balanced,
    buckets,
    gae_row,
    group_bytes,
    group_rows,
    loss_weights,
    make_bucket,
    minibatches,
    pack,
    replay_weight,
    split_by_row,
    token_minibatches,
)
from training.config import EnvRecipe, PPORecipe
from training.update import micro_batches


def test_group_rows_give_every_action_id_the_advantage_of_its_episode():
    episodes = [make_episode([1.0], turns=[3]), make_episode([0.0, 0.0], turns=[1, 2]), make_episode([0.5])]
    rows = group_rows(Group(sample_id="s", episodes=episodes), normalize_std=False)
    assert [row.advantages.tolist() for row in rows] == [[0.5, 0.5, 0.5], [-0.5, -0.5, -0.5], [0.0, 0.0]]
    assert [row.teaches for row in rows] == [True, True, False]
    assert rows[0].tokens is episodes[0].tokens


def test_an_episode_without_tokens_cannot_be_trained():
    episode = make_episode([1.0])
    episode.tokens = None
    with pytest.raises(ValueError, match="no tokens"):
        group_rows(Group(sample_id="s", episodes=[episode]), normalize_std=False)


def test_gae_row_equals_sums_over_the_future():
    gamma, lam = 0.9, 0.8
    episode = make_episode([0.5, 2.0], turns=[2, 3])
    values = np.array([0.1, -0.2, 0.3, 0.7, 0.4], np.float32)
    row = gae_row(episode, values, gamma=gamma, gae_lambda=lam)
    rewards = [0, 0.5, 0, 0, 2.0]
    following = [*values[1:], 0.0]
    deltas = [r + gamma * after - v for r, v, after in zip(rewards, values, following, strict=True)]
    expected = [sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:])) for t in range(5)]
    assert row.advantages == pytest.approx(expected, abs=1e-6)
    assert row.returns == pytest.approx(np.array(expected) + values, abs=1e-6)
    assert row.old_values.tolist() == values.tolist()
    # With a critic an advantage of 0 still teaches the critic.
    assert TrainingRow(tokens=row.tokens, advantages=np.zeros(5, np.float32), returns=row.returns).teaches


def row_of(turns, advantage=1.0):
    tokens = make_tokens(turns)
    return TrainingRow(tokens=tokens, advantages=np.full(int(tokens.action.sum()), advantage, np.float32))


def test_padding_is_never_trained():
    short, long = row_of([1], advantage=2.0), row_of([2, 3], advantage=-1.0)
    bucket = make_bucket([short, long])
    assert bucket.tokens.ids.shape == (2, 10)
    assert bucket.tokens.target.sum(1).tolist() == [1, 5]
    assert not bucket.tokens.target[0, 4:].any()
    assert bucket.tokens.ids[bucket.tokens.target].tolist() == [4, 4, 5, 8, 9, 10]
    assert bucket.advantages.tolist() == [2, -1, -1, -1, -1, -1]
    assert bucket.old_logprobs.tolist() == [-3, -3, -4, -7, -8, -9]


lengths = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=12)


@given(lengths)
def test_buckets_hold_every_row_once_with_little_padding(turns):
    rows = [row_of(lengths, advantage=float(k + 1)) for k, lengths in enumerate(turns)]
    made = buckets(rows)
    flat = np.concatenate([bucket.advantages.numpy() for bucket in made])
    assert sorted(flat) == sorted(np.concatenate([row.advantages for row in rows]))
    for bucket in made:
        assert int(bucket.tokens.target.sum()) == len(bucket.advantages) == len(bucket.old_logprobs)
        used = (bucket.tokens.ids > 0).sum(1)
        assert int(used.max()) <= 1.25 * int(used.min())
    for part, row in zip(split_by_row(flat, rows), rows, strict=True):
        assert part.tolist() == row.advantages.tolist()
    passes = [[bucket.tokens.ids.numel() for bucket in part] for part in micro_batches(made, 100)]
    assert [n for part in passes for n in part] == [bucket.tokens.ids.numel() for bucket in made]
    assert all(len(part) == 1 or sum(part) <= 100 for part in passes)
    assert all(sum(part) + following[0] > 100 for part, following in itertools.pairwise(passes))


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=9), st.data(), st.integers(1, 3))
def test_minibatches_hold_every_useful_row_once_an_epoch(groups, data, n_epochs):
    n = data.draw(st.integers(1, len(groups)))
    rows = [[row_of([1], advantage=float(useful)) for useful in group] for group in groups]
    useful = {id(row) for group in rows for row in group if row.teaches}
    parts = list(minibatches(rows, n_minibatches=n, n_epochs=n_epochs, rng=np.random.default_rng(0)))
    assert len(parts) == n * n_epochs
    for epoch in range(n_epochs):
        trained = [row for part in parts[epoch * n : (epoch + 1) * n] for row in part]
        assert sorted(id(row) for row in trained if row.teaches) == sorted(useful)
    for part in parts:
        assert part
        # Idle rows come alone, in a minibatch that would be empty without.
        assert all(row.teaches for row in part) or len(part) == 1


def test_the_order_of_minibatches_depends_on_the_generator_alone():
    rows = [[row_of([1], advantage=float(k + 1))] for k in range(6)]

    def order(seed):
        parts = minibatches(rows, n_minibatches=3, n_epochs=2, rng=np.random.default_rng(seed))
        return [[float(row.advantages[0]) for row in part] for part in parts]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:3] != order(1)[3:]


def test_fewer_groups_than_minibatches_are_refused():
    with pytest.raises(ValueError, match="1 groups came for 2 minibatches"):
        list(minibatches([[row_of([1])]], n_minibatches=2, n_epochs=1, rng=np.random.default_rng(0)))


def test_to_moves_everything():
    row = gae_row(make_episode([1.0]), np.zeros(2, np.float32), gamma=1, gae_lambda=1)
    moved = make_bucket([row]).to(torch.device("meta"))
    tensors = (moved.tokens.ids, moved.old_logprobs, moved.advantages, moved.returns, moved.old_values)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


class TestProbes:
    """Two probes of six. The log-probabilities of action ids are -3, -4, ... (see `make_tokens`)."""

    def group(self, *probed, others=(1.0, 0.0, 0.0, 0.0), n_forced=2):
        probes = [make_episode([reward], turns=[4], n_forced=n_forced, usage=1) for reward in probed]
        return Group(sample_id="s", episodes=[*probes, *(make_episode([reward], turns=[4]) for reward in others)])

    def test_a_dead_opening_is_learned_where_it_paid(self):
        # exp(-3 - 4) is 9e-4 and exp(-3 - 4 - 5) is 6e-6: alive and dead.
        alive = group_rows(self.group(1.0, 0.0), normalize_std=False)
        assert [row.mask.tolist() for row in alive[:2]] == [[True] * 4, [True] * 4]
        dead = group_rows(self.group(1.0, 0.0, n_forced=3), normalize_std=False)
        assert [row.mask.tolist() for row in dead[:2]] == [[True] * 4, [False] * 3 + [True]]
        assert dead[1].advantages.tolist() == [0, 0, 0, -0.25]
        assert dead[2].mask.all()

    def test_masked_ids_are_not_counted(self):
        _, lost, *_ = group_rows(self.group(1.0, 0.0, n_forced=3), normalize_std=False)
        assert (lost.n_actions, lost.n_trained) == (4, 1)
        assert make_bucket([lost, row_of([2])]).mask.tolist() == [False] * 3 + [True] * 3
        assert loss_weights([lost, row_of([2])], "token") == ([1.0, 1.0], 3.0)
        assert replace(lost, idle=True).n_trained == 0

    def test_a_lost_probe_of_forced_ids_only_teaches_nothing(self):
        won, lost, *_ = group_rows(self.group(1.0, 0.0, n_forced=4), normalize_std=False)
        assert won.teaches
        assert not lost.teaches

    def test_forced_ids_of_an_episode_that_is_no_probe_are_its_own(self):
        group = self.group(1.0, 0.0, n_forced=3)
        group.episodes[1].probe = None
        rows = group_rows(group, normalize_std=False)
        assert rows[1].mask.all()
        # Five others, of whom one is right.
        assert rows[0].advantages[0] == pytest.approx(0.8)


class TestLossWeights:
    # Groups of two and one episodes with 1 + 3 and 6 tokens; one more that teaches nothing.
    rows = (
        replace(row_of([1]), group=0),
        replace(row_of([3]), group=0),
        replace(row_of([6]), group=1),
        replace(row_of([5], advantage=0.0), group=2),
    )

    @pytest.mark.parametrize(
        ("normalization", "per_token"),
        [
            ("token", [1 / 10, 1 / 10, 1 / 10]),
            ("sequence", [1 / 3, 1 / 9, 1 / 18]),
            ("group", [1 / 8, 1 / 8, 1 / 12]),
            ("constant", [1 / 12, 1 / 12, 1 / 12]),
        ],
    )
    def test_by_hand(self, normalization, per_token):
        factors, units = loss_weights(self.rows, normalization, constant=4)
        assert [factor / units for factor in factors[:3]] == pytest.approx(per_token)

    @given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.booleans()), min_size=1, max_size=12), st.data())
    def test_units_of_learners_add_up(self, rows, data):
        """Learners that hold whole groups find the factors of one that holds everything."""
        made = [replace(row_of([n], advantage=float(useful)), group=g) for n, g, useful in rows]
        here = data.draw(st.sets(st.integers(0, 3)))
        for normalization in ("token", "sequence", "group", "constant"):
            factors, units = loss_weights(made, normalization, constant=7)
            parts = [[row for row in made if (row.group in here) == side] for side in (True, False)]
            split = [loss_weights(part, normalization, constant=7) for part in parts]
            assert sum(part_units for _, part_units in split) == units
            by_row = {
                id(row): f for part, (fs, _) in zip(parts, split, strict=True) for row, f in zip(part, fs, strict=True)
            }
            assert [by_row[id(row)] for row in made] == factors

    def test_mistakes(self):
        with pytest.raises(ValueError, match="normalization is 'mean'; expected 'token'"):
            loss_weights(self.rows, "mean")


sizes = st.lists(st.integers(1, 50), max_size=30)


@given(sizes, st.integers(1, 8))
def test_balanced_parts_differ_by_at_most_the_largest_size(numbers, n):
    parts = balanced(numbers, n)
    assert sorted(k for part in parts for k in part) == list(range(len(numbers)))
    loads = [sum(numbers[k] for k in part) for part in parts]
    assert len(loads) == n
    assert max(loads) - min(loads) <= max(numbers, default=0)


@given(sizes, st.integers(1, 60), st.integers(0, 5))
def test_packs_keep_the_limit_and_can_be_made_more(numbers, limit, more):
    parts = pack(numbers, limit)
    assert sorted(k for part in parts for k in part) == list(range(len(numbers)))
    loads = [sum(numbers[k] for k in part) for part in parts]
    assert all(load <= limit or len(part) == 1 for load, part in zip(loads, parts, strict=True))
    # A longer one counts as one that just fits.
    loads = [sum(min(numbers[k], limit) for k in part) for part in parts]
    assert max(loads) - min(loads) <= min(max(numbers, default=0), limit)
    # Another learner may need more of them.
    assert len(pack(numbers, limit, at_least=len(parts) + more)) == len(parts) + more


@given(st.lists(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=5), min_size=1, max_size=4), min_size=2,
                max_size=3), st.integers(10, 80), st.integers(1, 3), st.data())  # fmt: skip
def test_learners_make_equally_many_minibatches_of_whole_episodes(learners, limit, n_epochs, data):
    """Each learner has its own groups; the number of minibatches is the largest that one of them needs."""
    rows = [
        [[row_of([n], advantage=float(data.draw(st.booleans()))) for n in g] for g in groups] for groups in learners
    ]

    def run(groups, agree):
        rng = np.random.default_rng(0)
        return list(token_minibatches(groups, minibatch_tokens=limit, n_epochs=n_epochs, rng=rng, max_over_ranks=agree))

    needed = []
    for groups in rows:
        run(groups, lambda n: needed.append(n) or n)
    for groups in rows:
        parts = run(groups, lambda n: max(needed))
        assert len(parts) == n_epochs * max(needed)
        useful = sorted(id(row) for group in groups for row in group if row.teaches)
        for epoch in range(n_epochs):
            trained = parts[epoch * max(needed) : (epoch + 1) * max(needed)]
            assert sorted(id(row) for part in trained for row in part if row.teaches) == useful
        for part in parts:
            assert len(part) == 1 or (
                all(row.teaches for row in part) and sum(len(row.tokens.ids) for row in part) <= limit
            )


def test_bytes_of_a_group_count_a_shared_image_once():
    image, other = np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    episodes = [make_episode([1.0], turns=[1]), make_episode([0.0], turns=[1])]
    for episode, images in zip(episodes, [(image,), (image, other)], strict=True):
        episode.tokens = replace(episode.tokens, images=images)
    # Four ids each: 4 + 1 + 4 bytes, and three positions of 4 bytes.
    assert group_bytes(Group(sample_id="s", episodes=episodes)) == 2 * 4 * (4 + 1 + 4 + 12) + 48 + 12


@pytest.mark.parametrize(
    ("rewards", "alpha", "weight"),
    [
        ([1.0, 0.0, 0.5], 1.0, 0.5 + 0.5),
        # The third has no advantage, and counts for nothing, also where 0 ** 0 would be 1.
        ([1.0, 0.0, 0.5], 0.0, 2.0),
        ([0.75, 0.0, 0.0], 2.0, 0.5**2 + 2 * 0.25**2),
        ([0.1, 0.1, 0.1], 0.0, 0.0),
    ],
)
def test_the_weight_of_a_group_is_what_its_episodes_would_have(rewards, alpha, weight):
    group = Group(sample_id="s", episodes=[make_episode([reward]) for reward in rewards])
    recipe = PPORecipe(model="m", env=EnvRecipe(id="e"), replay_alpha=alpha)
    assert replay_weight(group, recipe) == pytest.approx(weight)
