"""The words of the environment as small frozen dataclasses: sample, call, turn; and where samples come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pxr_env.errors import DataError, did_you_mean, plain, represent
from pxr_env.media import ImageSource, VideoSource
from pxr_env.views import Box


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationCall:
    """One call of an operation as the model wrote it.

    Example:
        >>> OperationCall(name="zoom_in", arguments={"bbox_2d": [0.1, 0.2, 0.4, 0.5], "target_image": 1}).name
        'zoom_in'
    """

    name: str
    """Of the operation, under its own name: "zoom_in"."""
    arguments: Mapping[str, Any]
    """By name, as JSON has them; not yet checked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """A part of a turn that could not be read; `message` tells the model what was found, and what to do instead."""

    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What a dialect found in one message of the model.

    Example:
        >>> from pxr_env.coordinates import get_frame
        >>> from pxr_env.dialects import get_dialect
        >>> get_dialect("hermes", get_frame("unit")).parse("It is \\\\boxed{B}.")
        Turn(calls=(), answers=('B',), mistakes=())
    """

    calls: tuple[OperationCall | Mistake, ...] = ()
    """The operation calls in their order; those that could not be read are mistakes."""
    answers: tuple[str, ...] = ()
    """The different final answers, in their order."""
    mistakes: tuple[Mistake, ...] = ()
    """What else is wrong with the message: an answer that is not closed, ..."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row of a task's data.

    Example:
        >>> from PIL import Image
        >>> photograph = ImageSource(image=Image.new("RGB", (640, 480)))
        >>> sample = Sample(sample_id="1", question="What does the sign say?", sources=(photograph,), answers=("STOP",))
        >>> sample.sources[0].size
        (640, 480)
    """

    sample_id: str
    """Its name, unique in the data."""
    question: str
    """What the model is asked."""
    sources: tuple[ImageSource | VideoSource, ...]
    """The images and videos, shown in this order."""
    answers: tuple[str, ...]
    """The accepted answers; the first is reported as `target`."""
    options: tuple[str, ...] = ()
    """The texts of a multiple-choice question's options in order, where they are known apart from it."""
    needs_operation: bool | None = None
    """Whether the question can only be answered after an operation (None if unknown)."""
    evidence_box: Box | None = None
    """Where source 1 shows what decides the answer, x1, y1, x2, y2 in its pixels (None if unknown)."""
    evidence_time: tuple[float, float] | None = None
    """When source 1, a video, shows it: from the first up to the second, in seconds (None if unknown)."""
    evidence_call: OperationCall | None = None
    """The call that shows it where box and time do not say so, for scripted agents (None if they do)."""
    category: str | None = None
    """The kind of question, for metrics."""
    cluster: str | None = None
    """What the question belongs to, such as its photograph: samples of one cluster are not independent, and intervals
    and tests take them together (None: it stands alone)."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Anything else the data knows, such as the description of a synthetic scene."""


class NoTurn(str):
    """An empty message with which whoever writes the turns gives up: the episode ends without an answer.

    Example:
        >>> NoTurn("context") == "", NoTurn("context").limit
        (True, 'context')
    """

    limit: str
    """What it could not keep to, such as "context"; `info["truncated_by"]` from then on."""

    def __new__(cls, limit: str) -> NoTurn:
        message = super().__new__(cls, "")
        message.limit = limit
        return message


#: What a sample may know that would help to answer: for those who judge and record, in `info` where it is known.
SAMPLE_FACTS = ("needs_operation", "evidence_box", "evidence_time", "category")


class SampleSource(Protocol):
    """The data of a task. `sample_ids` may be lazy: only its length and the asked elements are used."""

    def __len__(self) -> int:
        """Number of samples."""

    def sample_ids(self) -> Sequence[str]:
        """All sample ids in a fixed order; `in` and indexing should be cheap."""

    def get(self, sample_id: str) -> Sample:
        """The sample of that id; DataError if there is none, or it cannot be read."""


class SampleList:
    """Samples held in memory, in their order; DataError if two have one id."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples: dict[str, Sample] = {}
        for sample in samples:
            if sample.sample_id in self._samples:
                raise DataError(
                    f"got the id {represent(sample.sample_id)} twice; expected another one for each sample."
                )
            self._samples[sample.sample_id] = sample

    def __len__(self) -> int:
        return len(self._samples)

    def sample_ids(self) -> Sequence[str]:
        """All ids, in their order."""
        return tuple(self._samples)

    def get(self, sample_id: str) -> Sample:
        """The sample of that id; DataError if there is none."""
        return self._samples[find_id(sample_id, self.sample_ids())]


def as_source(data: SampleSource | Sequence[Sample]) -> SampleSource:
    """The data of an environment as a source with at least one sample.

    Raises:
        TypeError: it is neither a source nor a list of samples.
        DataError: it has no samples, or two samples have one id.
    """
    source: Any = data
    if isinstance(data, list | tuple) and all(isinstance(sample, Sample) for sample in data):
        source = SampleList(data)
    methods = ("__len__", "sample_ids", "get")
    if isinstance(source, type) or not all(callable(getattr(source, name, None)) for name in methods):
        raise TypeError(
            f"got data={represent(data)}; expected a list of Sample, or an object with __len__(), sample_ids() and "
            "get(sample_id). Write such a class, or make the environment of a data set with gymnasium.make(id, "
            'data="DIR").'
        )
    if len(source) == 0:
        raise DataError("got a data set without samples; expected at least one. Check the path or the split.")
    checked: SampleSource = source
    return checked


def find_id(asked: object, ids: Sequence[str]) -> str:
    """The id that was asked for, as the data has it; an integer stands for the id in its digits. DataError if none."""
    asked = plain(asked)
    is_number = isinstance(asked, int) and not isinstance(asked, bool)
    for sample_id in (asked, str(asked)) if is_number else (asked,):
        if isinstance(sample_id, str | int) and not isinstance(sample_id, bool) and sample_id in ids:
            return sample_id  # type: ignore[return-value]
    raise DataError(
        f"got sample_id={represent(asked)}; expected one of {len(ids)} ids, {represent(ids[0])} to "
        f"{represent(ids[-1])}.{did_you_mean(asked, ids)} They are in env.unwrapped.data.sample_ids()."
    )
