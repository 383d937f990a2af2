"""Runs an agent over the samples of an environment and writes what happened."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import gymnasium
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eval.agents import AgentChoice, open_agent
from eval.attempts import Watch, WatchedEnv
from eval.choice import Choice
from eval.data_hash import data_digest
from eval.differences import changes_that_matter
from eval.judge import Judge, JudgeChoice
from eval.manifest import build_manifest, score_name
from eval.metrics import evaluation_metrics
from eval.options import say
from eval.preflight import PreflightChoice, find_out
from eval.recipe import Recipe
from eval.records import RunFiles, RunRecord
from eval.suites import Suite, get_suite
from pxr_agents.chat_client import ChatClient, RemoteError, Retries
from pxr_agents.noise import episode_seed
from pxr_agents.rollout import rollout
from pxr_agents.types import Agent, Episode, Job, Sampling
from pxr_env.env import VisualReasoningEnv


def evaluate(
    suite: str | Suite,
    *,
    out: Path,
    agent: str | AgentChoice,
    model: str | None = None,
    env_args: Mapping[str, Any] | None = None,
    limit: int | None = None,
    choice: Choice | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    repeats: int = 1,
    n_envs: int = 64,
    judge: JudgeChoice | None = None,
    retry_errors: bool = False,
    recipe: Recipe | None = None,
    preflight: PreflightChoice = "none",
    console: Console | None = None,
) -> dict[str, Any]:
    """Evaluate an agent on samples of an environment.

    Args:
        suite: a suite, its name, or a Gymnasium id such as "pxr_env:pxr/SyntheticSearch-v0".
        out: directory for `manifest.json`, `episodes.jsonl` and `metrics.json`; an interrupted run there is continued.
        agent, model: who plays, or its name and the checkpoint directory.
        env_args: arguments of the environment's constructor; they override those of the suite.
        limit, choice: which samples; `limit` stands for `Choice(limit=limit)`.
        seed, sampling: of noise and random turns; how a model's tokens are drawn, greedy by default.
        repeats, n_envs: episodes per sample, and how many run at once.
        judge: the model that judges answers; by default the scorer of the environment does.
        retry_errors: continue a finished run, too, with the episodes that could not be scored.
        recipe, console: where the arguments are from, for the manifest; where progress is shown (standard error).
        preflight: whether a server is asked first what it can do, see `eval.preflight`.

    Returns:
        What `metrics.json` holds, see `eval.metrics.evaluation_metrics`, and the `seconds` of this call.

    Raises:
        ValueError: an argument is out of range, or the agent or the suite is unknown.
        FileExistsError: `out` holds a finished run, or an interrupted one with other settings.
        RemoteError: a server lacks what the task needs, takes no request or failed too often; the same call continues.
    """
    started = time.perf_counter()
    choice = _choice(choice, limit)
    suite = get_suite(suite) if isinstance(suite, str) else suite
    if isinstance(agent, str):
        greedy = Sampling(temperature=0.0)
        agent = AgentChoice(name=agent, model=model, sampling=sampling or greedy, seed=seed, concurrency=n_envs)
    _check_numbers(agent, n_envs, repeats)
    first = gymnasium.make(suite.env_id, **{**suite.arguments, **(env_args or {})})
    sample_ids = choice.choose(first)
    directory = RunFiles(out)
    manifest = build_manifest(
        env=first, suite=suite, sample_ids=sample_ids, choice=choice, agent=agent, judge=judge, repeats=repeats,
        seed=seed, concurrency=n_envs, recipe=recipe, served=_served(agent),
    )  # fmt: skip
    # Before a model is loaded for nothing.
    directory.check(manifest, changes_that_matter, reopen=retry_errors)
    if agent.server is not None and preflight != "none":
        manifest["server"]["preflight"] = _preflight(agent, first, console, may_be_blind=preflight == "blind")
    # All repeats of a sample in a row: its pictures are decoded once.
    keys = [(sample_id, repeat) for sample_id in sample_ids for repeat in range(repeats)]
    with open_agent(agent) as player:
        done = directory.start(manifest, changes_that_matter, reopen=retry_errors)
        records = _all_of(keys, done, first, player, directory, seed=seed, n_envs=n_envs, console=console)
    if judge is not None:
        get_sample = first.unwrapped.data.get  # type: ignore[attr-defined]
        Judge(judge, judge.cache or out / "judgments.jsonl").judge(records, get_sample)
    first.close()
    return _finish(directory, records) | {"seconds": time.perf_counter() - started}


def _choice(choice: Choice | None, limit: int | None) -> Choice:
    if choice is not None and limit is not None:
        raise ValueError(f"got limit={limit} and choice={choice}, expected one of them")
    return choice or Choice(limit=limit)


def _check_numbers(agent: AgentChoice, n_envs: int, repeats: int) -> None:
    if n_envs < 1 or repeats < 1:
        raise ValueError(f"got n_envs={n_envs} and repeats={repeats}, expected at least 1 of each")
    if repeats > 1 and agent.has_model and agent.sampling.temperature == 0:
        raise ValueError(f"got {repeats} repeats with temperature 0, at which all are alike; expected a temperature")


def _all_of(
    keys: Sequence[tuple[str, int]],
    done: Sequence[RunRecord],
    first: gymnasium.Env,
    player: Agent,
    directory: RunFiles,
    *,
    seed: int,
    n_envs: int,
    console: Console | None,
) -> list[RunRecord]:
    """The episodes of all keys in their order: those that are done, and the others played now."""
    records = {record.key: record for record in done}
    missing = [key for key in keys if key not in records]
    environments = siblings(first, min(n_envs, len(missing)))
    played = play(environments, player, missing, directory, seed=seed, n_done=len(records), console=console)
    records |= {record.key: record for record in played}
    return [records[key] for key in keys]


def _finish(directory: RunFiles, records: Sequence[RunRecord]) -> dict[str, Any]:
    """Complete the manifest with the hash of the data that were run, and write what came out."""
    manifest = directory.manifest()
    digests = [record.sample_sha256 or "none" for record in records if record.repeat == 0]
    directory.write_manifest(manifest | {"data": manifest["data"] | {"samples_sha256": data_digest(digests)}})
    metrics = evaluation_metrics(records, score_name=score_name(manifest))
    directory.finish(records, metrics)
    return metrics


def _hurried(agent: AgentChoice, timeout: float) -> closing[ChatClient]:
    """A client that asks a few times only: what is wrong should be known at once."""
    assert agent.server is not None
    server = replace(agent.server, timeout=min(timeout, agent.server.timeout), retries=Retries(attempts=3))
    return closing(ChatClient(server))


def _served(agent: AgentChoice) -> dict[str, Any] | None:
    """What the server says of its model, None where there is no server."""
    if agent.server is None:
        return None
    with _hurried(agent, 20.0) as client:
        return client.served_model()


def _preflight(
    agent: AgentChoice, env: gymnasium.Env, console: Console | None, *, may_be_blind: bool
) -> dict[str, Any]:
    """What the server was found to do, for the manifest.

    Raises:
        RemoteError: it lacks what the task needs.
    """
    with _hurried(agent, 300.0) as client:
        found = find_out(client, env, agent.sampling, agent.body, may_be_blind=may_be_blind)
    shown = console or Console(stderr=True)
    say(shown, found.summary(), *(f"preflight: {note}" for note in found.notes))
    if found.problems:
        raise RemoteError(f"before the run: {' '.join(found.problems)} (--no-preflight leaves these questions out)")
    return found.as_manifest()


def siblings(first: gymnasium.Env, count: int) -> list[gymnasium.Env]:
    """The first environment and others like it, `count` in all.

    They share its data, which took time to be checked, unless it has wrappers or a class of its own: what those keep
    and do is known to `gymnasium.make` alone.
    """
    if count < 1:
        return []
    environments: list[gymnasium.Env] = [first]
    base = first
    while isinstance(base, OrderEnforcing | PassiveEnvChecker):
        base = base.env
    for _ in range(count - 1):
        if type(base) is VisualReasoningEnv:
            # A running episode is all that an environment does not share, apart from the seed of its action space.
            sibling = copy.copy(base)
            sibling.action_space = copy.deepcopy(base.action_space)
            environments.append(sibling)
        else:
            assert first.spec is not None
            environments.append(gymnasium.make(first.spec))
    return environments


def play(
    environments: Sequence[gymnasium.Env],
    agent: Agent,
    keys: Sequence[tuple[str, int]],
    directory: RunFiles,
    *,
    seed: int,
    n_done: int = 0,
    title: str = "evaluating",
    console: Console | None = None,
) -> list[RunRecord]:
    """Play samples and show how far it is; every episode goes to disk at once.

    Args:
        environments: all alike; as many episodes run at once.
        keys: sample id and repeat of every episode; its place is its key for the agent.
        directory: where the episodes go; its run has begun.
        seed: what all randomness follows from, with sample and repeat.
        n_done: episodes of the run that were played before.
    """
    jobs = [
        Job(sample_id=sample_id, seed=episode_seed(seed, sample_id, repeat), group=sample_id)
        for sample_id, repeat in keys
    ]
    watch = Watch(agent, [repeat for _, repeat in keys])
    records: list[RunRecord] = []
    n_scored = n_correct = 0
    with RunProgress(title, n_done + len(jobs), n_done, console) as progress:

        def on_episode(episode: Episode) -> None:
            nonlocal n_scored, n_correct
            record = watch.record(episode)
            directory.append(record)
            records.append(record)
            n_scored += episode.error is None
            n_correct += episode.correct
            text = f"{n_correct / max(1, n_scored):.1%} correct"
            if n_scored < len(records):
                text += f", {len(records) - n_scored} not answered"
            progress.advance(text)

        rollout([WatchedEnv(environment) for environment in environments], watch, jobs, on_episode)
    return records


#: Seconds after which a line is due whatever was done, and before which none is whatever was done.
_LATEST, _EARLIEST = 30.0, 2.0


class RunProgress:
    """Shows how many episodes are done, until the end of the `with` block."""

    def __init__(self, title: str, total: int, done: int = 0, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._title, self._total, self._done = title, total, done
        self._told, self._started = done, time.monotonic()
        self._told_at = self._started
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("remaining"))
            self._bar = Progress(
                TextColumn("{task.description}"), *columns, TimeRemainingColumn(), console=self._console
            )
            self._task = self._bar.add_task(title, total=total, completed=done)

    def __enter__(self) -> RunProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, text: str) -> None:
        """One more is done; `text` says how it goes."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=f"{self._title}, {text}")
            return
        now = time.monotonic()
        waited, steps = now - self._told_at, self._done - self._told
        due = waited >= _LATEST or (waited >= _EARLIEST and steps >= self._total / 10)
        if due or self._done == self._total:
            self._told, self._told_at = self._done, now
            done = f"{self._done} of {self._total} ({self._done / self._total:.0%})"
            line = f"{self._title}: {done} after {now - self._started:.0f} s, {text}"
            say(self._console, line)
