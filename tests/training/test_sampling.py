"""What dies or hangs is sampled again, what always does is found and given up: on env runners that are simulated."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ray")

from training.config import EnvRecipe, PPORecipe
from training.rllib.owed import Owed, SamplingAttempt
from training.rllib.runner_pool import equal_parts
from training.rllib.sampling import Sampler
from training.run_directory import Fault, LostProcessError, SampleCursor, TrainingError

SAMPLES = [f"s{k}" for k in range(12)]


@dataclass
class Group:
    sample_id: str
    version: int = 0
    weight: float = 1.0
    worker: int = 1

    def staleness(self, version):
        return version - self.version


class Runners:
    """`n` env runners, which die of some samples, hang at others, and fail by chance at first."""

    def __init__(self, n, kills=(), hangs=(), accidents=()):
        self.n, self.kills, self.hangs, self.accidents = n, set(kills), set(hangs), list(accidents)
        self.trained = Counter()

    def __call__(self, sample_ids, attempt, alone):
        asked = list(sample_ids[: self.n] if alone else sample_ids)
        result = SamplingAttempt()
        for k in range(self.n):
            part = asked[k :: self.n]
            if self.kills & set(part) or (attempt, k) in self.accidents:
                result.lost += [(part, f"env runner {k} died")] if part else []
            elif stuck := sorted(self.hangs & set(part)):
                result.faults.append(Fault("stuck", f"step hangs with {stuck[0]}", sample_id=stuck[0]))
            else:
                result.groups += [Group(s) for s in part]
        return result


def sample(runners, sample_ids=SAMPLES):
    faults, attempts = [], 0
    spare = iter(f"spare{k}" for k in range(100))
    owed = Owed(another=lambda taken: next(spare), report=faults.append)
    owed.samples = list(sample_ids)
    while missing := owed.missing():
        suspects = owed.suspects()
        owed.enter(runners(suspects or missing, attempts, bool(suspects)), alone=bool(suspects))
        attempts += 1
    assert set(owed.done) == set(owed.samples)
    return owed.samples, faults


@given(
    n=st.integers(1, 4),
    bad=st.sampled_from(SAMPLES),
    how=st.sampled_from(["kills", "hangs"]),
    accidents=st.lists(st.tuples(st.just(0), st.integers(0, 3)), max_size=2),
)
def test_one_bad_sample_is_found_named_and_replaced(n, bad, how, accidents):
    sampled, faults = sample(Runners(n, **{how: [bad]}, accidents=accidents))
    assert sampled == [s if s != bad else "spare0" for s in SAMPLES]
    assert [fault.sample_id for fault in faults if fault.kind == "given up"] == [bad]
    # The innocent that were beside it are not blamed.
    assert {fault.sample_id for fault in faults if fault.kind == "stuck"} == {bad}


def test_accidents_cost_nothing_but_time():
    sampled, faults = sample(Runners(2, accidents=[(0, 0), (1, 1)]))
    assert sampled == SAMPLES
    assert [fault.kind for fault in faults] == ["env runner", "env runner"]


def test_too_many_bad_samples_end_the_run_with_their_names():
    with pytest.raises(TrainingError, match=r"2 of 12 samples .*: s1, s5\..*step hangs with s1.*raise env_timeout"):
        sample(Runners(3, hangs=["s1", "s5"]))


def test_env_runners_that_bring_nothing_end_the_attempt():
    everything_dies = Runners(1, accidents=[(k, 0) for k in range(5)])
    with pytest.raises(
        LostProcessError, match=r"12 of 12 groups could not be sampled in 5 attempts \(env runner 0 died\)"
    ):
        sample(everything_dies)


def test_groups_that_are_too_old_are_owed_again_and_named():
    faults = []
    owed = Owed(another=lambda taken: "", report=faults.append)
    owed.samples = ["a", "b", "c"]
    owed.enter(SamplingAttempt(groups=[Group("c", 6), Group("a", 7)]), alone=False)
    assert owed.drop_older(9, 2) == 1
    assert (owed.missing(), list(owed.done)) == (["b", "c"], ["a"])
    assert [(fault.kind, fault.text) for fault in faults] == [
        ("too old", "Groups are more than 2 versions old and are sampled again: c")
    ]
    assert owed.drop_older(9, 2) == 0


@given(n=st.integers(0, 40), n_runners=st.integers(1, 5), capacity=st.integers(1, 9))
def test_every_sample_is_in_one_part_and_all_env_runners_have_equally_many(n, n_runners, capacity):
    samples = [str(k) for k in range(n)]
    parts = equal_parts(samples, n_runners=n_runners, capacity=capacity)
    assert [sample_id for part in parts for sample_id in part] == samples
    sizes = [len(part) for part in parts]
    assert max(sizes, default=0) <= min(capacity, min(sizes, default=0) + 1)
    assert len(parts) == n or len(parts) % n_runners == 0


class Pool:
    """In place of a `RunnerPool`: finishes one of six groups at a time, or dies of three, and half of them teach."""

    def __init__(self, seed):
        self.queue, self.running, self.under_way, self.version, self.rng = [], [], set(), 0, random.Random(seed)

    busy = property(lambda self: bool(self.queue or self.running))

    def begin(self, parts, engines, *, refill):
        samples = [sample_id for part in parts for sample_id in part.sample_ids]
        assert not self.under_way & set(samples)
        self.queue, self.under_way = [*self.queue, *samples], self.under_way | set(samples)

    def cancel(self):
        self.queue, self.running, self.under_way = [], [], set()

    def poll(self, attempt):
        new, self.queue = self.queue[: 6 - len(self.running)], self.queue[6 - len(self.running) :]
        self.running += [Group(sample_id, self.version, self.rng.choice([0.0, 1.0])) for sample_id in new]
        self.rng.shuffle(self.running)
        ended, self.running = self.running[:1], self.running[1:]
        if self.rng.random() < 0.05:
            ended, self.running = ended + self.running[:2], self.running[2:]
            attempt.lost.append(([group.sample_id for group in ended], "died"))
        else:
            attempt.groups += ended
        self.under_way -= {group.sample_id for group in ended}


@given(max_staleness=st.integers(0, 4), oversample=st.sampled_from([1.0, 1.5]), seed=st.integers(0, 99))
def test_every_sample_is_trained_on_once_with_weights_that_are_not_too_old(max_staleness, oversample, seed):
    recipe = PPORecipe(
        model="m", env=EnvRecipe(id="e"), iterations=8, groups_per_iteration=4, num_env_runners=2,
        max_staleness=max_staleness, oversample=oversample,
    )  # fmt: skip
    books = SimpleNamespace(faults=[], arms=SimpleNamespace(plan=lambda sample_ids, iteration: {}))
    books.cursor = SampleCursor([f"s{k}" for k in range(200)], seed=0)
    sampler, trained = Sampler(recipe, books, None, {}, engines=None), []
    pool = sampler._runners = Pool(seed)
    for iteration in range(8):
        groups = sampler.groups(iteration)
        assert all(0 <= group.staleness(iteration) <= max_staleness for group in groups)
        trained += [group.sample_id for group in groups]
        sampler.begin()
        sampler.finish()
        # Between iterations nothing is under way, unless env runners go on.
        assert max_staleness > 1 or not pool.busy
        sampler.weights_version = pool.version = iteration + 1
    assert len(trained) == len(set(trained)) == 32
    if oversample == 1:
        assert books.cursor.state_dict() == {"taken": 32}
        assert sampler.state_dict() == {"sample_ids": []}
