"""What is checked: a task with the samples that are looked at, or an operation with what it is tried on."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from pxr_env.coordinates import FRAMES
from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import show
from pxr_env.media import ImageSource, VideoSource
from pxr_env.operations import OperationContext, get_operation
from pxr_env.operations.registry import Scale, Shown, draw
from pxr_env.rules import first_regions
from pxr_env.testing.playing import Environment, base
from pxr_env.types import Sample, SampleSource, as_source
from pxr_env.views import View

#: Makes a new environment of the task.
Maker = Callable[..., Environment]

#: Turns and operations of an environment in which a check may call what it likes.
_ROOMY = 256
#: Calls of an operation that are drawn in each coordinate frame.
TRIES = 40
#: Width and height of the views that an operation is tried on, and the video among its sources.
SIDE = 112
_SECONDS, _FPS = 3.0, 4.0


class TaskSubject:
    """A task under check.

    Args:
        make: makes a new environment.
        name: what reports call it.
        samples: how many samples are looked at, or their ids.
        seed: seed of everything that is drawn.
    """

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
        given = dict(arguments)
        if isinstance(task, str):
            return cls(lambda: _make(task, given), name=task, samples=samples, seed=seed)
        if isinstance(task, gymnasium.Env):
            spec = task.spec
            if spec is None or given:
                raise ValueError(
                    f"got an environment with {'arguments beside it' if given else 'no spec'}; expected one that "
                    "gymnasium.make made, since the checks need new ones. Pass its id and its arguments, or a "
                    "function that makes it."
                )
            return cls(lambda: _make(spec, {}), name=spec.id, samples=samples, seed=seed)
        if not callable(task):
            raise ValueError(
                f"got a task of type {type(task).__name__}; expected an id, an environment or a function that makes "
                'one. Pass an id such as "pxr_env:pxr/SyntheticSearch-v0".'
            )
        name = getattr(task, "__name__", type(task).__name__)
        return cls(lambda: task(**given), name=name, samples=samples, seed=seed)

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


def _make(task: str | EnvSpec, arguments: Mapping[str, Any]) -> Environment:
    # The passive checker would raise in the midst of an episode what the checks report one by one.
    return gymnasium.make(task, disable_env_checker=True, **arguments)


class OperationSubject:
    """An operation under check, and what it is tried on.

    Args:
        name: its name.
        data: the samples, of which the first one is used; by default one of noise.
        seed: seed of everything that is drawn.

    Raises:
        ValueError: there is no operation of that name.
    """

    def __init__(self, name: str, *, data: SampleSource | Sequence[Sample] = (), seed: int = 0) -> None:
        self.operation, self.seed = get_operation(name), seed
        self.data = as_source(data or [noise_sample()])
        self.sample = self.data.get(self.data.sample_ids()[0])

    def task(self) -> TaskSubject:
        """The subject of a task with this operation only."""

        def make() -> VisualReasoningEnv:
            return VisualReasoningEnv(
                self.data, operations=[self.operation.name], video_frames=4, min_pixels=28**2, max_pixels=SIDE**2
            )

        return TaskSubject(make, name=self.operation.name, samples=1, seed=self.seed)

    def calls(self, frame_name: str) -> dict[str, dict[str, Any]]:
        """Returns the name of a call -> drawn arguments in a coordinate frame, always the same."""
        rng = np.random.default_rng([self.seed, list(FRAMES).index(frame_name)])
        frame = FRAMES[frame_name]
        width, height = frame.extent((SIDE, SIDE))
        scale = Scale(width=width, height=height, seconds=_SECONDS, integers=frame.decimals == 0)
        drawn = [draw(self.operation.parameters, scale, rng) for _ in range(TRIES)]
        return {
            f"{self.operation.name} with {show(arguments, 200)} ({frame_name}, call {number})": arguments
            for number, arguments in enumerate(drawn)
        }

    def answers(self, frame_name: str) -> dict[str, list[Shown] | Exception]:
        """Returns the name of a call -> what the operation showed or raised."""
        return {name: self._run(frame_name, arguments) for name, arguments in self.calls(frame_name).items()}

    def _run(self, frame_name: str, arguments: dict[str, Any]) -> list[Shown] | Exception:
        """Calls it on the first views of the sample, and a part of the first one."""
        sources = self.sample.sources
        shown = [
            region for number, source in enumerate(sources, start=1) for region in first_regions(number, source, 4)
        ]
        shown.append(shown[0].part((0.25, 0.25, 0.75, 1.0), (1, 1)))
        views = tuple(View.of(number, region, (SIDE, SIDE)) for number, region in enumerate(shown, start=1))
        try:
            context = OperationContext(views=views, frame=FRAMES[frame_name], sources=sources)
            return self.operation.run(context, arguments)
        except Exception as error:
            return error

    def pictures(self) -> list[bytes]:
        """The pixels of the sources; of a video, of its first frame."""
        sources = self.sample.sources
        pictures = [source.image if isinstance(source, ImageSource) else source.frame(0) for source in sources]
        return [picture.tobytes() for picture in pictures]


def noise_sample() -> Sample:
    """A sample of two images and a video, all of noise."""
    wide, high = ImageSource(image=_noise((90, 160), 0)), ImageSource(image=_noise((200, 120), 1))
    video = VideoSource(
        key=("pxr_env.testing", "noise"),
        load_frame=functools.partial(_noise, (60, 80)),
        n_frames=round(_FPS * _SECONDS),
        fps=_FPS,
        size=(80, 60),
    )
    return Sample(sample_id="noise", question="What is this?", sources=(wide, high, video), answers=("noise",))


def _noise(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
