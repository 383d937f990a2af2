"""`check_operation`: does an operation, by itself, keep what pxr promises?"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pxr_env.coordinates import FRAMES
from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import OperationError, show
from pxr_env.media import ImageSource, VideoSource
from pxr_env.operations import Operation, OperationContext, get_operation
from pxr_env.operations.registry import Shown
from pxr_env.operations.sampling import Scale, draw
from pxr_env.rules import first_regions
from pxr_env.testing.checks.contract import region_problem
from pxr_env.testing.checks.mistakes import unreadable
from pxr_env.testing.checks.operations import calls_survive_the_dialect, drawn_calls_are_executed_or_refused
from pxr_env.testing.report import Check, Report, describe_error, run_checks
from pxr_env.testing.subject import TaskSubject
from pxr_env.types import Sample, SampleSource
from pxr_env.views import Comparison, Region, View, regions

#: Calls that are drawn in each coordinate frame.
TRIES = 40
_SIDE = 112
_SECONDS = 3.0
_FPS = 4.0


class OperationSubject:
    """An operation under check, and what it is tried on.

    Args:
        operation: the operation.
        data: the samples; the first one is used.
        seed: seed of everything that is drawn.
    """

    def __init__(self, operation: Operation, data: SampleSource, *, seed: int) -> None:
        self.operation, self.data, self.seed = operation, data, seed
        self.sample = data.get(data.sample_ids()[0])

    def context(self, frame_name: str) -> OperationContext:
        """Returns what the operation may look at: the first views of the sample, and a part of the first one."""
        sources = self.sample.sources
        first = [
            region for number, source in enumerate(sources, start=1) for region in first_regions(number, source, 4)
        ]
        shown = [*first, first[0].part((0.25, 0.25, 0.75, 1.0), (1, 1))]
        views = tuple(View.of(number, region, (_SIDE, _SIDE)) for number, region in enumerate(shown, start=1))
        return OperationContext(views=views, frame=FRAMES[frame_name], sources=sources)

    def calls(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields coordinate frames and drawn arguments, always the same."""
        for number, (name, frame) in enumerate(FRAMES.items()):
            rng = np.random.default_rng([self.seed, number])
            width, height = frame.extent((_SIDE, _SIDE))
            scale = Scale(width=width, height=height, seconds=_SECONDS, integers=frame.decimals == 0)
            for _ in range(TRIES):
                yield name, draw(self.operation.parameters, scale, rng)

    def answers(self) -> Iterator[tuple[str, list[Shown] | Exception]]:
        """Yields what was called, and what the operation showed or raised."""
        for frame, arguments in self.calls():
            what = f"{self.operation.name} with {show(arguments, 200)} ({frame})"
            try:
                yield what, self.operation.run(self.context(frame), arguments)
            except Exception as error:
                yield what, error

    @functools.cached_property
    def task(self) -> TaskSubject:
        """The subject of a task with this operation only."""

        def make() -> VisualReasoningEnv:
            return VisualReasoningEnv(
                self.data, operations=[self.operation.name], video_frames=4, min_pixels=28**2, max_pixels=_SIDE**2
            )

        return TaskSubject(make, name=self.operation.name, samples=1, seed=self.seed)


def it_describes_itself(subject: OperationSubject) -> Iterator[str]:
    """The operation has a description, and its tool is JSON that is new each time.

    The model knows nothing of an operation but this text. A chat template that changes it must not change the registry.
    """
    operation = subject.operation
    if not operation.description.strip():
        yield "the description is empty; expected a sentence for the model."
    tool = operation.tool()
    try:
        json.dumps(tool, allow_nan=False)
    except (TypeError, ValueError) as error:
        yield f"the tool cannot be written as JSON ({error}); expected plain values in the schema."
    before = copy.deepcopy(tool)
    tool["function"]["parameters"].clear()
    if operation.tool() != before:
        yield "changing a tool changes the next one; expected a new one each time."


def drawn_arguments_raise_nothing_else(subject: OperationSubject) -> Iterator[str]:
    """Arguments that satisfy the schema give something to show, or an `OperationError` with a short text.

    Any other exception ends the program, in the midst of a rollout.
    """
    for what, answer in subject.answers():
        if isinstance(answer, OperationError):
            problem = unreadable(str(answer))
            if problem:
                yield f"{what}: {problem}"
        elif isinstance(answer, Exception):
            yield f"{what}: {describe_error(answer)} Raise OperationError for what the model has to know."


def it_shows_something(subject: OperationSubject) -> Iterator[str]:
    """At least one of the drawn calls in every coordinate frame is carried out.

    Where none is, the other checks see nothing of it; give data= for which it works.
    """
    shown = dict.fromkeys(FRAMES, 0)
    last = ""
    for (frame, _), (what, answer) in zip(subject.calls(), subject.answers(), strict=True):
        if isinstance(answer, Exception):
            last = f"{what}: {answer}"
        else:
            shown[frame] += 1
    for frame, count in shown.items():
        if count == 0:
            yield f"none of {TRIES} drawn calls in the frame {frame} was carried out; expected one. The last: {last}"


def it_shows_regions(subject: OperationSubject) -> Iterator[str]:
    """It answers with regions or comparisons, at least one, whose boxes lie in the sources of the sample.

    A view that says where it comes from wrongly misleads every later call on it, and every report.
    """
    for what, answer in subject.answers():
        if isinstance(answer, Exception):
            continue
        if not answer or not all(isinstance(shown, Region | Comparison) for shown in answer):
            kinds = [type(shown).__name__ for shown in answer]
            yield f"{what}: {kinds} came; expected one Region or Comparison, or a list of them."
            continue
        views = [View.of(1, shown, (_SIDE, _SIDE)) for shown in answer]
        for region in regions(views):
            problem = region_problem(region.as_dict(), subject.sample)
            if problem:
                yield f"{what}: {problem}"


def it_always_answers_the_same(subject: OperationSubject) -> Iterator[str]:
    """The same views and arguments give the same answer.

    An operation that draws numbers of its own makes an episode that no seed repeats.
    """
    for (what, one), (_, other) in zip(subject.answers(), subject.answers(), strict=True):
        if _comparable(one) != _comparable(other):
            yield f"{what}: {_comparable(other)} came the second time; expected {_comparable(one)} as the first time."


def it_changes_nothing(subject: OperationSubject) -> Iterator[str]:
    """The pictures of the sources do not change by a call.

    The pictures are shared by all environments of the process: a mark drawn into one is seen in all later episodes.
    """
    pictures = _picture_bytes(subject.sample)
    for frame, arguments in subject.calls():
        # What it raises is another check's.
        with contextlib.suppress(Exception):
            subject.operation.run(subject.context(frame), arguments)
    if _picture_bytes(subject.sample) != pictures:
        yield "a picture of a source was changed; expected it as it was. Work on a copy."


def environments_execute_it(subject: OperationSubject) -> Iterator[str]:
    """In an environment, drawn calls show images or are answered by a text; usage and failures count them.

    The same as `drawn_calls_are_executed_or_refused` for a task.
    """
    yield from drawn_calls_are_executed_or_refused(subject.task)


def dialects_write_it(subject: OperationSubject) -> Iterator[str]:
    """Drawn calls are read as they were written.

    The same as `calls_survive_the_dialect` for a task.
    """
    yield from calls_survive_the_dialect(subject.task)


CHECKS: tuple[Check[OperationSubject], ...] = (
    it_describes_itself,
    drawn_arguments_raise_nothing_else,
    it_shows_something,
    it_shows_regions,
    it_always_answers_the_same,
    it_changes_nothing,
    environments_execute_it,
    dialects_write_it,
)


def check_operation(name: str, *, data: SampleSource | None = None, seed: int = 0) -> Report:
    """Checks a registered operation with drawn arguments, in every coordinate frame; no check raises.

    Args:
        name: its name.
        data: samples to try it on; by default one with two images and a video, of noise.
        seed: seed of what is drawn.

    Returns:
        what every check found; `report.raise_if_failed()` or `assert report.passed, report`.

    Raises:
        ValueError: there is no operation of that name.
    """
    subject = OperationSubject(get_operation(name), data or NoiseSamples(), seed=seed)
    return run_checks(CHECKS, subject, f'operation "{name}"')


class NoiseSamples:
    """A single sample of two images and a video, all of noise."""

    _id = "noise"

    def __len__(self) -> int:
        return 1

    def sample_ids(self) -> Sequence[str]:
        """See `SampleSource`."""
        return [self._id]

    def get(self, sample_id: str) -> Sample:
        """See `SampleSource`."""
        wide, high = ImageSource(image=_noise((90, 160), 0)), ImageSource(image=_noise((200, 120), 1))
        video = VideoSource(
            key=("pxr_env.testing", "noise"),
            load_frame=functools.partial(_noise, (60, 80)),
            n_frames=round(_FPS * _SECONDS),
            fps=_FPS,
            size=(80, 60),
        )
        return Sample(sample_id=self._id, question="What is this?", sources=(wide, high, video), answers=("noise",))


def _noise(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def _comparable(answer: list[Shown] | Exception) -> str:
    return repr(answer)


def _picture_bytes(sample: Sample) -> list[bytes]:
    pictures = [source.image if isinstance(source, ImageSource) else source.frame(0) for source in sample.sources]
    return [picture.tobytes() for picture in pictures]
