"""A PPO run in a directory that can be interrupted and resumed (see `training/run_directory.py`)."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import PPORecipe
from training.errors import RESUME, LostProcessError, NonFiniteError, TrainingError
from training.faults import Fault, FaultLog
from training.logs import RunLog, WandbLog, open_wandb
from training.preflight import check_start
from training.rllib.algorithm import VLMPPOConfig
from training.rllib.cluster import check_job, check_nodes, joined_ray
from training.rllib.recovery import lost_process
from training.rllib.weights import export
from training.run_directory import Interrupted, RunDirectory, stop_signal

# What may change between the starts of one run.
FREE_KEYS = frozenset(
    {
        "iterations",
        "checkpoint_every",
        "wandb",
        "episode_table_every",
        "episode_table_size",
        "alarm_rate",
        "alarm_iterations",
        "num_env_runners",
        "num_learners",
        "max_envs_per_runner",
        "num_cpus_per_env_runner",
        "num_cpus_per_learner",
        "num_gpus_per_learner",
        "learner.gradient_checkpointing",
        "learner.micro_batch_tokens",
        "rollout_timeout",
        "engine.timeout",
        "engine.turn_timeout",
        "env_timeout",
        "learner_timeout",
        "max_restarts",
    }
)

#: Seconds before a run that lost a process starts again.
RESTART_AFTER = 3.0

OnIteration = Callable[[dict[str, float]], None]


def run_ppo(recipe: PPORecipe, *, on_iteration: OnIteration | None = None) -> Path:
    """Train by a recipe, from the beginning or from the newest checkpoint in `recipe.out`.

    Args:
        recipe: what to do.
        on_iteration: called with the metrics of every iteration, those of earlier starts of this run first.

    Returns:
        The directory of the trained model.

    Raises:
        FinishedRunError: if the run is finished already.
        Interrupted: after Ctrl-C or SIGTERM, once the iteration under way is over and its checkpoint written, or at
            once after a second one.
        TrainingError: it cannot go on: something is no number, the disk is full, an environment fails, or processes
            were lost more often than `max_restarts`. The newest checkpoint is whole.
        ValueError: if the directory holds an unfinished run of another recipe, or as `check_start`, `check_job` and
            `check_nodes` do.
        FileNotFoundError: if there is no such model.
    """
    check_job(recipe)
    run = RunDirectory(recipe.out)
    run.claim(recipe, free_keys=FREE_KEYS)
    check_start(recipe)
    with run.interruptible(), ray_session(recipe), stop_signal() as stop_requested:
        check_nodes(recipe)
        with open_wandb(recipe) as wandb:
            _with_restarts(_Attempt(recipe, run, wandb, stop_requested, on_iteration))
    return run.model


def _with_restarts(attempt: _Attempt) -> None:
    recipe, run = attempt.recipe, attempt.run
    for restarts in itertools.count():
        try:
            return attempt()
        except LostProcessError as error:
            attempt.faults.write([_restart(error, run)], iteration=attempt.iteration)
            if restarts >= recipe.max_restarts or attempt.stop_requested():
                raise LostProcessError(
                    f"{error}; {run.newest_saved()}. After max_restarts={recipe.max_restarts} starts from it the run "
                    f"ends. {RESUME}"
                ) from error
            # Actors and places of those that are gone are freed meanwhile.
            time.sleep(RESTART_AFTER)
    raise AssertionError("unreachable")


@dataclass
class _Attempt:
    """The run from its newest checkpoint to its end, unless a process is lost that it needs.

    Attributes:
        faults: where they are written down.
        iteration: the one under way.
    """

    recipe: PPORecipe
    run: RunDirectory
    wandb: WandbLog
    stop_requested: Callable[[], bool]
    on_iteration: OnIteration | None
    iteration: int = 0
    _told: int = 0

    def __post_init__(self) -> None:
        self.faults = FaultLog(self.run.faults)

    def __call__(self) -> None:
        """Train.

        Raises:
            LostProcessError: such a process was lost.
            TrainingError: it would come to the same point again.
            Interrupted: it was asked to stop.
        """
        algorithm: Any = None
        try:
            algorithm = VLMPPOConfig().recipe(self.recipe).build_algo()
            newest = self.run.newest_checkpoint()
            if newest is not None:
                algorithm.restore_from_path(str(newest.absolute()))
            with self.run.writing(self.run.metrics):
                opened = RunLog(self.recipe, self.run.out, wandb=self.wandb, keep=algorithm.iteration)
            with closing(opened) as log:
                for past in log.past:
                    self._tell(past)
                self._iterate(algorithm, log)
            self.run.finish(lambda path: _export(algorithm, self.recipe, path))
        except NonFiniteError as error:
            raise self._not_finite(error) from error
        except Exception as error:
            lost = lost_process(error)
            if lost is None:
                raise
            raise lost from error
        finally:
            if algorithm is not None:
                self.faults.write(algorithm.last_faults, iteration=self.iteration)
                algorithm.stop()

    def _iterate(self, algorithm: Any, log: RunLog) -> None:
        recipe, run = self.recipe, self.run
        while algorithm.iteration < recipe.iterations:
            self.iteration = algorithm.iteration + 1
            algorithm.train()
            with run.writing(run.metrics):
                self.faults.write(algorithm.last_faults, iteration=self.iteration)
                algorithm.last_faults = []
                metrics = log.write(algorithm.last_iteration, algorithm.last_episodes, algorithm.last_notices)
            self._tell(metrics)
            done = algorithm.iteration >= recipe.iterations
            if done or self.stop_requested() or algorithm.iteration % recipe.checkpoint_every == 0:
                with log.watch.part("checkpoint"):
                    run.save_checkpoint(algorithm.iteration, lambda path: _save(algorithm, recipe, path))
            if self.stop_requested() and not done:
                raise Interrupted(
                    f"Stopped after iteration {algorithm.iteration} of {recipe.iterations}; the checkpoint is in "
                    f"{run.checkpoints}. {RESUME}"
                )

    def _tell(self, metrics: dict[str, float]) -> None:
        """Iterations that come again after a restart are told once."""
        if self.on_iteration is not None and metrics["iteration"] > self._told:
            self._told = int(metrics["iteration"])
            self.on_iteration(metrics)

    def _not_finite(self, error: NonFiniteError) -> TrainingError:
        path = self.run.out / "failed_batch.json"
        path.write_text(
            json.dumps({"iteration": self.iteration, "problem": str(error), "batches": error.batches}, indent=1)
        )
        newest = self.run.newest_checkpoint()
        model = f"model={newest}/model" if newest else "the same model"
        return TrainingError(
            f"{error}. No step was made with it; {path} has the whole batch, and {self.run.newest_saved()}. The same "
            f"command would come to the same point: start a new run from {model} with a lower lr or max_grad_norm, or "
            f"without what is wrong with these samples."
        )


def _restart(error: LostProcessError, run: RunDirectory) -> Fault:
    newest = run.newest_checkpoint()
    return Fault("restart", f"{error}; the run starts again from {newest or 'its beginning'}")


def _save(algorithm: Any, recipe: PPORecipe, path: Path) -> None:
    """Write a checkpoint to resume from, and in its folder `model` one that everything loads."""
    algorithm.save_to_path(str(path))
    _export(algorithm, recipe, path / "model")


def _export(algorithm: Any, recipe: PPORecipe, path: Path) -> None:
    with algorithm.learner_watch.bounded():
        export(algorithm.learner_group, recipe, path)


@contextmanager
def ray_session(recipe: PPORecipe) -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, or start one on this machine for the length of the run."""
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    runners = recipe.num_env_runners * recipe.num_cpus_per_env_runner
    learners = recipe.num_learners * recipe.num_cpus_per_learner
    uses_engines = recipe.engine.kind == "vllm"
    engines = recipe.engine.num_engines * recipe.engine.num_cpus_per_engine if uses_engines else 0
    with joined_ray(runners + learners + engines):
        yield
