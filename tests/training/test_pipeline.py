"""Rollouts one iteration ahead: which weights they are from, and that nothing is lost, doubled or changed by it."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import ray
import torch
from ray.rllib.core.learner.training_data import TrainingData
from safetensors.torch import load_file

from tests.training.conftest import ENV
from tests.training.uneven import uneven
from training.rllib import sampling
from training.rllib.run import run_ppo
from training.rllib.sampling import AHEAD
from training.rllib.weights import learner_state, learner_weights
from training.run_directory import Interrupted, SampleCursor

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are rounded alike here and in env runners, which have one thread each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def versions(algorithm):
    """Of the weights that sampled what was trained on last."""
    return sorted({step.weights_version for episode in algorithm.last_episodes for step in episode.steps})


def samples(algorithm):
    """What was trained on last, in order."""
    return list(dict.fromkeys(episode.sample_id for episode in algorithm.last_episodes))


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def by_hand(algorithm):
    """The schedule by hand, one thing after the other, in one process; returns the weights after four iterations."""
    runner, learners = algorithm.env_runner, algorithm.learner_group
    cursor = SampleCursor(runner.env.unwrapped.data.sample_ids(), seed=0)

    def sample(k):
        return runner.sample_groups(cursor.take(4), seed=(0, 3, k, 0))

    following = sample(0)
    for k in range(4):
        groups = following
        if k < 3:
            following = sample(k + 1)
        data = TrainingData(episodes=[sampled.group for sampled in groups])
        learners.update(training_data=data, iteration=k, weights_version=k, timesteps={})
        runner.set_state(learner_state(learners))
    return learner_weights(learners)


@pytest.mark.usefixtures("ray_session")
def test_it_is_the_schedule_by_hand_to_the_last_bit(build, make_recipe):
    schedule = {"iterations": 4, "num_minibatches": 2, "env": uneven(ENV)}
    recipe = make_recipe(num_env_runners=1, max_staleness=1, **schedule)
    algorithm, seen, shares, ratios = build(recipe), [], [], []
    cursor = SampleCursor(algorithm.env_runner.env.unwrapped.data.sample_ids(), seed=0)
    for _ in range(4):
        algorithm.train()
        assert samples(algorithm) == cursor.take(4)
        seen.append((versions(algorithm), algorithm.last_iteration["async/staleness_max"]))
        shares += [v for name, v in algorithm.last_iteration.items() if name == "async/overlap"]
        ratios.append(algorithm.last_iteration["learner/ratio_max"])
    assert seen == [([0], 0.0), ([0], 1.0), ([1], 1.0), ([2], 1.0)]
    assert max(ratios[1:]) > 1.001
    # The last iteration waits for nothing; those before it for what learning did not cover.
    assert algorithm.last_iteration["seconds/sample"] == 0
    assert [0 <= share <= 1 for share in shares] == [True, True, True]
    # Nothing is sampled for after the end.
    assert algorithm.books.cursor.state_dict() == {"taken": 16}
    assert_equal_weights(learner_weights(algorithm.learner_group), by_hand(build(make_recipe(**schedule))))


@pytest.mark.usefixtures("ray_session")
def test_interrupted_and_resumed_equals_uninterrupted(make_recipe, tmp_path):
    def stop_after_one(metrics):
        if metrics["iteration"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def recipe(out):
        return make_recipe(num_env_runners=1, iterations=3, max_staleness=1, out=str(tmp_path / out))

    def lines(out):
        rows = [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if not k.startswith("seconds/") and k != "async/overlap"} for row in rows]

    run_ppo(recipe("straight"))
    with pytest.raises(Interrupted):
        run_ppo(recipe("stopped"), on_iteration=stop_after_one)
    assert len(list((tmp_path / "stopped" / "checkpoints" / "1" / AHEAD).iterdir())) == 4
    run_ppo(recipe("stopped"))
    assert [row["async/staleness_max"] for row in lines("stopped")] == [0, 1, 1]
    assert lines("stopped") == lines("straight")
    weights = [load_file(tmp_path / out / "model" / "model.safetensors") for out in ("straight", "stopped")]
    assert_equal_weights(*weights)
    # The finished run owes nothing.
    assert not (tmp_path / "straight" / "checkpoints" / "3" / AHEAD).exists()


@pytest.mark.usefixtures("ray_session")
def test_what_is_too_old_or_gone_is_sampled_again(build, make_recipe, tmp_path):
    ahead = build(make_recipe(num_env_runners=1, iterations=4, max_staleness=1))
    ahead.train()
    saved = Path(ahead.save_to_path(str(tmp_path / "checkpoint")))
    ahead.train()
    expected = samples(ahead)

    # For a run in turn, the weights that sampled them are too old.
    turns = build(make_recipe(num_env_runners=1, iterations=4))
    turns.restore_from_path(str(saved))
    turns.train()
    assert (samples(turns), versions(turns)) == (expected, [1])

    # Without the files, the samples have their turn none the less.
    shutil.rmtree(saved / AHEAD)
    ahead.restore_from_path(str(saved))
    ahead.train()
    assert (samples(ahead), versions(ahead)) == (expected, [1])
    assert ahead.last_iteration["async/resampled"] == 4
    assert ahead.last_iteration["async/staleness_max"] == 0
    ahead.train()
    assert versions(ahead) == [1]
    assert ahead.last_iteration["async/resampled"] == 0


@pytest.mark.usefixtures("ray_session")
def test_a_killed_env_runner_costs_no_group(build, make_recipe, monkeypatch):
    algorithm = build(make_recipe(num_env_runners=2, iterations=10, max_staleness=1))
    cursor = SampleCursor(algorithm.env_runner.env.unwrapped.data.sample_ids(), seed=0)
    actors, learn = algorithm.env_runner_group._worker_manager.actors(), algorithm._learn

    def learn_and_kill(groups):
        learned = learn(groups)
        ray.kill(actors[1], no_restart=False)
        return learned

    with monkeypatch.context() as patch:
        patch.setattr(algorithm, "_learn", learn_and_kill)
        algorithm.train()
    assert samples(algorithm) == cursor.take(4)
    # What it owed, or had and took along, was sampled by the other one, with the same weights.
    algorithm.train()
    assert samples(algorithm) == cursor.take(4)
    assert versions(algorithm) == [0]
    assert algorithm.last_iteration["n_episodes"] == 16
    assert algorithm.last_iteration["async/resampled"] == 0

    # Between two iterations: what it has sampled ahead was handed over before, and stays.
    assert any(sampled.worker == 2 for sampled in algorithm.sampler._ready)
    ray.kill(actors[2], no_restart=False)
    algorithm.train()
    assert samples(algorithm) == cursor.take(4)
    assert versions(algorithm) == [1]
    assert algorithm.last_iteration["async/resampled"] == 0
    # A new process takes its time on a busy machine; it may not sample with the weights that it began with.
    deadline = time.monotonic() + 300
    while algorithm.env_runner_group.num_healthy_remote_workers() < 2 and time.monotonic() < deadline:
        algorithm.restore_env_runners(algorithm.env_runner_group)
        time.sleep(1)
    algorithm.train()
    assert samples(algorithm) == cursor.take(4)
    assert versions(algorithm) == [2]
    sampled = algorithm.sampler.sample(["train-7", "train-8"])
    assert {step.weights_version for group in sampled for e in group.episodes for step in e.steps} == {4}
    assert {group.worker for group in sampled} == {1, 2}


def sleep_and_tell(runner, *, file, **asked):
    time.sleep(120)
    Path(file).touch()


@pytest.mark.usefixtures("ray_session")
def test_a_run_that_fails_does_not_wait_for_what_was_begun(build, make_recipe, monkeypatch, tmp_path):
    algorithm = build(make_recipe(num_env_runners=1, max_staleness=1))
    begin = algorithm.sampler.begin

    def begin_to_sleep():
        monkeypatch.setattr(sampling, "sample_apart", functools.partial(sleep_and_tell, file=tmp_path / "awake"))
        begin()

    monkeypatch.setattr(algorithm.sampler, "begin", begin_to_sleep)

    def fail(groups):
        raise RuntimeError("no loss")

    monkeypatch.setattr(algorithm, "_learn", fail)
    with pytest.raises(RuntimeError, match="no loss"):
        algorithm.train()
    algorithm.stop()
    assert not (tmp_path / "awake").exists()
