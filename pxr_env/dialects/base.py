"""What a dialect is: how a turn is read and written, and how the environment words its replies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pxr_env.coordinates import Frame
from pxr_env.dialects.wording import describe_error, describe_views, introduce_video
from pxr_env.operations import Operation
from pxr_env.types import OperationCall, Turn
from pxr_env.views import View


class Dialect(Protocol):
    """How a turn is read and written. Everything a model says or is told in words goes through its dialect.

    Calls are canonical on the environment's side: names and arguments are those of `pxr_env.operations`, whatever the
    model calls them. Subclass it for the replies below, or write a class with the same methods.
    """

    @property
    @abstractmethod
    def reminder(self) -> str:
        """The syntax of a call and of an answer in a few words, for messages to the model."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Where generation of a turn may stop; they belong to the turn. Whoever stops there gets one call per turn."""
        return ()

    @abstractmethod
    def parse(self, text: str) -> Turn:
        """Finds calls, answers and mistakes in one message. Never raises; linear in the length of `text`."""

    @abstractmethod
    def render_call(self, call: OperationCall) -> str:
        """Writes a call so that `parse` finds exactly it, floats rounded to 4 decimals.

        Raises:
            ValueError: the dialect cannot express it.
        """

    @abstractmethod
    def call_opening(self, operation: str) -> str:
        """Returns how a call of an operation begins, up to the value of its first required argument: to force one.

        Raises:
            ValueError: there is no such operation, or the dialect cannot express it.
        """

    @abstractmethod
    def render_answer(self, answer: str) -> str:
        """Writes a final answer so that `parse` finds exactly it.

        Raises:
            ValueError: the dialect cannot express it.
        """

    @abstractmethod
    def tools(self, operations: Sequence[Operation]) -> list[dict[str, Any]]:
        """Returns the tool schemas of the operations under the names the dialect knows, new dicts."""

    @abstractmethod
    def system_prompt(self, operations: Sequence[Operation], *, max_turns: int, max_operations: int) -> str:
        """Returns what the model is told before the first image."""

    def check_operations(self, operations: Sequence[Operation]) -> None:
        """Checks that the dialect can call these operations.

        Raises:
            ValueError: it cannot; the message names the first one.
        """
        return

    def render_views(self, views: Sequence[View], call: OperationCall | None = None) -> str:
        """Words the result of a call: what the new images are."""
        return describe_views(views, call)

    def image_place(self, text: str, call: OperationCall) -> int:
        """Returns how many characters of a result's text a released model saw before its images; 0 for none."""
        return 0

    def render_video(self, views: Sequence[View], *, duration: float) -> str:
        """Words what introduces the frames of a video of `duration` seconds."""
        return introduce_video(views, duration)

    def render_error(self, message: str, *, call_number: int | None = None) -> str:
        """Words a mistake of the model; `call_number` counts the calls of a turn from 1 where there are several."""
        return describe_error(message, call_number)

    def same_call(self, first: OperationCall, second: OperationCall) -> bool:
        """Whether two calls ask for the same: 1 is 1.0, and the order of keys does not matter."""
        return first.name == second.name and _same(first.arguments, second.arguments)


def _same(first: object, second: object) -> bool:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    # True is no 1 here.
    return isinstance(first, bool) == isinstance(second, bool) and first == second


def check_frame(dialect: str, frame: Frame, known: Mapping[str, str]) -> None:
    """Checks that a dialect knows a coordinate frame.

    Args:
        dialect: its name.
        frame: the frame asked for.
        known: the names of the frames it knows, with what they are there.

    Raises:
        ValueError: it does not.
    """
    if frame.name not in known:
        choices = " or ".join(f'"{name}" ({meaning})' for name, meaning in known.items())
        raise ValueError(
            f'dialect="{dialect}" with coordinates="{frame.name}" came; expected coordinates {choices}. '
            'Use dialect="hermes" for other frames.'
        )


def check_only_zoom(dialect: str, operations: Sequence[Operation]) -> None:
    """Checks that `zoom_in` is the only operation, for dialects without a way to name others.

    Raises:
        ValueError: it is not.
    """
    for operation in operations:
        if operation.name != "zoom_in":
            raise ValueError(
                f'dialect="{dialect}" with the operation "{operation.name}" came; expected only zoom_in, the one '
                'operation it has words for. Leave the others out, or use dialect="hermes" or "tags".'
            )
