"""Every check of an operation fails on one that breaks one promise, and it alone fails."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pxr_env import Region, Sample
from pxr_env.dialects import Hermes
from pxr_env.errors import OperationError
from pxr_env.media import ImageSource
from pxr_env.operations import TARGET_IMAGE, operation_names, register_operation
from pxr_env.testing import check_operation, test_operation
from pxr_env.views import Quad

pytestmark = pytest.mark.slow

CASES = []
RNG = np.random.default_rng()


def broken(message, *checks, description="Show an image again."):
    """Registers a function, an operation of which exactly these checks fail, with this message."""

    def register(function):
        CASES.append(pytest.param(message, checks, function, description, id=f"{checks[0]}-{function.__name__}"))
        return function

    return register


@pytest.mark.parametrize("name", operation_names())
def test_the_operations_of_this_package_pass(name):
    report = check_operation(name)
    assert report.passed, str(report)
    assert not report.skipped


def test_an_operation_of_the_user_passes():
    @register_operation("upper_half", "Show the upper half of an image again.", {"target_image": TARGET_IMAGE})
    def upper_half(context, target_image):
        return context.view(target_image).only_region().part((0, 0, 1, 0.5), (1, 1))

    check_operation("upper_half").raise_if_failed()


def test_an_unknown_operation_is_no_report():
    with pytest.raises(ValueError, match='Did you mean "zoom_in"'):
        check_operation("zoom")


@broken("the description is empty", "it_describes_itself", description=" ")
def again(context, target_image):
    return context.view(target_image).only_region()


def test_a_schema_that_is_no_json():
    parameters = {"target_image": {"type": "integer", "minimum": 1, "enum": (np.int64(1), np.int64(2))}}
    register_operation("numbers", "Show.", parameters)(again)
    report = check_operation("numbers")
    assert "cannot be written as JSON" in report.failed["it_describes_itself"]


# What it raises ends an environment as well, so that two checks fail.
@broken(
    "got ZeroDivisionError (test_check_operation.py", "drawn_arguments_raise_nothing_else", "environments_execute_it"
)
@broken("Raise OperationError for what", "drawn_arguments_raise_nothing_else", "environments_execute_it")
def divide(context, target_image):
    if target_image < 3:
        return again(context, target_image).part((0, 0, 1, 1), (1 / (target_image - 1), 1))
    return again(context, target_image)


@broken("got a text of 3000 characters", "drawn_arguments_raise_nothing_else")
def refuse_at_length(context, target_image):
    if target_image > 100:
        raise OperationError("no " * 1000)
    return again(context, target_image)


@broken("IndexError", "environments_execute_it")
def squares_only(context, target_image):
    """The views of the checks are squares; those of an environment keep the shape of their sources."""
    view = context.view(target_image)
    if view.size[0] != view.size[1]:
        raise IndexError("no square")
    return view.only_region()


@broken("too beautiful", "it_shows_something")
def refuse(context, target_image):
    raise OperationError("this picture is too beautiful; expected another one.")


@broken("got []; expected one Region or Comparison", "it_shows_regions", "environments_execute_it")
def show_nothing(context, target_image):
    return []


# An environment cannot cut them, either, unless only the time is wrong.
@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Region.from_box(1, (0, 0, 500, 50)), "inside the source, 160x90 pixels"),
        (Region.from_box(4, (0, 0, 50, 50)), "got source 4; expected 1 to 3"),
        (Region(source=3, quad=Quad.from_box((0, 0, 80, 60)), frame=99, time=0.0), "expected 0 to 11"),
        (Region(source=3, quad=Quad.from_box((0, 0, 80, 60)), frame=4, time=0.5), "expected 1.0 s"),
    ],
)
def test_regions_that_are_nowhere(region, message):
    register_operation("nowhere", "Show an image again.", {"target_image": TARGET_IMAGE})(
        lambda context, target_image: replace(region, adjustments=context.view(target_image).region.adjustments)
    )
    report = check_operation("nowhere")
    assert report.failed.keys() - {"environments_execute_it"} == {"it_shows_regions"}, str(report)
    assert message in str(report)


@broken("expected the same answer the second time", "it_always_answers_the_same")
def show_somewhere(context, target_image):
    return again(context, target_image).part((0, 0, RNG.uniform(0.5, 1), 1), (1, 1))


def test_a_picture_that_is_drawn_into():
    source = ImageSource(image=np.zeros((112, 112, 3), dtype=np.uint8))

    @register_operation("scratch", "Show an image again.", {"target_image": TARGET_IMAGE})
    def scratch(context, target_image):
        region = again(context, target_image)
        image = context.sources[0].image
        image.putpixel((0, 0), (image.getpixel((0, 0))[0] + 1,) * 3)
        return region

    report = check_operation("scratch", data=[Sample(sample_id="a", question="?", sources=(source,), answers=("b",))])
    assert list(report.failed) == ["it_changes_nothing"], str(report)
    assert "a picture of a source was changed" in str(report)


def test_arguments_that_a_dialect_loses(monkeypatch):
    parse = Hermes.parse

    def forgetful(self, text):
        turn = parse(self, text)
        calls = (replace(call, arguments={**call.arguments, "target_image": 1}) for call in turn.calls)
        return replace(turn, calls=tuple(calls))

    def render(self, call):
        return f"<tool_call>{json.dumps({'name': call.name, 'arguments': dict(call.arguments)})}</tool_call>"

    monkeypatch.setattr(Hermes, "parse", forgetful)
    monkeypatch.setattr(Hermes, "render_call", render)
    register_operation("again", "Show an image again.", {"target_image": TARGET_IMAGE})(again)
    report = check_operation("again")
    assert list(report.failed) == ["dialects_write_it"], str(report)
    assert "expected a call with" in str(report)


@pytest.mark.parametrize(("message", "checks", "function", "description"), CASES)
def test_a_broken_operation(message, checks, function, description):
    register_operation("broken", description, {"target_image": TARGET_IMAGE})(function)
    report = check_operation("broken")
    assert tuple(report.failed) == checks, str(report)
    assert message in str(report)


def test_every_check_is_broken():
    checks = {name for name, check in vars(test_operation).items() if name.startswith("test_") and callable(check)}
    elsewhere = {"it_changes_nothing", "dialects_write_it"}
    assert checks == {f"test_{check}" for case in CASES for check in case.values[1]} | {f"test_{n}" for n in elsewhere}
