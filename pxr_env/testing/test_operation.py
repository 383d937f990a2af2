"""An operation by itself: what it says, shows, raises and changes, with drawn arguments in every coordinate frame."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

import pytest

from pxr_env.coordinates import FRAMES
from pxr_env.errors import OperationError
from pxr_env.testing import test_contract, test_turns
from pxr_env.testing.playing import Environment, describe_error
from pxr_env.testing.subject import SIDE, TRIES, OperationSubject, TaskSubject
from pxr_env.views import Comparison, Region, View, regions

in_every_frame = pytest.mark.parametrize("frame", FRAMES)


@pytest.fixture
def alone(operation: OperationSubject) -> Iterator[tuple[Environment, TaskSubject, str]]:
    """An environment whose episode has just begun, its task, with this operation only, and the sample."""
    task, sample_id = operation.task(), operation.sample.sample_id
    env = task.roomy()
    env.reset(options={"sample_id": sample_id})
    yield env, task, sample_id
    task.close()


def test_it_describes_itself(operation: OperationSubject) -> None:
    """The operation has a description, and its tool is JSON that is new each time.

    The model knows nothing of an operation but this text. A chat template that changes it must not change the registry.
    """
    assert operation.operation.description.strip(), "the description is empty; expected a sentence for the model."
    tool = operation.operation.tool()
    try:
        json.dumps(tool, allow_nan=False)
    except (TypeError, ValueError) as error:
        pytest.fail(f"the tool cannot be written as JSON ({error}); expected plain values in the schema.")
    before = copy.deepcopy(tool)
    tool["function"]["parameters"].clear()
    assert operation.operation.tool() == before, "changing a tool changes the next one; expected a new one each time."


@in_every_frame
def test_drawn_arguments_raise_nothing_else(operation: OperationSubject, frame: str) -> None:
    """Arguments that satisfy the schema give something to show, or an `OperationError` with a short text.

    Any other exception ends the program, in the midst of a rollout.
    """
    for call, answer in operation.answers(frame).items():
        if isinstance(answer, OperationError):
            test_turns.assert_readable(str(answer), call)
        elif isinstance(answer, Exception):
            pytest.fail(f"{call}: {describe_error(answer)} Raise OperationError for what the model has to know.")


@in_every_frame
def test_it_shows_something(operation: OperationSubject, frame: str) -> None:
    """At least one of the drawn calls in every coordinate frame is carried out.

    Where none is, the other checks see nothing of it; give data= for which it works.
    """
    answers = operation.answers(frame)
    shown = [call for call, answer in answers.items() if not isinstance(answer, Exception)]
    last = list(answers.items())[-1]
    assert shown, f"none of {TRIES} drawn calls was carried out; expected one. The last: {last[0]}: {last[1]}"


@in_every_frame
def test_it_shows_regions(operation: OperationSubject, frame: str) -> None:
    """It answers with regions or comparisons, at least one, whose boxes lie in the sources of the sample.

    A view that says where it comes from wrongly misleads every later call on it, and every report.
    """
    for call, answer in operation.answers(frame).items():
        if isinstance(answer, Exception):
            continue
        kinds = [type(shown).__name__ for shown in answer]
        fits = answer and all(isinstance(shown, Region | Comparison) for shown in answer)
        assert fits, f"{call}: got {kinds}; expected one Region or Comparison, or a list of them."
        for region in regions([View.of(1, shown, (SIDE, SIDE)) for shown in answer]):
            test_contract.assert_region(region.as_dict(), operation.sample, call)


@in_every_frame
def test_it_always_answers_the_same(operation: OperationSubject, frame: str) -> None:
    """The same views and arguments give the same answer.

    An operation that draws numbers of its own makes an episode that no seed repeats.
    """
    again = operation.answers(frame)
    for call, answer in operation.answers(frame).items():
        assert repr(again[call]) == repr(answer), f"{call}: expected the same answer the second time."


@in_every_frame
def test_it_changes_nothing(operation: OperationSubject, frame: str) -> None:
    """The pictures of the sources do not change by a call.

    The pictures are shared by all environments of the process: a mark drawn into one is seen in all later episodes.
    """
    before = operation.pictures()
    operation.answers(frame)
    same = operation.pictures() == before
    assert same, "a picture of a source was changed; expected it as it was. Work on a copy."


def test_environments_execute_it(alone: tuple[Environment, TaskSubject, str]) -> None:
    """In an environment, drawn calls show images or are answered by a text; usage and failures count them.

    The same as `drawn_calls_are_executed_or_refused` for a task.
    """
    test_turns.test_drawn_calls_are_executed_or_refused(*alone)


def test_dialects_write_it(alone: tuple[Environment, TaskSubject, str]) -> None:
    """Drawn calls are read as they were written.

    The same as `calls_survive_the_dialect` for a task.
    """
    test_turns.test_calls_survive_the_dialect(*alone)
