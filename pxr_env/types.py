"""The words of the environment as small frozen dataclasses: sample, operation call, turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pxr_env.geometry import Box
from pxr_env.media import ImageSource, VideoSource


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
    """A part of a turn that could not be read."""

    message: str
    """For the model: what was found, what was expected, what to do instead."""


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


class SampleSource(Protocol):
    """The data of a task. `sample_ids` may be lazy: only its length and the asked elements are used."""

    def __len__(self) -> int:
        """Number of samples."""

    def sample_ids(self) -> Sequence[str]:
        """All sample ids in a fixed order; `in` and indexing should be cheap."""

    def get(self, sample_id: str) -> Sample:
        """The sample of that id.

        Raises:
            DataError: there is no such sample, or it cannot be read.
        """
