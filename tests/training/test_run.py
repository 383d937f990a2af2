"""A PPO run is interrupted, resumed, finished and left alone."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file

from training.config import to_dict
from training.rllib.run import run_ppo
from training.run_directory import FinishedRunError, Interrupted, RunDirectory

pytestmark = [pytest.mark.ray]
ROOT = Path(__file__).resolve().parents[2]


def lines(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("seconds/")} for row in rows]


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def learner_state(out, iteration):
    """What a checkpoint holds of the learner beside its weights, and of the books of the algorithm."""
    folder = out / "checkpoints" / str(iteration)
    optimizer = pickle.loads((folder / "learner_group" / "learner" / "state.pkl").read_bytes())["optimizer"]
    return pickle.loads((folder / "algorithm_state.pkl").read_bytes())["pxr"], optimizer


def assert_same_run(one, other, iterations):
    assert weights(one).keys() == weights(other).keys()
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())
    assert [row["iteration"] for row in lines(one)] == list(range(1, iterations + 1))
    assert lines(one) == lines(other)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted(make_recipe, tmp_path):
    def stop_after_two(metrics):
        if metrics["iteration"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    recipe = make_recipe(iterations=3, num_minibatches=2, num_epochs=2, out=str(straight), checkpoint_every=1)
    run_ppo(recipe)
    recipe = make_recipe(iterations=3, num_minibatches=2, num_epochs=2, out=str(stopped))
    with pytest.raises(Interrupted, match="Stopped after iteration 2 of 3"):
        run_ppo(recipe, on_iteration=stop_after_two)
    assert not (stopped / "model").exists()
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["2"]
    # A line of an iteration that no checkpoint knows of, and half a line: both are dropped.
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"iteration": 3.0}) + '\n{"iteration": 4.0, "accu')

    seen = []
    assert run_ppo(recipe, on_iteration=lambda m: seen.append(m["iteration"])) == stopped / "model"
    assert seen == [1, 2, 3]
    assert_same_run(straight, stopped, 3)
    assert sorted(path.name for path in (straight / "checkpoints").iterdir()) == ["2", "3"]
    (books, optimizer), (other_books, other_optimizer) = learner_state(straight, 3), learner_state(stopped, 3)
    assert books["cursor"] == {"taken": 12}
    assert books == other_books
    assert pickle.dumps(optimizer) == pickle.dumps(other_optimizer)

    before = (stopped / "model" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(FinishedRunError, match="holds a finished run"):
        run_ppo(recipe)
    assert (stopped / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_another_recipe_does_not_resume_a_run(make_recipe, tmp_path):
    out = tmp_path / "run"
    (out / "checkpoints" / "1").mkdir(parents=True)
    recipe = make_recipe(seed=1)
    (out / "recipe.json").write_text(json.dumps(to_dict(recipe)))
    changed = make_recipe(seed=2, clip_coef=0.1, env=type(recipe.env)(id=recipe.env.id, kwargs={"max_turns": 2}))
    with pytest.raises(ValueError, match="another recipe") as error:
        run_ppo(changed)
    for text in ("seed: 1 before, 2 now", "clip_coef: 0.2 before, 0.1 now", "env.kwargs.max_turns: 3 before, 2 now"):
        assert text in str(error.value)
    assert "lr" not in str(error.value)
    assert json.loads((out / "recipe.json").read_text())["seed"] == 1
    # Before there is anything to lose, a recipe may be put right.
    (out / "checkpoints" / "1").rmdir()
    RunDirectory(out).claim(changed, free_keys=())
    assert json.loads((out / "recipe.json").read_text())["seed"] == 2


def start(recipe_file, out):
    command = [sys.executable, "-m", "training", "ppo", str(recipe_file), f"out={out}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


@pytest.mark.slow
def test_ctrl_c_on_the_command_line(make_recipe, tmp_path):
    """A terminal sends Ctrl-C to all processes of the command, Ray's included; they go on until the checkpoint."""
    recipe, out = make_recipe(iterations=400, num_env_runners=1), tmp_path / "stopped"
    recipe_file = tmp_path / "recipe.json"
    recipe_file.write_text(json.dumps(to_dict(recipe)))
    process = start(recipe_file, out)
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Start the same command again to resume" in errors
    assert "Traceback" not in errors
    done = int(max((out / "checkpoints").iterdir(), key=lambda path: int(path.name)).name)
    assert [row["iteration"] for row in lines(out)] == list(range(1, done + 1))

    # The number of iterations may change between starts: two more are enough here.
    recipe_file.write_text(json.dumps(to_dict(make_recipe(iterations=done + 2, num_env_runners=1))))
    process = start(recipe_file, out)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert [row["iteration"] for row in lines(out)] == list(range(1, done + 3))
    process = start(recipe_file, out)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "holds a finished run" in errors


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_what_two_learners_began_one_ends_with_their_optimizers(make_recipe, tmp_path):
    def stop(metrics):
        if metrics["iteration"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    # One minibatch: it has the same groups, however many learners there are.
    layout = {"num_learners": 2, "iterations": 2, "advantage": "gae", "num_minibatches": 1}
    straight, stopped = make_recipe(**layout, out=str(tmp_path / "a")), make_recipe(**layout, out=str(tmp_path / "b"))
    run_ppo(straight)
    with pytest.raises(Interrupted):
        run_ppo(stopped, on_iteration=stop)
    run_ppo(dataclasses.replace(stopped, num_learners=1))
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    # An Adam that had forgotten its averages would be off by about lr = 1e-3.
    assert all(torch.allclose(value, other[name], atol=1e-5) for name, value in one.items())
    assert lines(tmp_path / "a")[1]["learner/value_loss"] == pytest.approx(
        lines(tmp_path / "b")[1]["learner/value_loss"], rel=1e-4
    )


@pytest.mark.slow
def test_a_ctrl_c_while_a_finished_run_shuts_down_leaves_it_finished(make_recipe, tmp_path, monkeypatch):
    shut_down = ray.shutdown

    def interrupted_shutdown():
        shut_down()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(ray, "shutdown", interrupted_shutdown)
    recipe = make_recipe(iterations=1, out=str(tmp_path / "run"))
    assert run_ppo(recipe) == tmp_path / "run" / "model"
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_a_ctrl_c_says_what_is_left(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(Interrupted, match=r"there is no checkpoint yet\. Start the same command"), run.interruptible():
        raise KeyboardInterrupt
    run.save_checkpoint(7, lambda path: (path / "weights").write_text("w"))
    with pytest.raises(Interrupted, match=r"newest whole checkpoint is .*checkpoints/7"), run.interruptible():
        raise KeyboardInterrupt
    run.finish(lambda path: (path / "weights").write_text("w"))
    with run.interruptible():
        raise KeyboardInterrupt
