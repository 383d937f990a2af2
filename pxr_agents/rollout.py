"""The rollout loop: the only one. Training and evaluation call it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium

from pxr_agents.types import CONTEXT, Action, Agent, ContextFull, Episode, Job, Observation, Step, episode_seed
from pxr_env.curiosity import followed_probe
from pxr_env.types import NoTurn

#: Watches: called with an environment, its running episode and what it shows now.
OnStep = Callable[[gymnasium.Env, Episode, Observation], None]


@dataclass(slots=True)
class _Running:
    env: gymnasium.Env
    episode: Episode
    seed: int


def rollout(
    envs: Sequence[gymnasium.Env],
    agent: Agent,
    jobs: Sequence[Job],
    on_episode: Callable[[Episode], None] | None = None,
    on_step: OnStep | None = None,
) -> list[Episode]:
    """Run every job to its end.

    Args:
        on_episode: called with each episode as it ends (progress, writing to disk).
        envs, on_step: as for `rollouts`.

    Returns:
        The episodes, in the order of `jobs`.
    """
    if jobs and not envs:
        raise ValueError(f"got {len(jobs)} jobs with no environment to run them in; pass at least one")
    episodes: dict[int, Episode] = {}
    for key, episode in rollouts(envs, agent, jobs, on_step):
        episodes[key] = episode
        if on_episode is not None:
            on_episode(episode)
    return [episodes[key] for key in range(len(jobs))]


def rollouts(
    envs: Iterable[gymnasium.Env], agent: Agent, jobs: Iterable[Job], on_step: OnStep | None = None
) -> Iterator[tuple[int, Episode]]:
    """Every episode as it ends, with the place of its job.

    As many episodes run at once as there are environments; a freed environment takes the next job. The loop
    does not wait for all turns: whatever the agent has finished is stepped and submitted again, so the same
    loop serves lock-step engines and asynchronous ones. An episode whose conversation outgrows the model's context
    (`ContextFull`) ends without an answer.

    Args:
        envs: environments of one task (all alike); the next is made only when a job waits for it.
        jobs: the next is asked for only when there is an environment for it.
        on_step: called after each reset and each turn, before the agent is asked again. What it raises ends the
            rollout.
    """
    waiting, unused = enumerate(jobs), iter(envs)
    free: list[gymnasium.Env] = []
    running: dict[int, _Running] = {}
    while True:
        while (env := free.pop() if free else next(unused, None)) is not None:
            if (following := next(waiting, None)) is None:
                free.append(env)
                break
            key, job = following
            running[key] = _start(env, agent, key, job, on_step)
        if not running:
            return
        for key, action in agent.collect():
            run = running[key]
            if isinstance(action, ContextFull):
                info = _end_without_answer(run)
            else:
                observation, ended, info = _play(run, action)
                if on_step is not None:
                    on_step(run.env, run.episode, observation)
                if not ended:
                    agent.submit(key, observation, info | {"episode_seed": run.seed})
                    continue
            del running[key]
            free.append(run.env)
            _finish(run.episode, info)
            run.episode.tokens = tokens = agent.finish(key)
            run.episode.token_spans = None if tokens is None else tokens.spans()
            yield key, run.episode


def _start(env: gymnasium.Env, agent: Agent, key: int, job: Job, on_step: OnStep | None) -> _Running:
    sample = {} if job.sample_id is None else {"sample_id": job.sample_id}
    observation, info = env.reset(seed=job.seed, options={**job.options, **sample})
    episode = Episode(
        task=env.spec.id if env.spec is not None else type(env.unwrapped).__name__,
        sample_id=info["sample_id"],
        group=job.group,
        prompt=observation["text"],
        needs_operation=info.get("needs_operation"),
        evidence_box=info.get("evidence_box"),
        evidence_time=info.get("evidence_time"),
        category=info.get("category"),
    )
    agent.start(key, env)
    if on_step is not None:
        on_step(env, episode, observation)
    run = _Running(env, episode, seed=episode_seed(0, episode.sample_id, key) if job.seed is None else job.seed)
    agent.submit(key, observation, info | {"episode_seed": run.seed})
    return run


def _play(run: _Running, action: Action) -> tuple[Observation, bool, dict[str, Any]]:
    """One turn: what the environment shows after it, whether the episode is over, and the info."""
    observation, reward, terminated, truncated, info = run.env.step(action.text)
    run.episode.steps.append(
        Step(
            turn=action.text,
            reply=observation["text"],
            reward=float(reward),
            reward_terms=dict(info["reward_terms"]),
            weights_version=action.completion.weights_version if action.completion else None,
            finish_reason=action.finish_reason,
        )
    )
    _count_operations(run.episode, info)
    return observation, terminated or truncated, info


def _end_without_answer(run: _Running) -> dict[str, Any]:
    """The conversation no longer fits: what the end pays (costs) is earned by the last turn. Returns the last info."""
    _, reward, _, _, info = run.env.step(NoTurn(CONTEXT))
    if run.episode.steps:
        *_, last = run.episode.steps
        terms = {name: last.reward_terms.get(name, 0.0) + value for name, value in info["reward_terms"].items()}
        run.episode.steps[-1] = replace(
            last, reward=last.reward + float(reward), reward_terms=last.reward_terms | terms
        )
    return {**info, "truncated_by": CONTEXT}


def _count_operations(episode: Episode, info: dict[str, Any]) -> None:
    if sum(info["failures"].values()) > sum(episode.failures.values()):
        episode.unrepaired = True
    elif sum(info["usage"].values()) > episode.n_operations:
        episode.unrepaired = False
    episode.usage, episode.failures = dict(info["usage"]), dict(info["failures"])


def _finish(episode: Episode, info: dict[str, Any]) -> None:
    episode.views = list(info["views"])
    episode.answer, episode.target = info.get("answer"), info.get("target")
    episode.correct = bool(info.get("correct", False))
    episode.truncated_by = info.get("truncated_by")
    episode.probe, episode.withdrawn = followed_probe(info), bool(info.get("withdrawn", False))
