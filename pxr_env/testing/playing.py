"""What is checked, what is played in it, and what came back, so that two episodes can be compared byte for byte."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from pxr_env.coordinates import FRAMES
from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import quote, show
from pxr_env.media import ImageSource, VideoSource
from pxr_env.operations import Operation, OperationContext, get_operation
from pxr_env.operations.registry import Scale, Shown, draw
from pxr_env.operations.registry import draw_call as draw_on_scale
from pxr_env.rules import first_regions
from pxr_env.types import OperationCall, Sample, SampleSource, as_source
from pxr_env.views import View

Environment = gymnasium.Env[Any, Any]
#: Makes a new environment of a task.
Maker = Callable[..., Environment]

#: An answer that occurs in no tag and no message.
MARKER = "zqxj"
#: A turn that neither calls nor answers.
PROSE = "I am not sure."
#: Calls of an operation that are drawn in each coordinate frame, and width and height of the views that it is tried on.
TRIES, SIDE = 40, 112
# Turns and operations of an environment in which a check may call what it likes.
_ROOMY = 256


class TaskSubject:
    """A task under check: what makes its environments, and the samples (how many, or which) that are looked at."""

    def __init__(self, make: Maker, *, name: str, samples: int | Sequence[str], seed: int) -> None:
        self._make, self.name, self.seed = make, name, seed
        self._samples = samples
        self._made: list[Environment] = []

    @classmethod
    def of(
        cls, task: str | Environment | Maker, *, arguments: Mapping[str, Any], samples: int | Sequence[str], seed: int
    ) -> TaskSubject:
        """Returns the subject of an id, of an environment that `gymnasium.make` made, or of a function that makes one.

        Raises:
            ValueError: the task is none of these, or arguments came with an environment.
        """
        if isinstance(task, gymnasium.Env) and (task.spec is None or arguments):
            raise ValueError(
                f"got an environment with {'arguments beside it' if arguments else 'no spec'}; expected one that "
                "gymnasium.make made, since the checks need new ones. Pass its id and its arguments, or a "
                "function that makes it."
            )
        made_of = task.spec if isinstance(task, gymnasium.Env) else task
        if isinstance(made_of, str | EnvSpec):
            # The passive checker would raise in the midst of an episode what the checks report one by one.
            make: Maker = functools.partial(gymnasium.make, made_of, disable_env_checker=True)
            name = made_of if isinstance(made_of, str) else made_of.id
        elif callable(made_of):
            make, name = made_of, getattr(task, "__name__", type(task).__name__)
        else:
            raise ValueError(
                f"got a task of type {type(task).__name__}; expected an id, an environment or a function that makes "
                'one. Pass an id such as "pxr_env:pxr/SyntheticSearch-v0".'
            )
        return cls(functools.partial(make, **arguments), name=name, samples=samples, seed=seed)

    def make(self) -> Environment:
        """Makes a new environment with the limits of the task."""
        env = self._make()
        self._made.append(env)
        base(env)
        return env

    def roomy(self) -> Environment:
        """Makes a new environment with limits that no check reaches."""
        env = self.make()
        inner = base(env)
        limits: dict[str, Any] = dict.fromkeys(("max_images", "max_shown_pixels", "max_vision_tokens"))
        inner.limits = dataclasses.replace(inner.limits, **limits | {"max_turns": _ROOMY, "max_operations": _ROOMY})
        return env

    def close(self) -> None:
        """Closes all environments that were made."""
        for env in self._made:
            env.close()

    def rng(self, *key: str) -> np.random.Generator:
        """Returns a random generator of its own for a purpose, always the same."""
        return np.random.default_rng([self.seed, *(zlib.crc32(part.encode()) for part in key)])

    @functools.cached_property
    def sample_ids(self) -> tuple[str, ...]:
        """The samples that are looked at: the first, the last and drawn ones."""
        if not isinstance(self._samples, int):
            return tuple(self._samples)
        ids = base(self.make()).data.sample_ids()
        count = min(self._samples, len(ids))
        drawn = [0, len(ids) - 1, *self.rng("samples").integers(0, len(ids), 4 * count).tolist(), *range(count)]
        return tuple(ids[index] for index in list(dict.fromkeys(drawn))[:count])


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


class OperationSubject:
    """An operation under check, tried on the first of some samples; by default on two images and a video of noise.

    Raises:
        ValueError: there is no operation of that name.
    """

    def __init__(self, name: str, *, data: SampleSource | Sequence[Sample] = (), seed: int = 0) -> None:
        self.operation, self.seed = get_operation(name), seed
        self.data = as_source(data or [_noise_sample()])
        self.sample = self.data.get(self.data.sample_ids()[0])

    def task(self) -> TaskSubject:
        """Returns a task with this operation only."""
        make = functools.partial(
            VisualReasoningEnv,
            self.data,
            operations=[self.operation.name],
            video_frames=4,
            min_pixels=28**2,
            max_pixels=SIDE**2,
        )
        return TaskSubject(make, name=self.operation.name, samples=1, seed=self.seed)

    def answers(self, frame_name: str) -> dict[str, list[Shown] | Exception]:
        """Returns the name of each drawn call, always the same ones -> what the operation showed or raised."""
        frame, rng = FRAMES[frame_name], np.random.default_rng([self.seed, list(FRAMES).index(frame_name)])
        width, height = frame.extent((SIDE, SIDE))
        scale = Scale(width=width, height=height, seconds=3.0, integers=frame.decimals == 0)
        drawn = [draw(self.operation.parameters, scale, rng) for _ in range(TRIES)]
        context = OperationContext(views=self._views(), frame=frame, sources=self.sample.sources)
        found: dict[str, list[Shown] | Exception] = {}
        for number, arguments in enumerate(drawn):
            name = f"{self.operation.name} with {show(arguments, 200)} ({frame_name}, call {number})"
            try:
                found[name] = self.operation.run(context, arguments)
            except Exception as error:
                found[name] = error
        return found

    def _views(self) -> tuple[View, ...]:
        """The first views of the sample, and one of a part of the first."""
        numbered = enumerate(self.sample.sources, start=1)
        shown = [region for number, source in numbered for region in first_regions(number, source, 4)]
        shown.append(shown[0].part((0.25, 0.25, 0.75, 1.0), (1, 1)))
        return tuple(View.of(number, region, (SIDE, SIDE)) for number, region in enumerate(shown, start=1))


def _noise_sample() -> Sample:
    def noise(height: int, width: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    video = VideoSource(
        key=("pxr_env.testing", "noise"),
        load_frame=functools.partial(noise, 60, 80),
        n_frames=12,
        fps=4.0,
        size=(80, 60),
    )
    sources = ImageSource(image=noise(90, 160, 0)), ImageSource(image=noise(200, 120, 1)), video
    return Sample(sample_id="noise", question="What is this?", sources=sources, answers=("noise",))


def written(env: VisualReasoningEnv, call: OperationCall, **changes: Any) -> str | None:
    """Returns a call with changed arguments as the dialect writes it, or None if it cannot."""
    try:
        return env.dialect.render_call(OperationCall(name=call.name, arguments={**call.arguments, **changes}))
    except ValueError:
        return None


def draw_call(env: VisualReasoningEnv, operation: Operation, rng: np.random.Generator) -> OperationCall:
    """Draws a call of an operation whose numbers suit the first view."""
    width, height = env.frame.extent(env.views[0].size)
    durations = [source.duration for source in env.sample.sources if isinstance(source, VideoSource)]
    scale = Scale(width=width, height=height, seconds=max(durations, default=1.0), integers=env.frame.decimals == 0)
    return draw_on_scale(operation, scale, rng)


def drawn_turns(env: VisualReasoningEnv, count: int, rng: np.random.Generator) -> list[str]:
    """Returns so many drawn calls of every operation, of those that the dialect can write."""
    calls = [draw_call(env, operation, rng) for _ in range(count) for operation in env.operations.values()]
    return [text for call in calls if (text := written(env, call)) is not None]


def mixed_turns(env: VisualReasoningEnv, rng: np.random.Generator) -> list[str]:
    """Returns turns for the sample of an environment: drawn calls of every operation, a mistake and an answer."""
    return [*drawn_turns(env, 2, rng), PROSE, env.dialect.render_answer(env.sample.answers[0])]


def malformed_turns(env: VisualReasoningEnv, call: OperationCall | None) -> dict[str, str]:
    """Returns what is wrong -> a turn of which nothing counts: no call is executed and no answer is final.

    `call` is one that would be executed, or None for a task without one.
    """
    answer = env.dialect.render_answer(MARKER)
    turns: dict[str, str | None] = {
        "nothing": "",
        "blanks": " \n\t\n",
        "prose": "I do not know, let me think about the picture once more.",
        "prose in Chinese": "左上角有一个红色的盒子。",
        "a lone surrogate": "\ud800",
        "a null character": "\x00",
        "half an answer": answer[: answer.index(MARKER) + 2],
        "an empty answer": answer.replace(MARKER, ""),
        "two answers": f"{answer} or {env.dialect.render_answer(MARKER[::-1])}",
        "closing tags only": "</tool_call></answer></think>}}]]",
        "braces only": "{" * 2000,
        "an unknown operation": written(env, OperationCall(name="no_such_operation", arguments={})),
    }
    if call is not None and (text := written(env, call)) is not None:
        turns |= {
            "half a call": text[: len(text) // 2],
            "a call and an answer": f"{text}\n{answer}",
            "an answer and a call": f"{answer}\n{text}",
            "an unknown argument": written(env, call, no_such_argument=1),
        }
        for name in call.arguments:
            for what, value in (("an object", {"x": [1]}), ("null", None), ("lists in lists", [[[[]]]])):
                turns[f"{what} as {name}"] = written(env, call, **{name: value})
    return {name: turn for name, turn in turns.items() if turn is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayedTurn:
    """What came back from `reset` (turn None) or from one turn, which `where` names for a message.

    `observation` is the very object that was returned; the rest is copied at once.
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
        """Returns the sum of the counts of "usage" or "failures"."""
        return sum(self.info[name].values())


@dataclass(kw_only=True, slots=True)
class Playthrough:
    """An episode as it went: fewer turns than planned if it ended, or if an exception came, described in `error`."""

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


def play(
    env: Environment, turns: Iterable[str], *, sample_id: str | None = None, seed: int | None = None
) -> Playthrough:
    """Plays an episode until it ends or the turns do, each asked for when the one before was answered.

    Does not raise: an exception ends the record.
    """
    recording = Playthrough()

    def note(where: str, turn: str | None, observation: Any, *outcome: Any) -> None:
        reward, terminated, truncated, info = outcome
        parts = observation if isinstance(observation, dict) else {}
        step = PlayedTurn(
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
        recording.steps.append(step)

    try:
        observation, info = env.reset(seed=seed, options={"sample_id": sample_id} if sample_id else None)
        note("after reset", None, observation, 0.0, False, False, info)
        for number, turn in enumerate(turns, start=1):
            note(f'turn {number} "{quote(turn, 60)}"', turn, *env.step(turn))
            if recording.last.ended:
                break
    except Exception as error:
        recording.error = describe_error(error)
    return recording


def describe_error(error: Exception) -> str:
    """Says in a line which exception came and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"got {type(error).__name__}{where}; expected no exception. It says: {quote(str(error), 400)}"


def as_plain(recording: Playthrough) -> list[list[Any]]:
    """Returns a record as JSON: pairs such as ["after reset, info.usage.zoom_in", 0].

    Equal lists mean equal episodes, byte for byte, also across processes: images are given as fingerprints. pytest
    names the first pair in which two of them differ.
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
    """Plays scripts in new environments, in a process of its own.

    Reads {"spec": spec as JSON, "scripts": [[seed, turns], ...]} from standard input and writes the plain records.
    """
    request = json.load(sys.stdin)
    records = []
    for seed, turns in request["scripts"]:
        env = gymnasium.make(EnvSpec.from_json(request["spec"]), disable_env_checker=True)
        records.append(as_plain(play(env, turns, seed=seed)))
        env.close()
    json.dump(records, sys.stdout)
