"""The words of the environment as small frozen dataclasses: sample, view, operation call, turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pxr_env.media import Box, ImageSource, Size


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """An image shown to the model.

    Args:
        index: number of the view in the episode, from 1.
        source: number of the source image in the sample, from 1.
        box: the part of the source that is shown, x1, y1, x2, y2 in source pixels.
        size: width and height in pixels as shown.
    """

    index: int
    source: int
    box: Box
    size: Size

    def as_dict(self) -> dict[str, Any]:
        """Returns the view as a new dict of plain values, as it stands in `info["views"]`."""
        return {"index": self.index, "source": self.source, "box": self.box, "size": self.size}


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A part of a source that an operation wants to show; the environment makes it a `View`."""

    source: int
    box: Box


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationCall:
    """One call of an operation as the model wrote it, arguments not yet checked."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """A part of a turn that could not be read; `message` tells the model what to do instead."""

    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What a dialect found in one message of the model.

    Args:
        calls: the operation calls in their order; those that could not be read are mistakes.
        answers: the different final answers, in their order.
        mistakes: what else is wrong with the message (an answer that is not closed, ...).
    """

    calls: tuple[OperationCall | Mistake, ...] = ()
    answers: tuple[str, ...] = ()
    mistakes: tuple[Mistake, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row of a task's data.

    Args:
        sample_id: its name, unique in the data.
        question: what the model is asked.
        sources: the images, shown in this order.
        answers: the accepted answers, the first is reported as `target`.
        needs_operation: whether the question can only be answered after an operation (None if unknown).
        evidence_box: where source 1 shows what decides the answer, x1, y1, x2, y2 in its pixels (None if unknown).
        category: the kind of question, for metrics.
        metadata: anything else the data knows, such as the description of a synthetic scene.
    """

    sample_id: str
    question: str
    sources: tuple[ImageSource, ...]
    answers: tuple[str, ...]
    needs_operation: bool | None = None
    evidence_box: Box | None = None
    category: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


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
