"""What a visitor asks about, and the episode about it, watched while it runs: the rollout loop in a thread."""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from PIL import ImageDraw

from pxr_agents.rollout import rollout
from pxr_agents.types import Agent, Episode, Job, Observation
from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import DataError
from pxr_env.media import ImageSource, VideoSource
from pxr_env.play.serving import SOURCE_SIDE, Moment, picture, text
from pxr_env.rendering import draw_overview
from pxr_env.types import Sample
from ..cards import evidence_frame
from ..runner import Watch, WatchedEnv

#: Longest question in characters, so that nobody fills a model's context by it.
MAX_QUESTION = 2000
#: Longest video in seconds, and most pixels of a picture.
MAX_SECONDS = 120.0
MAX_PIXELS = 64_000_000
SAMPLE_ID = "yours"
_EVIDENCE_COLOUR = (0, 158, 115)


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


class OneQuestion:
    """A data set of one sample: a visitor's question. Nobody knows its answer, so no score means anything."""

    def __init__(self, question: str, source: ImageSource | VideoSource) -> None:
        self._sample = Sample(sample_id=SAMPLE_ID, question=question, sources=(source,), answers=("",))

    def __len__(self) -> int:
        return 1

    def sample_ids(self) -> Sequence[str]:
        return [SAMPLE_ID]

    def get(self, sample_id: str) -> Sample:
        if sample_id != SAMPLE_ID:
            raise DataError(f'got the sample "{sample_id}", expected "{SAMPLE_ID}"')
        return self._sample


def ask_about(path: str | None, question: str, *, is_video: bool, arguments: Mapping[str, Any]) -> VisualReasoningEnv:
    """The environment of a visitor's own question about an uploaded file.

    Operations on videos are added to `arguments` for a video where the dialect has words for them.

    Raises:
        ValueError: there is no file or no question, one is too large or unreadable, or the arguments do not fit
            together. The message is for the visitor.
    """
    kind = "video" if is_video else "image"
    if not path:
        raise ValueError(f"Got no {kind}; choose one first.")
    if not question.strip():
        raise ValueError("Got no question; write one first.")
    if len(question) > MAX_QUESTION:
        raise ValueError(f"The question has {len(question)} characters; expected at most {MAX_QUESTION}.")
    source = VideoSource(path=Path(path)) if is_video else ImageSource(path=Path(path))
    if isinstance(source, VideoSource) and source.duration > MAX_SECONDS:
        raise ValueError(f"The video lasts {source.duration:.0f} s; expected at most {MAX_SECONDS:.0f} s. Cut it.")
    if source.size[0] * source.size[1] > MAX_PIXELS:
        width, height = source.size
        raise ValueError(f"The {kind} has {width}x{height} pixels; expected at most {MAX_PIXELS:,}. Make it smaller.")
    given = dict(arguments)
    if "operations" not in given:
        only_zoom = given.get("dialect") in ("mini-o3", "deepeyes") or not is_video
        given["operations"] = ("zoom_in",) if only_zoom else ("zoom_in", "select_frames", "seek")
    return VisualReasoningEnv(OneQuestion(question.strip(), source), **given)


def draw_sample(env_id: str, seed: int, arguments: Mapping[str, Any]) -> tuple[gymnasium.Env, Sample]:
    """An environment with a drawn sample, and the sample; raises ValueError for the visitor like `ask_about`."""
    env = gymnasium.make(env_id, disable_env_checker=True, **arguments)
    env.reset(seed=seed)
    base: Any = env.unwrapped
    return env, base.sample


def describe_sample(sample: Sample) -> str:
    """A drawn sample with its evidence and its target, before anybody is asked."""
    source = sample.sources[0]
    frame = 0
    if not isinstance(source, ImageSource) and sample.evidence_time is not None:
        frame = evidence_frame(source.times, sample.evidence_time)
    image = (source.image if isinstance(source, ImageSource) else source.frame(frame)).convert("RGB").copy()
    if sample.evidence_box is not None:
        x1, y1, x2, y2 = sample.evidence_box
        width = max(2, image.width // 200)
        ImageDraw.Draw(image).rectangle((x1 - width, y1 - width, x2 + width, y2 + width), None, _EVIDENCE_COLOUR, width)
    facts = [f"target <b>{text(sample.answers[0])}</b>"]
    if sample.needs_operation is not None:
        facts.append("an operation is needed" if sample.needs_operation else "no operation is needed")
    if sample.evidence_time is not None:
        facts.append("evidence from {:.1f} to {:.1f} s".format(*sample.evidence_time))
    shown = picture(np.asarray(image), SOURCE_SIDE, "the sample with its evidence box")
    return (
        f'<div class="pxr"><figure class="sample">{shown}<figcaption>{text(sample.question)}\n'
        f"{', '.join(facts)}; green: the evidence</figcaption></figure></div>"
    )
