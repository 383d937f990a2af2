"""A seed and the turns fix an episode, nobody else can change it, it holds no pixels, and Gymnasium's tools take it."""

from __future__ import annotations

import functools
import gc
import json
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from PIL import Image

from pxr_env.errors import quote
from pxr_env.media import ImageSource, VideoSource
from pxr_env.testing.playing import (
    PROSE,
    Environment,
    Playthrough,
    TaskSubject,
    as_plain,
    base,
    fingerprint,
    mixed_turns,
    play,
)
from pxr_env.types import Sample

#: Seeds whose samples are compared; two of them in a task of two samples agree by chance in one run of half a million.
SEEDS = 20
#: Smaller arrays and texts are no pictures.
SMALL = 8192
#: What is not searched for pictures: sources have a cache that is bounded, and the others lead everywhere.
ELSEWHERE = (ImageSource, VideoSource, types.ModuleType, type, types.FunctionType, types.FrameType, types.CodeType)
#: Runs in a process of its own.
REPLAY = "from pxr_env.testing.playing import replay; replay()"


@pytest.fixture(scope="module")
def scripts(task: TaskSubject, roomy: Environment) -> list[tuple[int, list[str]]]:
    """Seeds, and the turns that an episode with drawn calls of the seed's sample takes."""
    found = []
    for seed in range(task.seed, task.seed + len(task.sample_ids)):
        roomy.reset(seed=seed)
        found.append((seed, mixed_turns(base(roomy), task.rng("mixed", base(roomy).sample.sample_id))))
    return found


def test_samples_keep_their_ids(plain: Environment, sample: Sample, sample_id: str) -> None:
    """`options={"sample_id": id}` shows that sample, ids are unique text, and `get` gives the same sample twice."""
    data = base(plain).data
    ids = data.sample_ids()
    assert len(ids) == len(data), "expected as many ids as samples. Mend sample_ids() or __len__()."
    some = [ids[index] for index in range(min(len(ids), 10_000))]
    unique = len(set(some)) == len(some) and all(isinstance(one, str) for one in some)
    assert unique, "sample ids are given twice, or are no str; expected unique text. Number them."
    _, info = plain.reset(options={"sample_id": sample_id})
    assert info["sample_id"] == sample.sample_id == sample_id, "expected the sample that was asked for."
    again = data.get(sample_id)
    for name in ("question", "answers", "options", "evidence_box", "evidence_time", "needs_operation", "category"):
        message = f"another {name} the second time; expected the same. Seed it by its id."
        assert getattr(again, name) == getattr(sample, name), message


def test_seeds_choose_samples(task: TaskSubject, plain: Environment) -> None:
    """A seed fixes the sequence of samples of all later resets, and different seeds begin with different samples."""
    if len(base(plain).data) == 1:
        pytest.skip("there is one sample only.")
    first, second = (
        [env.reset(seed=task.seed)[1]["sample_id"]] + [env.reset()[1]["sample_id"] for _ in range(3)]
        for env in (plain, task.make())
    )
    assert first == second, f"expected the same samples for seed {task.seed}. Use self.np_random."
    chosen = {plain.reset(seed=task.seed + number)[1]["sample_id"] for number in range(SEEDS)}
    message = f'{SEEDS} seeds all gave sample "{first[0]}"; expected different ones. Pass the seed to super().reset().'
    assert len(chosen) > 1, message


def test_seed_and_turns_fix_the_episode(task: TaskSubject, scripts: list[tuple[int, list[str]]]) -> None:
    """The same seed and the same turns give the same episode in two environments, byte for byte."""
    for seed, turns in scripts:
        one, other = (play(task.roomy(), turns, seed=seed) for _ in range(2))
        assert as_plain(other) == as_plain(one), f"seed {seed}, in a second environment"


def test_episodes_leave_nothing_behind(
    task: TaskSubject, roomy: Environment, mixed: Playthrough, sample_id: str
) -> None:
    """An episode is the same after others in the same environment as in a new one, byte for byte."""
    for other in reversed(task.sample_ids):
        play(roomy, [PROSE], sample_id=other)
    again, fresh = (play(env, mixed.turns, sample_id=sample_id) for env in (roomy, task.roomy()))
    assert as_plain(again) == as_plain(fresh), "in an environment that played before, and in a new one"


def test_another_process_gives_the_same_episode(
    task: TaskSubject, spec: EnvSpec, scripts: list[tuple[int, list[str]]]
) -> None:
    """A new Python process, with another hash seed, gives the same episode from the spec, byte for byte."""
    # Any hash seed will do that is not this process's own; what can be imported here can be imported there.
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    path = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    answer = subprocess.run(
        [sys.executable, "-c", REPLAY],
        input=json.dumps({"spec": spec.to_json(), "scripts": scripts}),
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = quote((answer.stderr.strip().splitlines() or ["no message"])[-1], 300)
    message = f"the process ended with {last}; expected an episode. Make the task importable there."
    assert answer.returncode == 0, message
    for (seed, turns), got in zip(scripts, json.loads(answer.stdout), strict=True):
        assert got == as_plain(play(task.make(), turns, seed=seed)), f"seed {seed}, in another process, and here"


def test_arrays_are_fresh(roomy: Environment, mixed: Playthrough, sample_id: str) -> None:
    """No two images share memory, neither within an episode nor between episodes of the same sample."""
    images: list[np.ndarray] = []
    for count in ("first", "second"):
        for step in play(roomy, mixed.turns, sample_id=sample_id).steps:
            for image in step.observation["images"]:
                fresh = not any(np.shares_memory(image, other) for other in images)
                where = f"{step.where}, the {count} time"
                assert fresh, f"{where}: an image shares memory with others; expected new arrays. Copy it."
                images.append(image)


def test_changes_stay_with_the_caller(task: TaskSubject, mixed: Playthrough, sample_id: str) -> None:
    """Whoever changes an observation or an info changes nothing in the episode, nor in later ones."""
    env, spoiler = task.roomy(), _Spoiler(task.roomy())
    for count in ("this episode", "the next episode"):
        clean, spoiled = (play(one, mixed.turns, sample_id=sample_id) for one in (env, spoiler))
        message = f"the caller overwrites what it got: expected {count} to be the same. Return copies."
        assert as_plain(spoiled) == as_plain(clean), message


class _Spoiler(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Overwrites what the caller got before as soon as it plays the next turn."""

    _got: Any = ()

    def reset(self, **given: Any) -> Any:
        _spoil(self._got)
        self._got = super().reset(**given)
        return self._got

    def step(self, action: Any) -> Any:
        _spoil(self._got)
        self._got = super().step(action)
        return self._got


def _spoil(value: Any) -> None:
    """Overwrites all arrays in nested values, and empties all dicts and lists."""
    if isinstance(value, np.ndarray) and value.flags.writeable:
        value[...] = 1
    elif isinstance(value, dict | tuple | list):
        for item in value.values() if isinstance(value, dict) else value:
            _spoil(item)
        if not isinstance(value, tuple):
            value.clear()


def test_episodes_keep_no_pixels(roomy: Environment, mixed: Playthrough, sample_id: str) -> None:
    """No array, picture or large byte string can be reached from a running environment, except through its data and
    sources.
    """
    for turns in ([], mixed.turns[:-1]):
        play(roomy, turns, sample_id=sample_id)
        kept = list(_pictures(roomy, {id(base(roomy).data)}))
        assert not kept, f"after {len(turns)} turns: expected no pixels. Keep the source and the box, and cut again."


def _pictures(root: object, seen: set[int]) -> Iterator[str]:
    """Yields what pictures can be reached from an object, and how."""
    queue: list[tuple[str, Any]] = [(type(root).__name__, root)]
    # Objects must stay alive while their ids are remembered.
    alive = []
    while queue:
        path, value = queue.pop()
        if id(value) in seen or isinstance(value, ELSEWHERE):
            continue
        seen.add(id(value))
        alive.append(value)
        if isinstance(value, np.ndarray) and value.nbytes >= SMALL:
            yield f"an array of shape {value.shape} is kept as {path}"
        elif isinstance(value, Image.Image):
            yield f"a picture of {value.width}x{value.height} is kept as {path}"
        elif isinstance(value, bytes | bytearray | memoryview) and len(value) >= SMALL:
            yield f"a byte string of length {len(value)} is kept as {path}"
        else:
            queue += [(f"{path}{name}", part) for name, part in _parts(value)]


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r:.40}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif hasattr(value, "__dict__"):
        yield from ((f".{name}", part) for name, part in vars(value).items())
    else:
        # What has slots, or is written in C.
        yield from (("", part) for part in gc.get_referents(value))


def test_gymnasium_accepts_it(task: TaskSubject) -> None:
    """`gymnasium.utils.env_checker.check_env` passes without a warning."""
    inner = base(task.roomy())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Without a spec it cannot make environments of other render modes, and warns.
        check_env(inner, skip_render_check=inner.spec is None)
    texts = [quote(str(warning.message), 400) for warning in caught]
    assert not texts, "expected no warning."


def test_the_spec_travels_as_json(spec: EnvSpec, oracle: Playthrough, sample_id: str) -> None:
    """`gymnasium.make(EnvSpec.from_json(spec.to_json()))` gives the same episode."""
    env = _made_of(spec.to_json())
    again = play(env, oracle.turns, sample_id=sample_id)
    env.close()
    assert as_plain(again) == as_plain(oracle), "made from the spec as JSON, and as it is"


def test_vector_environments_work(task: TaskSubject) -> None:
    """Two environments in a `SyncVectorEnv` show what each of them shows alone."""
    _assert_as_alone(task, SyncVectorEnv([task.make] * 2))


def test_vector_environments_in_processes_work(task: TaskSubject, spec: EnvSpec) -> None:
    """Two environments in an `AsyncVectorEnv` of new processes show what each of them shows alone."""
    try:
        makers = [functools.partial(_made_of, spec.to_json())] * 2
        _assert_as_alone(task, AsyncVectorEnv(makers, shared_memory=False, context="spawn"))
    except (ConnectionError, EOFError):
        pytest.fail(
            "a process ended before it answered; expected an environment there. Its own words are on standard error: "
            "make the task importable by others, and without what this process alone has."
        )


def _made_of(spec: str) -> Environment:
    """Makes an environment from a spec as JSON, also in another process."""
    return gymnasium.make(EnvSpec.from_json(spec), disable_env_checker=True)


def _assert_as_alone(task: TaskSubject, vector: SyncVectorEnv | AsyncVectorEnv) -> None:
    seeds: list[int | None] = [task.seed, task.seed + 1]
    alone = [task.make() for _ in seeds]
    observations: Any
    outcomes: Any
    try:
        observations, _ = vector.reset(seed=seeds)
        expected = [env.reset(seed=seed)[0] for env, seed in zip(alone, seeds, strict=True)]
        assert _batch(observations) == list(map(_single, expected)), "after reset, and alone"
        turns = [base(env).dialect.render_answer(base(env).sample.answers[0]) for env in alone]
        observations, *outcomes = vector.step(tuple(turns))[:4]
        steps = [env.step(turn) for env, turn in zip(alone, turns, strict=True)]
        assert _batch(observations) == [_single(step[0]) for step in steps], "after an answer, and alone"
        got = [tuple(part.tolist() for part in parts) for parts in zip(*outcomes, strict=True)]
        assert got == [step[1:4] for step in steps], "after an answer: expected reward and the two ends as alone."
    finally:
        vector.close()


def _batch(observations: Any) -> list[list[Any]]:
    parts = zip(observations["text"], observations["images"], strict=True)
    return [_single({"text": text, "images": images}) for text, images in parts]


def _single(observation: dict[str, Any]) -> list[Any]:
    return [observation["text"], *map(fingerprint, observation["images"])]


def test_wrappers_work(task: TaskSubject, oracle: Playthrough, sample_id: str) -> None:
    """`RecordEpisodeStatistics` and `TimeLimit` count reward and turns."""
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
    """With render mode "rgb_array" `render()` gives a uint8 picture HxWx3, of one size at all times, and None
    without.
    """
    env = task.roomy()
    inner = base(env)
    shapes = set()
    for sample_id in task.sample_ids:
        inner.render_mode = "rgb_array"
        env.reset(options={"sample_id": sample_id})
        turns = mixed_turns(inner, task.rng("mixed", sample_id))
        pictures: dict[str, Any] = {"after reset": env.render()}
        play(env, turns, sample_id=sample_id)
        pictures["at the end"] = env.render()
        for when, picture in pictures.items():
            where = f'sample "{sample_id}", {when}'
            kind = f"{getattr(picture, 'dtype', type(picture).__name__)} {getattr(picture, 'shape', '')}"
            fits = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,)
            assert fits, f"{where}: render() gave {kind}; expected uint8 HxWx3."
            shapes.add(picture.shape)
            assert len(shapes) == 1, f"{where}: expected one size at all times. Use one canvas."
        inner.render_mode = None
        nothing: object = inner.render()
        assert nothing is None, f"without a render mode: got {type(nothing).__name__}; expected None."
