"""Rollouts one iteration ahead: which weights they are from, and that nothing is lost, doubled or changed by it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import gymnasium
import pytest
import ray
import torch
from ray.exceptions import RayActorError
from ray.rllib.core.learner.training_data import TrainingData
from safetensors.torch import load_file

from tests.training import faulty
from tests.training.conftest import ENV
from tests.training.uneven import uneven
from training.config import EnvRecipe
from training.rllib.run import run_ppo
from training.rllib.sample_queue import Part
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


def is_up(actor):
    try:
        return ray.get(actor.ping.remote()) == "pong"
    except RayActorError:
        return False


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def by_hand(algorithm):
    """The schedule by hand, one thing after the other, in one process; returns the weights after four iterations."""
    runner, learners = algorithm.env_runner, algorithm.learner_group
    cursor = SampleCursor(runner.env.unwrapped.data.sample_ids(), seed=0)

    def sample(k):
        sample_ids = cursor.take(4)
        groups = {group.sample_id: group for group in runner.sample_groups([Part(sample_ids, (0, 3, k, 0))])}
        return [groups[sample_id] for sample_id in sample_ids]

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
    actors, learn = algorithm.sampler._runners._actors, algorithm._learn

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
    assert any(sampled.worker == 2 for sampled in algorithm.sampler._owed.done.values())
    ray.kill(actors[2], no_restart=False)
    algorithm.train()
    assert samples(algorithm) == cursor.take(4)
    assert versions(algorithm) == [1]
    assert algorithm.last_iteration["async/resampled"] == 0
    # A new process takes its time on a busy machine; it may not sample with the weights that it began with.
    deadline = time.monotonic() + 300
    while not all(is_up(actor) for actor in actors.values()) and time.monotonic() < deadline:
        time.sleep(1)
    algorithm.train()
    assert samples(algorithm) == cursor.take(4)
    assert versions(algorithm) == [2]
    sampled = algorithm.sampler.sample(["train-7", "train-8"])
    assert {step.weights_version for group in sampled for e in group.episodes for step in e.steps} == {4}
    assert {group.worker for group in sampled} == {1, 2}


@pytest.mark.usefixtures("ray_session")
def test_env_runners_go_on_while_weights_change_and_nothing_too_old_is_trained(build, make_recipe, tmp_path):
    recipe = make_recipe(num_env_runners=2, iterations=6, max_staleness=2, env=uneven(ENV))
    algorithm, trained = build(recipe), []
    for k in range(6):
        if k == 3:
            # What was under way is sampled again; what was finished comes along.
            n_ready, owed = len(algorithm.sampler._owed.done), algorithm.sampler.state_dict()["sample_ids"]
            saved = algorithm.save_to_path(str(tmp_path / "checkpoint"))
            algorithm.stop()
            algorithm = build(recipe)
            algorithm.restore_from_path(saved)
            assert len(algorithm.sampler._owed.done) == n_ready
            assert algorithm.sampler.state_dict()["sample_ids"] == owed
            assert len(owed) == 8
        algorithm.train()
        trained += samples(algorithm)
        assert k - 2 <= versions(algorithm)[0] <= versions(algorithm)[-1] <= k
        assert algorithm.last_iteration["async/staleness_max"] == k - versions(algorithm)[0]
        assert algorithm.last_iteration["n_episodes"] == 16
    cursor = SampleCursor(algorithm.env_runner.env.unwrapped.data.sample_ids(), seed=0)
    assert sorted(trained) == sorted(cursor.take(24))


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("num_env_runners", [0, 2])
def test_the_first_groups_that_teach_are_trained_on_and_the_rest_comes_first_next_time(
    build, make_recipe, num_env_runners
):
    few = {"max_envs_per_runner": 4, "group_size": 2, "groups_per_iteration": 3, "uniform_groups": "drop"}
    recipe = make_recipe(num_env_runners=num_env_runners, oversample=3.0, env=uneven(ENV, levels=2), **few)
    algorithm = build(recipe)
    cursor = SampleCursor(algorithm.env_runner.env.unwrapped.data.sample_ids(), seed=0)
    asked = cursor.take(9)
    groups = algorithm.sampler.groups(0)
    # Half of all pairs score alike: of nine groups fewer than three teach in 9% of all cases, and the seed is fixed.
    assert [group.weight > 0 for group in groups] == [True] * 3
    owed = algorithm.sampler.state_dict()["sample_ids"]
    assert algorithm.sampler.metrics() == {"groups/cancelled": len(owed)}
    trained = [group.sample_id for group in groups]
    assert [s for s in asked if s in {*trained, *owed}] == sorted([*trained, *owed], key=asked.index)
    assert len(owed) > 0
    again = algorithm.sampler.groups(1)
    assert {group.sample_id for group in again} <= {*owed, *cursor.take(9 - len(owed))}


@pytest.mark.usefixtures("ray_session")
def test_a_run_that_fails_does_not_wait_for_what_was_begun(build, make_recipe, monkeypatch, tmp_path):
    names = gymnasium.make(ENV.id).unwrapped.data.sample_ids()
    second = SampleCursor(names, seed=0).take(8)[4:]
    kwargs = ENV.kwargs | {"folder": str(tmp_path / "faults"), "faults": {second[0]: ["sleep", 1]}}
    algorithm = build(make_recipe(num_env_runners=1, max_staleness=1, env=EnvRecipe(id=faulty.ID, kwargs=kwargs)))

    def fail(groups):
        raise RuntimeError("no loss")

    monkeypatch.setattr(algorithm, "_learn", fail)
    with pytest.raises(RuntimeError, match="no loss"):
        algorithm.train()
    start = time.monotonic()
    algorithm.stop()
    # A sleeper would be interrupted after env_timeout (300 s).
    assert time.monotonic() - start < 60
