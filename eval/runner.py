"""Runs an agent over the samples of an environment and writes what happened.

The rollout loop knows environments and agents. Here both get a thin cover: `WatchedEnv` turns data that cannot be
shown, and an agent that gave up, into the end of the episode instead of the end of the run; `Watch` counts what an
episode takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pxr_agents.chat_client import ChatClient, RemoteError, Retries, Server
from pxr_agents.remote import FailedAction, RemoteAction
from pxr_agents.rollout import rollout
from pxr_agents.types import Action, Agent, Episode, Job, Observation, Tokens, episode_seed
from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import DataError, MediaError
from pxr_env.tasks import siblings
from pxr_env.types import NoTurn
from .agents import AgentChoice, open_agent
from .judge import Judge, JudgeChoice
from .manifest import build_manifest, data_digest, image_digest, sample_digest, score_name
from .metrics import evaluation_metrics
from .options import say
from .preflight import PreflightChoice, find_out
from .records import RunFiles, RunRecord
from .suites import Choice, Recipe, Suite, get_suite

#: `info["truncated_by"]` of an episode that has no score. The last reply is the reason.
UNANSWERED = "unanswered"
#: Without a terminal, seconds after which a line is due whatever was done, and before which none is.
_LATEST, _EARLIEST = 30.0, 2.0


def evaluate(
    suite: str | Suite,
    *,
    out: Path,
    agent: str | AgentChoice,
    env_args: Mapping[str, Any] | None = None,
    choice: Choice | None = None,
    seed: int = 0,
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
        agent: who plays; a name stands for `AgentChoice(name=...)`.
        env_args: arguments of the environment's constructor; they override those of the suite.
        choice: which samples, all by default.
        seed: of noise and random turns, together with sample, repeat and turn.
        repeats, n_envs: episodes per sample, and how many run at once.
        judge: the model that judges answers instead of the environment's scorer.
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
    started, choice = time.perf_counter(), choice or Choice()
    suite = get_suite(suite) if isinstance(suite, str) else suite
    agent = AgentChoice(name=agent) if isinstance(agent, str) else agent
    _check(agent, repeats=repeats, n_envs=n_envs)
    first = _made(suite, env_args or {})
    sample_ids = choice.choose(first)
    run = RunFiles(out)
    manifest = build_manifest(
        env=first, suite=suite, sample_ids=sample_ids, choice=choice, agent=agent, served=_served(agent.server),
        judge=None if judge is None else judge.as_manifest(), repeats=repeats, seed=seed, concurrency=n_envs,
        recipe=recipe,
    )  # fmt: skip
    # Before a model is loaded for nothing.
    run.check(manifest, reopen=retry_errors)
    if agent.server is not None and preflight != "none":
        manifest["server"]["preflight"] = _preflight(agent.server, agent, first, console, preflight == "blind")
    # All repeats of a sample in a row: its pictures are decoded once.
    keys = [(sample_id, repeat) for sample_id in sample_ids for repeat in range(repeats)]
    with open_agent(agent, concurrency=min(n_envs, len(keys))) as player:
        done = {record.key: record for record in run.start(manifest, reopen=retry_errors)}
        missing = [key for key in keys if key not in done]
        environments = siblings(first, min(n_envs, len(missing)))
        played = play(environments, player, missing, run, seed=seed, n_done=len(done), console=console)
    done |= {record.key: record for record in played}
    records = [done[key] for key in keys]
    if judge is not None:
        get_sample = first.unwrapped.data.get  # type: ignore[attr-defined]
        Judge(judge, judge.cache or out / "judgments.jsonl").judge(records, get_sample)
    first.close()
    return _finish(run, records) | {"seconds": time.perf_counter() - started}


def _made(suite: Suite, env_args: Mapping[str, Any]) -> gymnasium.Env:
    """The environment of a suite; ValueError if it is somebody else's."""
    env = gymnasium.make(suite.env_id, **{**suite.arguments, **env_args})
    if not isinstance(env.unwrapped, VisualReasoningEnv):
        raise ValueError(
            f"got {suite.env_id}, a {type(env.unwrapped).__name__}; expected a visual reasoning task, whose samples "
            "and scorer a run records. Play others with pxr_agents.rollout."
        )
    return env


def _check(agent: AgentChoice, *, repeats: int, n_envs: int) -> None:
    if n_envs < 1 or repeats < 1:
        raise ValueError(f"got n_envs={n_envs} and repeats={repeats}, expected at least 1 of each")
    if repeats > 1 and agent.has_model and agent.sampling.temperature == 0:
        raise ValueError(f"got {repeats} repeats with temperature 0, at which all are alike; expected a temperature")


def _finish(run: RunFiles, records: Sequence[RunRecord]) -> dict[str, Any]:
    """Complete the manifest with the hash of the data that were run, and write what came out."""
    manifest = run.manifest()
    manifest["data"]["samples_sha256"] = data_digest(record.sample_sha256 for record in records if record.repeat == 0)
    run.write_manifest(manifest)
    metrics = evaluation_metrics(records, score_name=score_name(manifest))
    run.finish(records, metrics)
    return metrics


def _hurried(server: Server, timeout: float) -> closing[ChatClient]:
    """A client that asks a few times only: what is wrong should be known at once."""
    return closing(ChatClient(replace(server, timeout=min(timeout, server.timeout), retries=Retries(attempts=3))))


def _served(server: Server | None) -> dict[str, Any] | None:
    """What the server says of its model, None where there is no server."""
    if server is None:
        return None
    with _hurried(server, 20.0) as client:
        return client.served_model()


def _preflight(
    server: Server, agent: AgentChoice, env: gymnasium.Env, console: Console | None, may_be_blind: bool
) -> dict[str, Any]:
    """What the server was found to do, for the manifest.

    Raises:
        RemoteError: it lacks what the task needs.
    """
    with _hurried(server, 300.0) as client:
        found = find_out(client, env, agent.sampling, agent.body, may_be_blind=may_be_blind)
    say(console or Console(stderr=True), found.summary(), *(f"preflight: {note}" for note in found.notes))
    if found.problems:
        raise RemoteError(f"before the run: {' '.join(found.problems)} (--no-preflight leaves these questions out)")
    return found.as_manifest()


def play(
    environments: Sequence[gymnasium.Env],
    agent: Agent,
    keys: Sequence[tuple[str, int]],
    run: RunFiles,
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
        run: where the episodes go; it has begun.
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
    with progress(title, n_done + len(jobs), n_done, console) as advance:

        def on_episode(episode: Episode) -> None:
            nonlocal n_scored, n_correct
            records.append(watch.record(episode))
            run.append(records[-1])
            n_scored += episode.error is None
            n_correct += episode.correct
            missing = len(records) - n_scored
            advance(f"{n_correct / max(1, n_scored):.1%} correct" + (f", {missing} not answered" if missing else ""))

        rollout([WatchedEnv(environment) for environment in environments], watch, jobs, on_episode)
    return records


@contextmanager
def progress(title: str, total: int, done: int = 0, console: Console | None = None) -> Iterator[Callable[[str], None]]:
    """Shows how many episodes are done: a bar on a terminal, else a line for every tenth and every half minute.

    Gives what is to be called after each one, with a text that says how it goes.
    """
    console = console or Console(stderr=True)
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("remaining"))
        with Progress(TextColumn("{task.description}"), *columns, TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task(title, total=total, completed=done)
            yield lambda text: bar.update(task, advance=1, description=f"{title}, {text}")
        return
    told, started = done, time.monotonic()
    told_at = started

    def advance(text: str) -> None:
        nonlocal done, told, told_at
        done, now = done + 1, time.monotonic()
        waited = now - told_at
        if done == total or waited >= _LATEST or (waited >= _EARLIEST and done - told >= total / 10):
            told, told_at = done, now
            say(console, f"{title}: {done} of {total} ({done / total:.0%}) after {now - started:.0f} s, {text}")

    yield advance


class CannotBeAsked(Exception):
    """Raised by a wrapper inside a `WatchedEnv`: the episode cannot go on, and has no score for the reason given."""


class WatchedEnv(gymnasium.Wrapper):
    """An environment whose episodes end with a reason where the data, or the agent, fail.

    Attributes:
        reason: why the running episode has no score; None as long as nothing failed.
        facts: what the record keeps of the sample and of what was shown: `sample_sha256`, `cluster`, `image_sha256`.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.reason: str | None = None
        self.info: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.reason, self.facts = None, {"sample_sha256": None, "cluster": None, "image_sha256": []}
        try:
            observation, self.info = self.env.reset(seed=seed, options=options)
            self.facts["sample_sha256"] = sample_digest(self.env.unwrapped)
            self.facts["cluster"] = self.env.unwrapped.sample.cluster  # type: ignore[attr-defined]
        except (MediaError, DataError, OSError) as error:
            self.reason = f"data: {error}"
            nothing: dict[str, Any] = {"views": [], "usage": {}, "failures": {}, "reward_terms": {}, "vision_tokens": 0}
            sample_id = (options or {}).get("sample_id")
            self.info = nothing | {"sample_id": sample_id} | self._target(sample_id)
            return {"text": "", "images": ()}, self.info
        self._show(observation)
        return observation, self.info

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.reason is None:
            try:
                observation, reward, terminated, truncated, self.info = self.env.step(action)
            except (MediaError, OSError) as error:
                self.reason = f"data: {error}"
            except CannotBeAsked as error:
                self.reason = str(error)
            else:
                if not isinstance(action, NoTurn):
                    self._show(observation)
                return observation, float(reward), terminated, truncated, self.info
        target = self._target(self.info["sample_id"])
        self.info = {**self.info, **target, "reward_terms": {}, "truncated_by": UNANSWERED}
        return {"text": self.reason, "images": ()}, 0.0, False, True, self.info

    def _show(self, observation: Any) -> None:
        self.facts["image_sha256"].append([image_digest(image) for image in observation["images"]])

    def _target(self, sample_id: Any) -> dict[str, Any]:
        """What the record keeps of a sample that has no score."""
        data = getattr(self.env.unwrapped, "data", None)
        try:
            sample = None if data is None else data.get(sample_id)
        except (MediaError, DataError, OSError):
            # The row itself is broken.
            sample = None
        return {} if sample is None else {"target": sample.answers[0], "category": sample.category}


@dataclass(kw_only=True, slots=True)
class _Spending:
    """An episode: its environment, when it began and was asked last, and what it has taken so far."""

    env: WatchedEnv
    started: float
    asked: float = 0.0
    spent: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: float | None) -> None:
        if value is not None:
            self.spent[name] = self.spent.get(name, 0) + value


class Watch:
    """An agent that is watched. The finished `Episode` of a key is made a `RunRecord` right after `finish`.

    Args:
        agent: who plays; it never sees an episode whose data cannot be shown.
        repeats: for every job of the rollout, which repeat of its sample it is.
    """

    def __init__(self, agent: Agent, repeats: Sequence[int]) -> None:
        self._agent, self._repeats = agent, repeats
        self._running: dict[int, _Spending] = {}
        self._given_up: list[int] = []
        self._finished: tuple[str | None, dict[str, Any]] = (None, {})

    def start(self, key: int, env: gymnasium.Env) -> None:
        assert isinstance(env, WatchedEnv)
        self._running[key] = _Spending(env=env, started=time.perf_counter())
        if env.reason is None:
            self._agent.start(key, env)

    def submit(self, key: int, observation: Observation, info: dict[str, Any]) -> None:
        running = self._running[key]
        running.asked = time.perf_counter()
        if running.env.reason is not None:
            self._given_up.append(key)
        else:
            self._agent.submit(key, observation, info)

    def collect(self) -> list[tuple[int, Action]]:
        if self._given_up:
            given_up, self._given_up = self._given_up, []
            return [(key, Action(text="")) for key in given_up]
        actions = self._agent.collect()
        for key, action in actions:
            self._count(self._running[key], action)
        return actions

    def finish(self, key: int) -> Tokens | None:
        running = self._running.pop(key)
        env, info = running.env, running.env.info
        facts = env.facts | running.spent
        facts |= {"repeat": self._repeats[key], "seconds": time.perf_counter() - running.started}
        facts |= {"score": info.get("score"), "vision_tokens": info["vision_tokens"]}
        facts |= {name: info.get(name, 0) for name in ("duplicates", "clipped")}
        self._finished = (env.reason, facts)
        # An episode that never began is unknown to the agent.
        return self._agent.finish(key) if env.facts["sample_sha256"] is not None else None

    def record(self, episode: Episode) -> RunRecord:
        """The record of the episode that was finished last."""
        reason, facts = self._finished
        if reason is not None:
            # The turn that ended it is none, and the reply to it is the reason.
            episode.steps.pop()
            episode.error, episode.truncated_by = reason, None
        return RunRecord(episode=episode, **facts)

    @staticmethod
    def _count(running: _Spending, action: Action) -> None:
        running.add("model_seconds", time.perf_counter() - running.asked)
        if isinstance(action, FailedAction):
            running.env.reason = f"model: {action.reason}"
        elif isinstance(action, RemoteAction):
            running.add("prompt_tokens", action.prompt_tokens)
            running.add("completion_tokens", action.completion_tokens)
            running.add("n_retries", action.attempts - 1)
            running.spent["served"] = action.served
        elif action.completion is not None:
            running.add("completion_tokens", len(action.completion.token_ids))
