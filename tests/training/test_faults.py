"""Processes are killed and stopped, environments hang, disks are full: the run goes on, or says what to do.

Nothing is simulated: real signals, real processes, real limits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

pytest.importorskip("ray")
pytest.importorskip("psutil")

import psutil
import ray
import torch
from safetensors.torch import load_file

from pxr_agents.vlm import VLM
from tests.training import faulty
from tests.training.conftest import ENV
from tests.training.uneven import uneven
from training.config import EnvRecipe, LearnerRecipe, to_dict
from training.rllib.algorithm import VLMPPOConfig
from training.rllib.run import run_ppo
from training.rllib.weights import learner_weights
from training.run_directory import LostProcessError, NonFiniteError, SampleCursor, TrainingError

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make_faulty(make_recipe, tmp_path):
    """A function that makes a recipe of the search task with faults at some samples."""

    def make(faults=None, **changes):
        kwargs = make_recipe().env.kwargs | {"folder": str(tmp_path / "faults"), "faults": faults or {}}
        return make_recipe(env=EnvRecipe(id=faulty.ID, kwargs=kwargs), **changes)

    return make


@pytest.fixture(scope="module")
def batches():
    """The samples of the first iterations of four groups, as an uninterrupted run takes them."""
    ids = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0").unwrapped.data.sample_ids()
    cursor = SampleCursor(ids, seed=0)
    return [cursor.take(4) for _ in range(8)]


def rows(out, name="metrics.jsonl"):
    return [json.loads(line) for line in (Path(out) / name).read_text().splitlines()]


def comparable(out):
    """The metrics without times."""
    return [{name: value for name, value in row.items() if not name.startswith("seconds/")} for row in rows(out)]


def trained_samples(out, iterations):
    """The samples of every iteration, from the tables of all its episodes, each with its number of episodes."""
    seen = []
    for iteration in range(1, iterations + 1):
        records = rows(Path(out) / "episodes" / str(iteration), "episodes.jsonl")
        ids = [record["sample_id"] for record in records]
        seen.append({sample_id: ids.count(sample_id) for sample_id in ids})
    return seen


# What Ray calls the process of a learner.
LEARNER = "_WrappedExecutable"
TABLES = {"episode_table_every": 1, "episode_table_size": 100}


def needs_deepspeed(kind, monkeypatch, tmp_path):
    """Skips where there is none; a build directory of its own, since a lock that was left in it blocks everybody."""
    if kind != "ddp":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install pxr-gym[deepspeed]")
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))


def with_impossible_ids(sampled):
    """The group with an episode that paid, and of which the engine had said that it would never sample it.

    The ratio overflows; the loss is clipped and finite, but its gradient is 0 times infinity.
    """
    group = ray.get(sampled.group) if isinstance(sampled.group, ray.ObjectRef) else sampled.group
    first, *others = group.episodes
    tokens = dataclasses.replace(first.tokens, logprobs=np.where(first.tokens.action, -200.0, 0.0).astype(np.float32))
    *earlier, last = first.steps
    first = dataclasses.replace(first, tokens=tokens, steps=[*earlier, dataclasses.replace(last, reward=9.0)])
    group = dataclasses.replace(group, episodes=[first, *others])
    return dataclasses.replace(sampled, group=ray.put(group) if isinstance(sampled.group, ray.ObjectRef) else group)


def below(pid, name):
    """Processes below one whose title contains a name; those that are dead, and perhaps another test's, have none."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.usefixtures("ray_session")
class TestOneProcess:
    def test_an_environment_that_hangs_once_is_tried_again_and_one_that_always_does_is_replaced(
        self, make_faulty, batches
    ):
        """In the second iteration, one whose picture cannot be read is."""
        once, always, broken = batches[0][1], batches[0][2], batches[1][2]
        what = {once: ["sleep", 1], always: ["sleep", faulty.ALWAYS], broken: ["unreadable", faulty.ALWAYS]}
        recipe = make_faulty(what, env_timeout=4.0, **TABLES)
        run_ppo(recipe)
        [row, _] = rows(recipe.out)
        assert row["n_episodes"] == 16
        assert (row["faults/stuck"], row["faults/given_up"]) == (3, 1)
        # The next samples of all take their places.
        new, *second = [*batches[1], *batches[2]]
        assert trained_samples(recipe.out, 2) == [
            dict.fromkeys([batches[0][0], once, new, batches[0][3]], 4),
            dict.fromkeys([second[0], second[4], second[2], second[3]], 4),
        ]
        faults = rows(recipe.out, "faults.jsonl")
        stuck = [fault["sample_id"] for fault in faults if fault["kind"] == "stuck"]
        assert sorted(stuck) == sorted([once, always, always, broken, broken])
        [hung, unreadable] = [fault["text"] for fault in faults if fault["kind"] == "given up"]
        assert hung.startswith(f"{always} is left out, and {new} takes its place. step of faulty/Search-v0")
        assert unreadable.startswith(f"{broken} is left out, and {second[4]} takes its place.")
        assert "faulty.py" in unreadable

    def test_a_reward_that_is_no_number_stops_the_run_before_it_is_learned_from(self, make_faulty, batches):
        bad = batches[1][2]
        recipe = make_faulty({bad: ["nan", 1]}, iterations=3, checkpoint_every=1)
        with pytest.raises(TrainingError) as caught:
            run_ppo(recipe)
        text, newest = str(caught.value), Path(recipe.out) / "checkpoints" / "1"
        assert text.startswith(f"The environment gave a reward of nan for sample {bad}; expected finite numbers")
        assert f"the newest whole checkpoint is {newest}" in text
        assert f"start a new run from model={newest}/model" in text
        told = json.loads((Path(recipe.out) / "failed_batch.json").read_text())
        assert told["iteration"] == 2
        assert [row["sample_id"] for row in told["batches"]] == [bad]
        VLM.from_pretrained(newest / "model")


@pytest.mark.usefixtures("ray_session")
class TestManyProcesses:
    def test_killed_learners_and_env_runners_cost_no_sample(self, make_faulty, batches, monkeypatch, tmp_path):
        """With DeepSpeed, where it is installed."""
        kind = "zero2" if importlib.util.find_spec("deepspeed") else "ddp"
        needs_deepspeed(kind, monkeypatch, tmp_path)
        told = []

        def kill_a_learner(metrics):
            told.append(metrics["iteration"])
            if metrics["iteration"] == 3:
                below(os.getpid(), LEARNER)[-1].kill()

        recipe = make_faulty(
            # An env runner is killed in mid-sampling, by the environment it steps.
            {batches[1][0]: ["die", 1]},
            num_env_runners=2, num_learners=2, learner=LearnerRecipe(kind=kind),
            iterations=3, checkpoint_every=2, **TABLES,
        )  # fmt: skip
        run_ppo(recipe, on_iteration=kill_a_learner)
        assert told == [1, 2, 3]
        assert [row["iteration"] for row in rows(recipe.out)] == [1, 2, 3]
        assert trained_samples(recipe.out, 3) == [dict.fromkeys(batch, 4) for batch in batches[:3]]
        faults = rows(recipe.out, "faults.jsonl")
        assert [fault["kind"] for fault in faults] == ["env runner", "restart"]
        assert "died" in faults[-1]["text"]
        assert faults[-1]["text"].endswith(f"starts again from {Path(recipe.out) / 'checkpoints' / '2'}")

    @pytest.mark.parametrize(
        ("what", "told"), [("lost", "step of .* has not come back.*FileNotFoundError: what .*lost"), ("lock", "pickle")]
    )
    def test_an_error_around_a_rollout_is_told_and_no_death(self, make_faulty, build, what, told):
        """An environment that hung cannot be made anew; an episode has something that cannot be sent."""
        algorithm = build(make_faulty({"train-1": [what, faulty.ALWAYS]}, num_env_runners=1, env_timeout=4.0))
        with pytest.raises(TrainingError, match=rf"(?s)^An env runner could not sample:.*{told}") as caught:
            algorithm.sampler.sample(["train-1", "train-2"])
        assert not isinstance(caught.value, LostProcessError)
        assert not algorithm.books.faults

    def test_groups_outlive_the_env_runners_that_sampled_them(self, make_recipe):
        algorithm = VLMPPOConfig().recipe(make_recipe(num_env_runners=2, num_learners=1, env=uneven(ENV))).build_algo()
        try:
            groups = algorithm.sampler.sample(["train-1", "train-2", "train-3", "train-4"])
            for process in below(os.getpid(), "VLMEnvRunner"):
                process.kill()
            learned, _ = algorithm._learn(groups)
            assert learned["grad_norm"] > 1e-3
            assert learned["logprob_gap_max"] < 1e-4
        finally:
            algorithm.stop()

    def test_env_runners_and_learners_that_hang_are_not_waited_for(self, make_faulty, batches):
        """One keeps its interpreter inside native code; a learner is stopped."""
        stopped = []

        def stop_a_learner(metrics):
            if metrics["iteration"] == 1 and not stopped:
                stopped.append(below(os.getpid(), LEARNER)[0])
                stopped[0].suspend()

        recipe = make_faulty(
            {batches[0][3]: ["native", 1]},
            num_env_runners=1, num_learners=1, iterations=2, checkpoint_every=1,
            rollout_timeout=30.0, learner_timeout=45.0, max_restarts=3,
        )  # fmt: skip
        run_ppo(recipe, on_iteration=stop_a_learner)
        assert [row["n_episodes"] for row in rows(recipe.out)] == [16, 16]
        # On a machine that is very busy more is given up than was broken.
        lost, restart, *_ = rows(recipe.out, "faults.jsonl")
        assert lost["text"].startswith("env runner 1 did not come back within rollout_timeout=30 s and was killed")
        assert "did not finish within learner_timeout=45 s and were killed" in restart["text"]
        assert not stopped[0].is_running() or stopped[0].status() == psutil.STATUS_ZOMBIE

    @pytest.mark.parametrize("kind", ["ddp", pytest.param("zero2", marks=pytest.mark.deepspeed)])
    def test_all_learners_stop_at_a_loss_that_is_no_number(self, make_recipe, monkeypatch, tmp_path, kind):
        needs_deepspeed(kind, monkeypatch, tmp_path)
        # The first step spoils the weights, and the second minibatch shows it.
        recipe = make_recipe(num_learners=2, num_minibatches=2, lr=1e30, learner=LearnerRecipe(kind=kind))
        with pytest.raises(
            TrainingError, match=r"^The loss is not a finite number in iteration 1, on learners? "
        ) as caught:
            run_ppo(recipe)
        assert "there is no checkpoint yet" in str(caught.value)
        told = json.loads((Path(recipe.out) / "failed_batch.json").read_text())
        assert [batch["learner"] for batch in told["batches"]] == [0, 1]
        guilty = [batch for batch in told["batches"] if batch["problem"]]
        assert guilty
        assert all(row["sample_id"] in str(caught.value) for batch in guilty for row in batch["episodes"])
        assert all(row["text"] for batch in told["batches"] for row in batch["episodes"])

    @pytest.mark.parametrize(
        ("kind", "num_learners"), [("ddp", 0), pytest.param("zero2", 2, marks=pytest.mark.deepspeed)]
    )
    def test_a_step_whose_gradients_have_no_norm_is_left_out(
        self, make_recipe, monkeypatch, tmp_path, kind, num_learners
    ):
        needs_deepspeed(kind, monkeypatch, tmp_path)
        recipe = make_recipe(num_learners=num_learners, learner=LearnerRecipe(kind=kind), env=uneven(ENV))
        algorithm = VLMPPOConfig().recipe(recipe).build_algo()
        try:
            groups = [
                each for k in range(3) for each in algorithm.sampler.sample([f"train-{4 * k + i}" for i in range(4)])
            ]
            before = learner_weights(algorithm.learner_group)
            learned, _ = algorithm._learn([with_impossible_ids(groups[0]), *groups[1:4]])
            assert learned["skipped_steps"] == 1
            assert learned["loss"] < float("inf")
            assert algorithm.books.count([], learned, 0)["faults/skipped_step"] == 1
            after = learner_weights(algorithm.learner_group)
            assert all(torch.equal(before[name], after[name]) for name in before)
            learned, _ = algorithm._learn(groups[4:8])
            assert "skipped_steps" not in learned
            last = learner_weights(algorithm.learner_group)
            assert any(not torch.equal(last[name], after[name]) for name in before)
            assert all(torch.isfinite(tensor).all() for tensor in last.values())
            for k in (0, 1):
                algorithm._learn([with_impossible_ids(groups[8 + k]), *groups[9 + k : 11 + k], groups[7]])
            with pytest.raises(
                NonFiniteError, match=r"The norm of the gradients is .* 3 times in a row in iteration 1"
            ):
                algorithm._learn([with_impossible_ids(groups[0]), *groups[1:4]])
        finally:
            algorithm.stop()

    def test_the_run_ends_when_learners_keep_dying(self, make_recipe):
        def kill_a_learner(metrics):
            below(os.getpid(), LEARNER)[0].kill()

        recipe = make_recipe(num_learners=1, iterations=5, max_restarts=0)
        with pytest.raises(LostProcessError, match=r"there is no checkpoint yet\. After max_restarts=0 .*same command"):
            run_ppo(recipe, on_iteration=kill_a_learner)


class Command:
    """`python -m training ppo` in a group of processes of its own, with a mark on all that it starts."""

    def __init__(self, recipe, folder):
        self.recipe, self.file, self.mark = recipe, folder / "recipe.json", f"{folder}-{time.time()}"
        self.file.write_text(json.dumps(to_dict(recipe)))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PXR_TEST_MARK": self.mark}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "training", "ppo", str(self.file)],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0,
        )  # fmt: skip
        self.errors = ""
        # A full pipe would stop it.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.errors += line

    def wait_for(self, there, seconds=600):
        deadline = time.monotonic() + seconds
        while not there():
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.02)

    def wait_for_iteration(self, iteration):
        self.wait_for(
            lambda: (Path(self.recipe.out) / "metrics.jsonl").exists() and len(lines(self.recipe.out)) >= iteration
        )

    def end(self, seconds=600):
        status = self.process.wait(seconds)
        self._reader.join(30)
        return status

    def left_behind(self, seconds=60):
        """Processes that are still there some time after the command has ended."""
        deadline = time.monotonic() + seconds
        while (left := list(marked(self.mark))) and time.monotonic() < deadline:
            time.sleep(0.5)
        return left

    def kill(self):
        """End all that is there, also after a failed test."""
        self.process.kill()
        for process in marked(self.mark):
            with contextlib.suppress(psutil.Error):
                process.kill()


@pytest.fixture
def command(tmp_path):
    """A function that starts the command of a recipe; what is there after the test is ended."""
    started = []

    def start(recipe):
        started.append(Command(recipe, tmp_path))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def lines(out):
    return (Path(out) / "metrics.jsonl").read_text().splitlines()


def marked(mark):
    for process in psutil.process_iter():
        try:
            if process.environ().get("PXR_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            continue


def test_a_full_disk_and_a_killed_driver_cost_nothing(make_recipe, tmp_path, command):
    """One process, resumed twice: bit for bit the run that nothing happened to."""
    recipe = make_recipe(iterations=5, checkpoint_every=1, out=str(tmp_path / "broken"), num_minibatches=2)
    checkpoints = tmp_path / "broken" / "checkpoints"

    full = command(recipe)
    full.wait_for_iteration(1)
    full.wait_for((checkpoints / "1").exists)
    # No file of this process may grow beyond 50 kB any more: what a full disk does, without a disk to fill.
    resource.prlimit(full.process.pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
    assert full.end() == 1
    assert "could not be written (" in full.errors
    assert "Is the disk full? Free some, and start the same command again to resume." in full.errors
    [newest] = sorted(checkpoints.iterdir())[-1:]
    assert f"the newest whole checkpoint is {newest}" in full.errors
    assert not list(checkpoints.glob("*.partial"))
    VLM.from_pretrained(newest / "model")
    done = int(newest.name)
    assert done < 4
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 7.0, "n_epis')

    killed = command(recipe)
    killed.wait_for_iteration(done + 1)
    killed.process.kill()
    killed.end()
    assert not full.left_behind()
    assert not killed.left_behind()
    assert command(recipe).end() == 0

    straight = make_recipe(iterations=5, checkpoint_every=1, out=str(tmp_path / "straight"), num_minibatches=2)
    # By the same command: with other threads, sums are added up in another order.
    assert command(straight).end() == 0
    assert comparable(recipe.out) == comparable(straight.out)
    one, other = (load_file(Path(r.out) / "model" / "model.safetensors") for r in (recipe, straight))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_ctrl_c_twice_and_a_killed_driver_leave_nothing_behind(make_recipe, batches, command):
    """An env runner and a learner: the same samples as in a run that nothing happened to."""
    recipe = make_recipe(iterations=3, checkpoint_every=1, num_env_runners=1, num_learners=1, **TABLES)
    hurried = command(recipe)
    hurried.wait_for((Path(recipe.out) / "checkpoints" / "1").exists)
    os.killpg(hurried.process.pid, signal.SIGINT)
    time.sleep(0.2)
    os.killpg(hurried.process.pid, signal.SIGINT)
    assert hurried.end(240) == 130
    assert not hurried.left_behind()

    killed = command(recipe)
    killed.wait_for((Path(recipe.out) / "checkpoints" / "2").exists)
    killed.process.kill()
    killed.end()
    assert not killed.left_behind()
    last = command(recipe)
    assert last.end() == 0, last.errors
    assert [row["iteration"] for row in rows(recipe.out)] == [1, 2, 3]
    assert trained_samples(recipe.out, 3) == [dict.fromkeys(batch, 4) for batch in batches[:3]]
