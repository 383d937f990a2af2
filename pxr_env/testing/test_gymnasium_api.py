"""What is written for Gymnasium works: its own checker, specs, vector environments, wrappers, rendering."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

from pxr_env.errors import quote
from pxr_env.testing.playing import Environment, Playthrough, as_plain, base, fingerprint, play
from pxr_env.testing.subject import TaskSubject
from pxr_env.testing.turns import PROSE, mixed_turns


def test_gymnasium_accepts_it(task: TaskSubject) -> None:
    """`gymnasium.utils.env_checker.check_env` passes without a warning.

    Most libraries that take environments run it, and users who see its warnings trust nothing else.
    """
    inner = base(task.roomy())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Without a spec it cannot make environments of other render modes, and warns.
        check_env(inner, skip_render_check=inner.spec is None)
    texts = [quote(str(warning.message), 400) for warning in caught]
    assert not texts, "expected no warning."


def test_the_spec_travels_as_json(spec: EnvSpec, oracle: Playthrough, sample_id: str) -> None:
    """`gymnasium.make(EnvSpec.from_json(spec.to_json()))` gives the same episode.

    Pixel limits and coordinates have to travel to every node; what cannot be written as JSON is lost on the way.
    """
    env = _Maker(spec.to_json())()
    again = play(env, oracle.turns, sample_id=sample_id)
    env.close()
    assert as_plain(again) == as_plain(oracle), "made from the spec as JSON, and as it is"


def test_vector_environments_work(task: TaskSubject) -> None:
    """Two environments in a `SyncVectorEnv` show what each of them shows alone.

    Vector environments batch spaces by their own rules; a space they do not know ends in an exception there.
    """
    _assert_as_alone(task, SyncVectorEnv([task.make] * 2))


def test_vector_environments_in_processes_work(task: TaskSubject, spec: EnvSpec) -> None:
    """Two environments in an `AsyncVectorEnv` of new processes show what each of them shows alone.

    New processes import the task themselves: what was registered in a script or a notebook is missing there.
    """
    try:
        makers = [_Maker(spec.to_json())] * 2
        _assert_as_alone(task, AsyncVectorEnv(makers, shared_memory=False, context="spawn"))
    except (ConnectionError, EOFError):
        pytest.fail(
            "a process ended before it answered; expected an environment there. Its own words are on standard error: "
            "make the task importable by others, and without what this process alone has."
        )


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Makes an environment from a spec as JSON, also in another process."""

    spec: str

    def __call__(self) -> Environment:
        return gymnasium.make(EnvSpec.from_json(self.spec), disable_env_checker=True)


def _assert_as_alone(task: TaskSubject, vector: SyncVectorEnv | AsyncVectorEnv) -> None:
    seeds: list[int | None] = [task.seed, task.seed + 1]
    alone = [task.make() for _ in seeds]
    observations: Any
    outcomes: Any
    try:
        observations, _ = vector.reset(seed=seeds)
        expected = [env.reset(seed=seed)[0] for env, seed in zip(alone, seeds, strict=True)]
        assert _batch(observations) == [_single(observation) for observation in expected], "after reset, and alone"
        turns = [base(env).dialect.render_answer(base(env).sample.answers[0]) for env in alone]
        observations, *outcomes = vector.step(tuple(turns))[:4]
        steps = [env.step(turn) for env, turn in zip(alone, turns, strict=True)]
        assert _batch(observations) == [_single(step[0]) for step in steps], "after an answer, and alone"
        got = [tuple(part.tolist() for part in parts) for parts in zip(*outcomes, strict=True)]
        assert got == [step[1:4] for step in steps], "after an answer: expected reward and the two ends as alone."
    finally:
        vector.close()


def _batch(observations: Any) -> list[Any]:
    parts = zip(observations["text"], observations["images"], strict=True)
    return [_single({"text": text, "images": images}) for text, images in parts]


def _single(observation: dict[str, Any]) -> list[Any]:
    return [observation["text"], *map(fingerprint, observation["images"])]


def test_wrappers_work(task: TaskSubject, oracle: Playthrough, sample_id: str) -> None:
    """`RecordEpisodeStatistics` and `TimeLimit` count reward and turns.

    They read and add keys of `info`, and truncate in the midst of an episode.
    """
    played = play(RecordEpisodeStatistics(task.make()), oracle.turns, sample_id=sample_id)
    assert not played.error, f"RecordEpisodeStatistics gave {played.error}"
    statistics = played.last.info.get("episode", {})
    got = [float(statistics.get(name, "nan")) for name in ("r", "l")]
    expected = [sum(step.reward for step in oracle.steps), len(oracle.turns)]
    assert got == expected, "expected reward and turns of RecordEpisodeStatistics."
    limited = play(TimeLimit(task.roomy(), max_episode_steps=2), [PROSE] * 3, sample_id=sample_id)
    assert not limited.error, f"TimeLimit of 2 gave {limited.error}"
    end = (len(limited.turns), limited.last.terminated, limited.last.truncated)
    assert end == (2, False, True), "expected TimeLimit of 2 to truncate after turn 2."


def test_episodes_can_be_drawn(task: TaskSubject) -> None:
    """With render mode "rgb_array" `render()` gives a uint8 picture HxWx3, of one size at all times, and None without.

    Recorders join the pictures to a video, which has one size.
    """
    env = task.roomy()
    inner = base(env)
    pictures: list[tuple[str, Any]] = []
    for sample_id in task.sample_ids:
        inner.render_mode = "rgb_array"
        env.reset(options={"sample_id": sample_id})
        pictures.append((f'sample "{sample_id}", after reset', env.render()))
        play(env, mixed_turns(inner, task.rng("mixed", sample_id)), sample_id=sample_id)
        pictures.append((f'sample "{sample_id}", at the end', env.render()))
        inner.render_mode = None
        nothing: object = inner.render()
        assert nothing is None, f"without a render mode: got {type(nothing).__name__}; expected None."
    for where, picture in pictures:
        kind = f"{getattr(picture, 'dtype', type(picture).__name__)} {getattr(picture, 'shape', '')}"
        fits = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,)
        assert fits, f"{where}: render() gave {kind}; expected uint8 HxWx3."
        assert picture.shape == pictures[0][1].shape, f"{where}: expected one size at all times. Use one canvas."
