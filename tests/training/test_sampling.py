"""What dies or hangs is sampled again, what always does is found and given up: on env runners that are simulated."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.rllib.sampling import SamplingAttempt, sample_all
from training.run_directory import LostProcessError, TrainingError

SAMPLES = [f"s{k}" for k in range(12)]


@dataclass
class Group:
    sample_id: str


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
                result.stuck[stuck[0]] = f"step hangs with {stuck[0]}"
            else:
                result.groups += [Group(s) for s in part]
        return result


def sample(runners, sample_ids=SAMPLES):
    faults = []
    spare = iter(f"spare{k}" for k in range(100))
    groups = sample_all(sample_ids, runners, another=lambda taken: next(spare), report=faults.append)
    return [group.sample_id for group in groups], faults


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


def test_attempts_count_on_from_the_first_one():
    """Noise follows from the number of an attempt, so that none comes twice."""
    attempts, runners = [], Runners(2, accidents=[(1000, 0)])

    def once(sample_ids, attempt, alone):
        attempts.append(attempt)
        return runners(sample_ids, attempt, alone)

    sample_all(SAMPLES, once, another=lambda taken: "spare", report=lambda fault: None, first_attempt=1000)
    assert attempts == [1000, 1001]


def test_too_many_bad_samples_end_the_run_with_their_names():
    with pytest.raises(TrainingError, match=r"2 of 12 samples .*: s1, s5\..*step hangs with s1.*raise env_timeout"):
        sample(Runners(3, hangs=["s1", "s5"]))


def test_env_runners_that_bring_nothing_end_the_attempt():
    everything_dies = Runners(1, accidents=[(k, 0) for k in range(5)])
    with pytest.raises(
        LostProcessError, match=r"12 of 12 groups could not be sampled in 5 attempts \(env runner 0 died\)"
    ):
        sample(everything_dies)
