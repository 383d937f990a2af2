"""An operation by itself: what it says, shows, raises and changes, with drawn arguments in every coordinate frame."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pxr_env.coordinates import FRAMES
from pxr_env.errors import OperationError
from pxr_env.media import ImageSource
from pxr_env.testing import test_contract, test_turns
from pxr_env.testing.playing import SIDE, TRIES, Environment, OperationSubject, TaskSubject, describe_error
from pxr_env.views import Comparison, Region, View, regions


@pytest.fixture(scope="module", params=FRAMES)
def frame(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def answers(operation: OperationSubject, frame: str) -> dict[str, Any]:
    """The name of a call -> what the operation showed or raised."""
    return operation.answers(frame)


@pytest.fixture(scope="module")
def shown(answers: dict[str, Any]) -> dict[str, list[Any]]:
    """What the calls showed that were carried out."""
    return {call: answer for call, answer in answers.items() if not isinstance(answer, Exception)}


@pytest.fixture
def alone(operation: OperationSubject) -> Iterator[tuple[Environment, TaskSubject, str]]:
    """An environment whose episode has just begun, its task, with this operation only, and the sample."""
    task, sample_id = operation.task(), operation.sample.sample_id
    env = task.roomy()
    env.reset(options={"sample_id": sample_id})
    yield env, task, sample_id
    task.close()


def test_it_describes_itself(operation: OperationSubject) -> None:
    """The operation has a description, and its tool is JSON that is new each time."""
    assert operation.operation.description.strip(), "the description is empty; expected a sentence for the model."
    tool = operation.operation.tool()
    try:
        json.dumps(tool, allow_nan=False)
    except (TypeError, ValueError) as error:
        pytest.fail(f"the tool cannot be written as JSON ({error}); expected plain values in the schema.")
    before = copy.deepcopy(tool)
    tool["function"]["parameters"].clear()
    assert operation.operation.tool() == before, "changing a tool changes the next one; expected a new one each time."


def test_drawn_arguments_raise_nothing_else(answers: dict[str, Any]) -> None:
    """Arguments that satisfy the schema give something to show, or an `OperationError` with a short text."""
    for call, answer in answers.items():
        if isinstance(answer, OperationError):
            test_turns.assert_readable(str(answer), call)
        elif isinstance(answer, Exception):
            pytest.fail(f"{call}: {describe_error(answer)} Raise OperationError for what the model has to know.")


def test_it_shows_something(answers: dict[str, Any], shown: dict[str, list[Any]]) -> None:
    """At least one of the drawn calls in every coordinate frame is carried out."""
    call, answer = list(answers.items())[-1]
    assert shown, f"none of {TRIES} drawn calls was carried out; expected one. The last: {call}: {answer}"


def test_it_shows_regions(operation: OperationSubject, shown: dict[str, list[Any]]) -> None:
    """It answers with regions or comparisons, at least one, whose boxes lie in the sources of the sample."""
    for call, answer in shown.items():
        kinds = [type(one).__name__ for one in answer]
        fits = answer and all(isinstance(one, Region | Comparison) for one in answer)
        assert fits, f"{call}: got {kinds}; expected one Region or Comparison, or a list of them."
        for region in regions([View.of(1, one, (SIDE, SIDE)) for one in answer]):
            test_contract.assert_region(region.as_dict(), operation.sample, call)


def test_it_always_answers_the_same(operation: OperationSubject, frame: str, answers: dict[str, Any]) -> None:
    """The same views and arguments give the same answer."""
    again = operation.answers(frame)
    for call, answer in answers.items():
        assert repr(again[call]) == repr(answer), f"{call}: expected the same answer the second time."


def test_it_changes_nothing(operation: OperationSubject, frame: str) -> None:
    """The pictures of the sources do not change by a call."""

    def pictures() -> list[bytes]:
        # Of a video, its first frame.
        sources = operation.sample.sources
        images = [source.image if isinstance(source, ImageSource) else source.frame(0) for source in sources]
        return [image.tobytes() for image in images]

    before = pictures()
    operation.answers(frame)
    same = pictures() == before
    assert same, "a picture of a source was changed; expected it as it was. Work on a copy."


def test_environments_execute_it(alone: tuple[Environment, TaskSubject, str]) -> None:
    """In an environment, drawn calls show images or are answered by a text; usage and failures count them."""
    test_turns.test_drawn_calls_are_executed_or_refused(*alone)


def test_dialects_write_it(alone: tuple[Environment, TaskSubject, str]) -> None:
    """Drawn calls are read as they were written."""
    test_turns.test_calls_survive_the_dialect(*alone)
