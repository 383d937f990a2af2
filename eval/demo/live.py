"""One episode that is watched while it runs: the rollout loop in a thread, its turns as they come."""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import gymnasium

from eval.runner import Watch, WatchedEnv
from pxr_agents.rollout import rollout
from pxr_agents.types import Agent, Episode, Job, Observation
from pxr_env.play.serving import Moment
from pxr_env.rendering import draw_overview


class StoppedByVisitor(Exception):
    """Somebody does not want to see more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How an episode ended: as it should (`episode`), or by an `error` or a stop (None)."""

    episode: Episode | None = None
    error: str | None = None


def play(
    env: gymnasium.Env,
    open_player: Callable[[], AbstractContextManager[Agent]],
    stop: threading.Event,
    *,
    sample_id: str,
    tick: float = 0.5,
) -> Iterator[Moment | End | None]:
    """Run one episode and yield what happens, as it happens; the last thing is an `End`.

    None is yielded about every `tick` seconds in which nothing happened. The thread has ended when this is over;
    whoever leaves the loop before its end, or sets `stop`, ends the episode after the turn that is being written.
    """
    found: queue.SimpleQueue[Moment | End] = queue.SimpleQueue()
    worker = threading.Thread(target=_work, args=(env, open_player, stop, sample_id, found), daemon=True)
    worker.start()
    try:
        while True:
            try:
                event = found.get(timeout=tick)
            except queue.Empty:
                yield None
                continue
            yield event
            if isinstance(event, End):
                return
    finally:
        stop.set()
        worker.join()


def _work(
    env: gymnasium.Env,
    open_player: Callable[[], AbstractContextManager[Agent]],
    stop: threading.Event,
    sample_id: str,
    found: queue.SimpleQueue[Moment | End],
) -> None:
    def on_step(attempt: gymnasium.Env, episode: Episode, observation: Observation) -> None:
        assert isinstance(attempt, WatchedEnv)
        found.put(_moment(attempt, episode, observation))
        if stop.is_set():
            raise StoppedByVisitor

    try:
        with open_player() as agent:
            watch = Watch(agent, [0])
            # Who asks again wants to see what else the model says.
            job = Job(sample_id=sample_id, seed=secrets.randbits(31))
            try:
                [episode] = rollout([WatchedEnv(env)], watch, [job], on_step=on_step)
            except StoppedByVisitor:
                # The agent may serve others after this one.
                watch.finish(0)
                found.put(End())
            else:
                found.put(End(episode=episode, error=watch.record(episode).episode.error))
    except Exception as error:
        # Whatever went wrong is for the visitor to read; the page stays.
        found.put(End(error=f"{type(error).__name__}: {error}"))


def _moment(attempt: WatchedEnv, episode: Episode, observation: Observation) -> Moment:
    turn = episode.steps[-1].turn if episode.steps else None
    if attempt.reason is not None:
        return Moment(turn=turn, reply="")
    base: Any = attempt.unwrapped
    images = observation["images"]
    return Moment(
        turn=turn,
        reply=observation["text"],
        images=images,
        views=[view.as_dict() for view in base.views[len(base.views) - len(images) :]],
        overview=draw_overview(base.views, base.source_image),
    )
