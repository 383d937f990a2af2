"""Playing scripted turns, recording what came back, and comparing two recordings byte for byte."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import quote

Environment = gymnasium.Env[Any, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayedTurn:
    """What came back from `reset` (turn None) or from one turn.

    Args:
        where: names the step for a message.
        turn: the message, or None.
        observation: the very same object that was returned.
        text: its text; None without one.
        images: copies of its images, made at once.
        info: a deep copy, made at once.
    """

    where: str
    turn: str | None
    observation: Any
    text: Any
    images: tuple[np.ndarray, ...]
    reward: Any
    terminated: Any
    truncated: Any
    info: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return bool(self.terminated or self.truncated)

    def count(self, name: str) -> int:
        """The sum of the counts of "usage" or "failures"."""
        return sum(self.info[name].values())


@dataclass(kw_only=True, slots=True)
class Playthrough:
    """An episode as it went: the reset and the turns, fewer than planned if it ended or an exception came.

    Args:
        steps: what came back.
        error: the exception that ended it, described; or None.
    """

    steps: list[PlayedTurn] = field(default_factory=list)
    error: str | None = None

    @property
    def turns(self) -> list[str]:
        """The messages that were played."""
        return [step.turn for step in self.steps if step.turn is not None]

    @property
    def last(self) -> PlayedTurn:
        """The last step."""
        return self.steps[-1]


def base(env: Environment) -> VisualReasoningEnv:
    """Returns the environment inside the wrappers.

    Raises:
        TypeError: it is another one.
    """
    inner = env.unwrapped
    if not isinstance(inner, VisualReasoningEnv):
        raise TypeError(
            f"got an environment of type {type(inner).__name__}; expected pxr_env.VisualReasoningEnv, or wrappers "
            "around it. Give your samples to it instead of writing an environment."
        )
    return inner


def play(
    env: Environment, turns: Iterable[str], *, sample_id: str | None = None, seed: int | None = None
) -> Playthrough:
    """Plays an episode until it ends or the turns do. Does not raise: an exception ends the record.

    Args:
        env: the environment.
        turns: the messages; each is asked for when the one before was answered.
        sample_id: the sample, by default chosen by the environment.
        seed: seed of the reset.
    """
    recording = Playthrough()
    try:
        observation, info = env.reset(seed=seed, options={"sample_id": sample_id} if sample_id else None)
        recording.steps.append(_step("after reset", None, observation, 0.0, False, False, info))
        for number, turn in enumerate(turns, start=1):
            recording.steps.append(_step(f'turn {number} "{quote(turn, 60)}"', turn, *env.step(turn)))
            if recording.last.ended:
                break
    except Exception as error:
        recording.error = describe_error(error)
    return recording


def _step(where: str, turn: str | None, observation: Any, *outcome: Any) -> PlayedTurn:
    reward, terminated, truncated, info = outcome
    parts = observation if isinstance(observation, dict) else {}
    return PlayedTurn(
        where=where,
        turn=turn,
        observation=observation,
        text=parts.get("text"),
        images=tuple(np.array(image) for image in parts.get("images", ())),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        info=copy.deepcopy(info),
    )


def describe_error(error: Exception) -> str:
    """Says in a line which exception came and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"got {type(error).__name__}{where}; expected no exception. It says: {quote(str(error), 400)}"


def as_plain(recording: Playthrough) -> list[list[Any]]:
    """Returns a record as JSON: pairs such as ["after reset, info.usage.zoom_in", 0].

    Images are given as their shapes and the hash of their bytes: equal lists mean equal episodes, byte for byte, also
    across processes. pytest names the first pair in which two of them differ.
    """
    pairs: list[list[Any]] = []
    for step in recording.steps:
        outcome = {
            "text": step.text,
            "images": [fingerprint(image) for image in step.images],
            "reward": float(step.reward),
            "terminated": bool(step.terminated),
            "truncated": bool(step.truncated),
            "info": json.loads(json.dumps(step.info, default=repr)),
        }
        pairs += _leaves(outcome, f"{step.where}, ")
    return [*pairs, ["exception", recording.error]]


def _leaves(value: Any, name: str) -> Iterator[list[Any]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{name}{'' if name.endswith(' ') else '.'}{key}")
    else:
        yield [name, value]


def fingerprint(image: np.ndarray) -> str:
    """Returns the type and shape of an image, and the hash of its bytes."""
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    return f"{image.dtype} {'x'.join(map(str, image.shape))} {digest[:16]}"


def replay() -> None:
    """Reads {"spec": spec as JSON, "scripts": [[seed, turns], ...]} from standard input, plays each script in a new
    environment, and writes the plain records: for a process of its own."""
    request = json.load(sys.stdin)
    records = []
    for seed, turns in request["scripts"]:
        env = gymnasium.make(EnvSpec.from_json(request["spec"]), disable_env_checker=True)
        records.append(as_plain(play(env, turns, seed=seed)))
        env.close()
    json.dump(records, sys.stdout)
