"""A PPO run on Ray in a directory that can be interrupted and resumed (see `training/run_directory.py`)."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError

from pxr_agents.engines.vllm.arguments import EngineError
from training.config import PPORecipe
from training.faults import Fault
from training.ppo_run import OnIteration, PPORun, open_run
from training.rllib.algorithm import VLMPPOConfig
from training.rllib.cluster import check_job, check_nodes, joined_ray
from training.rllib.learner import first_line
from training.run_directory import RESUME, LostProcessError

_LOST = (LostProcessError, EngineError, RayActorError, ObjectLostError, GetTimeoutError)
#: Seconds before a run that lost a process starts again.
RESTART_AFTER = 3.0


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
    with open_run(recipe, on_iteration) as run, ray_session(recipe):
        check_nodes(recipe)
        for restarts in itertools.count():
            try:
                _attempt(run)
                break
            except LostProcessError as error:
                newest = run.directory.newest_checkpoint()
                text = f"{error}; the run starts again from {newest or 'its beginning'}"
                run.faults.write([Fault("restart", text)], iteration=run.iteration)
                if restarts >= recipe.max_restarts or run.stop_requested():
                    raise LostProcessError(
                        f"{error}; {run.directory.newest_saved()}. After max_restarts={recipe.max_restarts} starts "
                        f"from it the run ends. {RESUME}"
                    ) from error
                # Actors and places of those that are gone are freed meanwhile.
                time.sleep(RESTART_AFTER)
    return run.directory.model


def _attempt(run: PPORun) -> None:
    """The run from its newest checkpoint to its end; raises LostProcessError if a process is lost that it needs."""
    algorithm: Any = None
    try:
        algorithm = VLMPPOConfig().recipe(run.recipe).build_algo()
        run.train(algorithm)
    except Exception as error:
        lost = lost_process(error)
        if lost is None:
            raise
        raise lost from error
    finally:
        if algorithm is not None:
            algorithm.stop()


def lost_process(error: Exception) -> LostProcessError | None:
    """The error as one that a run survives by starting again; None if it would come again."""
    if isinstance(error, LostProcessError):
        return error
    if isinstance(error, _LOST):
        return LostProcessError(first_line(error))
    return None


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
