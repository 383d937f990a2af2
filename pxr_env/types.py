"""The words of the environment as small frozen dataclasses: sample, operation call, turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pxr_env.geometry import Box
from pxr_env.media import ImageSource, VideoSource


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
        sources: the images and videos, shown in this order.
        answers: the accepted answers, the first is reported as `target`.
        options: the texts of a multiple-choice question's options in order, where they are known apart from it.
        needs_operation: whether the question can only be answered after an operation (None if unknown).
        evidence_box: where source 1 shows what decides the answer, x1, y1, x2, y2 in its pixels (None if unknown).
        evidence_time: when source 1, a video, shows it: from the first up to the second, in seconds (None if unknown).
        evidence_call: the call that shows it where box and time do not say so, for scripted agents (None if they do).
        category: the kind of question, for metrics.
        cluster: what the question belongs to, such as its photograph: samples of one cluster are not independent, and
            intervals and tests take them together (None: it stands alone).
        metadata: anything else the data knows, such as the description of a synthetic scene.
    """

    sample_id: str
    question: str
    sources: tuple[ImageSource | VideoSource, ...]
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    needs_operation: bool | None = None
    evidence_box: Box | None = None
    evidence_time: tuple[float, float] | None = None
    evidence_call: OperationCall | None = None
    category: str | None = None
    cluster: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class NoTurn(str):
    """An empty message with which whoever writes the turns gives up: the episode ends without an answer.

    Args:
        limit: what it could not keep to, such as "context"; `info["truncated_by"]` from then on.
    """

    limit: str

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
