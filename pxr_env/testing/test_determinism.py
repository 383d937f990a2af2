"""A seed and the turns fix an episode, nobody else can change it, and it holds no pixels."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from PIL import Image

from pxr_env.errors import quote
from pxr_env.media import ImageSource, VideoSource
from pxr_env.testing.playing import Environment, Playthrough, as_plain, base, play
from pxr_env.testing.subject import TaskSubject
from pxr_env.testing.turns import PROSE, mixed_turns
from pxr_env.types import Sample

#: Seeds whose samples are compared; two of them in a task of two samples agree by chance in one run of half a million.
_SEEDS = 20
_REPLAY_SECONDS = 120
#: Smaller arrays and texts are no pictures.
_SMALL = 8192
#: What is not searched for pictures: sources have a cache that is bounded, and the others lead everywhere.
_ELSEWHERE = (ImageSource, VideoSource, types.ModuleType, type, types.FunctionType, types.FrameType, types.CodeType)


@pytest.fixture(scope="module")
def scripts(task: TaskSubject, roomy: Environment) -> list[tuple[int, list[str]]]:
    """Seeds, and the turns that an episode with drawn calls of the seed's sample takes."""
    found = []
    for seed in range(task.seed, task.seed + len(task.sample_ids)):
        roomy.reset(seed=seed)
        found.append((seed, mixed_turns(base(roomy), task.rng("mixed", base(roomy).sample.sample_id))))
    return found


def test_samples_keep_their_ids(plain: Environment, sample: Sample, sample_id: str) -> None:
    """`options={"sample_id": id}` shows that sample, ids are unique text, and `get` gives the same sample twice.

    Evaluation asks for every sample by its id; two of one name are counted as one.
    """
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
    """A seed fixes the sequence of samples of all later resets, and different seeds begin with different samples.

    An environment that does not pass the seed on shows every worker the same samples.
    """
    if len(base(plain).data) == 1:
        pytest.skip("there is one sample only.")
    first, second = (
        [env.reset(seed=task.seed)[1]["sample_id"]] + [env.reset()[1]["sample_id"] for _ in range(3)]
        for env in (plain, task.make())
    )
    assert first == second, f"expected the same samples for seed {task.seed}. Use self.np_random."
    chosen = {plain.reset(seed=task.seed + number)[1]["sample_id"] for number in range(_SEEDS)}
    message = f'{_SEEDS} seeds all gave sample "{first[0]}"; expected different ones. Pass the seed to super().reset().'
    assert len(chosen) > 1, message


def test_seed_and_turns_fix_the_episode(task: TaskSubject, scripts: list[tuple[int, list[str]]]) -> None:
    """The same seed and the same turns give the same episode in two environments, byte for byte.

    Without this no result can be reproduced, and a resumed training run is another one.
    """
    for seed, turns in scripts:
        one, other = (play(task.roomy(), turns, seed=seed) for _ in range(2))
        assert as_plain(other) == as_plain(one), f"seed {seed}, in a second environment"


def test_episodes_leave_nothing_behind(
    task: TaskSubject, roomy: Environment, mixed: Playthrough, sample_id: str
) -> None:
    """An episode is the same after others in the same environment as in a new one, byte for byte.

    A cache, a counter or a list that survives the reset makes an episode depend on what was played before.
    """
    for other in reversed(task.sample_ids):
        play(roomy, [PROSE], sample_id=other)
    again, fresh = (play(env, mixed.turns, sample_id=sample_id) for env in (roomy, task.roomy()))
    assert as_plain(again) == as_plain(fresh), "in an environment that played before, and in a new one"


def test_another_process_gives_the_same_episode(
    task: TaskSubject, spec: EnvSpec, scripts: list[tuple[int, list[str]]]
) -> None:
    """A new Python process, with another hash seed, gives the same episode from the spec, byte for byte.

    Rollout workers are other processes: what depends on the order of a set or on module state differs there.
    """
    # Any hash seed will do that is not this process's own; what can be imported here can be imported there.
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2",
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
    }
    answer = subprocess.run(
        [sys.executable, "-c", "from pxr_env.testing.playing import replay; replay()"],
        input=json.dumps({"spec": spec.to_json(), "scripts": scripts}),
        env=environment,
        capture_output=True,
        text=True,
        timeout=_REPLAY_SECONDS,
        check=False,
    )
    last = quote((answer.stderr.strip().splitlines() or ["no message"])[-1], 300)
    assert answer.returncode == 0, (
        f"the process ended with {last}; expected an episode. Make the task importable there."
    )
    for (seed, turns), got in zip(scripts, json.loads(answer.stdout), strict=True):
        assert got == as_plain(play(task.make(), turns, seed=seed)), f"seed {seed}, in another process, and here"


def test_arrays_are_fresh(roomy: Environment, mixed: Playthrough, sample_id: str) -> None:
    """No two images share memory, neither within an episode nor between episodes of the same sample.

    A rollout keeps observations until the group is over; a buffer used twice shows the wrong picture to the learner.
    """
    images: list[tuple[str, np.ndarray]] = []
    for count in ("first", "second"):
        for step in play(roomy, mixed.turns, sample_id=sample_id).steps:
            images += [(f"{step.where}, the {count} time", image) for image in step.observation["images"]]
    for index, (where, image) in enumerate(images):
        shared = [other_where for other_where, other in images[:index] if np.shares_memory(image, other)]
        assert not shared, f"{where}: an image shares memory with others; expected new arrays. Copy it."


def test_changes_stay_with_the_caller(task: TaskSubject, mixed: Playthrough, sample_id: str) -> None:
    """Whoever changes an observation or an info changes nothing in the episode, nor in later ones.

    Preprocessing in place and loggers that pop keys are common; here they would rewrite the environment's own state.
    """
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
    if isinstance(value, np.ndarray):
        if value.flags.writeable:
            value[...] = 1
    elif isinstance(value, dict | tuple | list):
        for item in value.values() if isinstance(value, dict) else value:
            _spoil(item)
        if not isinstance(value, tuple):
            value.clear()


def test_episodes_keep_no_pixels(roomy: Environment, mixed: Playthrough, sample_id: str) -> None:
    """No array, picture or large byte string can be reached from a running environment, except through its data and
    sources.

    Elsewhere pixels are copied into every record, and a run needs 500 GB of memory. Views are rectangles of sources:
    what an episode holds does not grow with the size of its images.
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
        if id(value) in seen or isinstance(value, _ELSEWHERE):
            continue
        seen.add(id(value))
        alive.append(value)
        picture = _picture(value)
        if picture:
            yield f"{picture} is kept as {path}"
        else:
            queue += [(f"{path}{name}", part) for name, part in _parts(value)]


def _picture(value: object) -> str | None:
    if isinstance(value, np.ndarray) and value.nbytes >= _SMALL:
        return f"an array of shape {value.shape}"
    if isinstance(value, Image.Image):
        return f"a picture of {value.width}x{value.height}"
    if isinstance(value, bytes | bytearray | memoryview) and len(value) >= _SMALL:
        return f"a byte string of length {len(value)}"
    return None


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
