"""Runs an agent over the samples of an environment and writes what happened."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eval.agents import build_agent
from eval.manifest import build_manifest
from eval.metrics import evaluation_metrics
from eval.records import RunDirectory
from pxr_agents.rollout import rollout
from pxr_agents.types import Agent, Episode, Job, Sampling


def evaluate(
    env_id: str,
    *,
    out: Path,
    agent: str,
    model: str | None = None,
    env_args: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    n_envs: int = 64,
    console: Console | None = None,
) -> dict[str, Any]:
    """Evaluate an agent on the first `limit` samples of an environment, in the order of its data.

    Args:
        env_id: a Gymnasium id, such as "pxr_env:pxr/SyntheticSearch-v0".
        out: directory for `manifest.json`, `episodes.jsonl` and `metrics.json`. An interrupted run there is continued
            with the samples that are missing; a finished one is an error.
        agent: see `eval.agents.build_agent`.
        model: checkpoint directory, for agents that have a model.
        env_args: arguments of the environment's constructor.
        limit: number of samples, None for all.
        seed: seed of sampling noise and random turns.
        sampling: how a model's tokens are drawn; greedy by default.
        n_envs: how many episodes run at once.
        console: where the progress bar goes; standard error by default.

    Returns:
        What `metrics.json` holds, see `eval.metrics.evaluation_metrics`, and `seconds` of this call.

    Raises:
        ValueError: an argument is out of range, or the agent is unknown.
        FileExistsError: `out` holds a finished run, or an interrupted one with other settings.
    """
    if n_envs < 1:
        raise ValueError(f"n_envs={n_envs} came; expected at least 1")
    started = time.perf_counter()
    sampling = sampling or Sampling(temperature=0.0)
    first = gymnasium.make(env_id, **(env_args or {}))
    sample_ids = first_sample_ids(first, limit)
    manifest = build_manifest(
        env=first,
        sample_ids=sample_ids,
        agent=agent,
        model=model,
        sampling=sampling if model is not None else None,
        seed=seed,
    )
    player = build_agent(agent, model=model, sampling=sampling, seed=seed)
    directory = RunDirectory(out)
    episodes = {episode.sample_id: episode for episode in directory.start(manifest)}
    jobs = [
        Job(sample_id=sample_id, seed=seed + index, group=sample_id)
        for index, sample_id in enumerate(sample_ids)
        if sample_id not in episodes
    ]
    for episode in _run(first, n_envs, player, jobs, directory, n_done=len(episodes), console=console):
        episodes[episode.sample_id] = episode
    ordered = [episodes[sample_id] for sample_id in sample_ids]
    metrics = evaluation_metrics(ordered) | {"seconds": time.perf_counter() - started}
    directory.finish(ordered, metrics)
    return metrics


def first_sample_ids(env: gymnasium.Env, limit: int | None) -> list[str]:
    """The first `limit` sample ids of the environment's data, all of them if `limit` is None.

    Raises:
        ValueError: the limit is below 1, or the data are empty.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit {limit} came; expected at least 1, or no limit for all samples")
    data = env.unwrapped.data  # type: ignore[attr-defined]
    sample_ids = list(islice(data.sample_ids(), limit))
    if not sample_ids:
        raise ValueError("the environment has no samples to evaluate on; check the data it was given")
    return sample_ids


def _run(
    first: gymnasium.Env,
    n_envs: int,
    agent: Agent,
    jobs: Sequence[Job],
    directory: RunDirectory,
    *,
    n_done: int,
    console: Console | None,
) -> list[Episode]:
    """Run `jobs` in `first` and environments like it, behind a progress bar; every episode goes to disk at once."""
    assert first.spec is not None
    envs = [first, *(gymnasium.make(first.spec) for _ in range(min(n_envs, len(jobs)) - 1))]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
    )
    n_correct = n_seen = 0
    try:
        with Progress(*columns, console=console or Console(stderr=True)) as progress:
            bar = progress.add_task("evaluating", total=n_done + len(jobs), completed=n_done)

            def on_episode(episode: Episode) -> None:
                nonlocal n_correct, n_seen
                directory.append(episode)
                n_seen += 1
                n_correct += episode.correct
                progress.update(bar, advance=1, description=f"evaluating, {n_correct / n_seen:.1%} correct")

            return rollout(envs, agent, jobs, on_episode)
    finally:
        for env in envs:
            env.close()
