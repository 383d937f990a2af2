"""Every check of `check_operation` fails on an operation that breaks one promise, and it alone fails."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from pxr_env import Region, Sample
from pxr_env.dialects import Hermes
from pxr_env.errors import OperationError
from pxr_env.geometry import Quad
from pxr_env.media import ImageSource
from pxr_env.operations import TARGET_IMAGE, operation_names, register_operation
from pxr_env.testing import check_operation, test_operation

BROKEN = set()
_NAMES = map("broken_{}".format, itertools.count())


def breaks(check):
    """Marks the test that breaks a check."""
    BROKEN.add(check)
    return lambda test: test


def assert_only(check, function, message, parameters=None, description="Show an image again."):
    """Registers a function and asserts that exactly this check fails, and says what it should."""
    name = next(_NAMES)
    register_operation(name, description, parameters or {"target_image": TARGET_IMAGE})(function)
    report = check_operation(name)
    assert list(report.failed) == [check], str(report)
    assert message in report.failed[check]


def again(context, target_image):
    return context.view(target_image).only_region()


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


@breaks("it_describes_itself")
def test_no_description():
    assert_only("it_describes_itself", again, "the description is empty", description=" ")


@breaks("it_describes_itself")
def test_a_schema_that_is_no_json():
    parameters = {"target_image": {"type": "integer", "minimum": 1, "enum": (np.int64(1), np.int64(2))}}
    register_operation("numbers", "Show.", parameters)(again)
    report = check_operation("numbers")
    assert "cannot be written as JSON" in str(report)


@breaks("drawn_arguments_raise_nothing_else")
@breaks("environments_execute_it")
def test_an_exception_of_the_programmer():
    """What it raises ends an environment as well, so that two checks fail."""

    def divide(context, target_image):
        view = context.view(target_image)
        return view.only_region().part((0, 0, 1, 1), (1 / (target_image - 1), 1)) if target_image < 3 else again(
            context, target_image
        )  # fmt: skip

    register_operation("divide", "Show.", {"target_image": TARGET_IMAGE})(divide)
    report = check_operation("divide")
    assert list(report.failed) == ["drawn_arguments_raise_nothing_else", "environments_execute_it"]
    assert "ZeroDivisionError (test_check_operation.py" in str(report)
    assert "Raise OperationError" in str(report)


@breaks("drawn_arguments_raise_nothing_else")
def test_a_refusal_that_fills_the_context():
    def refuse(context, target_image):
        if target_image > 100:
            raise OperationError("no " * 1000)
        return again(context, target_image)

    assert_only("drawn_arguments_raise_nothing_else", refuse, "got a text of 3000 characters")


@breaks("environments_execute_it")
def test_what_only_an_environment_has():
    """The views of the checks are squares; those of an environment keep the shape of their sources."""

    def squares_only(context, target_image):
        view = context.view(target_image)
        if view.size[0] != view.size[1]:
            raise IndexError("no square")
        return view.only_region()

    assert_only("environments_execute_it", squares_only, "IndexError")


@breaks("it_shows_something")
def test_an_operation_that_never_works():
    def refuse(context, target_image):
        raise OperationError("this picture is too beautiful; expected another one.")

    assert_only("it_shows_something", refuse, "too beautiful")


@breaks("it_shows_regions")
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
    name = next(_NAMES)
    register_operation(name, "Show an image again.", {"target_image": TARGET_IMAGE})(
        lambda context, target_image: replace(region, adjustments=context.view(target_image).region.adjustments)
    )
    report = check_operation(name)
    # An environment cannot cut it, either, unless only its time is wrong.
    assert report.failed.keys() - {"environments_execute_it"} == {"it_shows_regions"}, str(report)
    assert message in str(report)


@breaks("it_shows_regions")
def test_nothing_to_show():
    register_operation("nothing", "Show nothing.", {"target_image": TARGET_IMAGE})(lambda context, target_image: [])
    report = check_operation("nothing")
    assert "it_shows_regions" in report.failed
    assert "got []; expected one Region or Comparison" in str(report)


@breaks("it_always_answers_the_same")
def test_numbers_of_its_own():
    rng = np.random.default_rng()

    def somewhere(context, target_image):
        return again(context, target_image).part((0, 0, rng.uniform(0.5, 1), 1), (1, 1))

    assert_only("it_always_answers_the_same", somewhere, "expected the same answer the second time")


@breaks("it_changes_nothing")
def test_a_picture_that_is_drawn_into():
    class Photograph:
        source = ImageSource(image=np.zeros((112, 112, 3), dtype=np.uint8))

        def __len__(self):
            return 1

        def sample_ids(self):
            return ["a"]

        def get(self, sample_id):
            return Sample(sample_id="a", question="?", sources=(self.source,), answers=("b",))

    def scratch(context, target_image):
        region = again(context, target_image)
        image = context.sources[0].image
        image.putpixel((0, 0), (image.getpixel((0, 0))[0] + 1,) * 3)
        return region

    register_operation("scratch", "Show an image again.", {"target_image": TARGET_IMAGE})(scratch)
    report = check_operation("scratch", data=Photograph())
    assert list(report.failed) == ["it_changes_nothing"], str(report)
    assert "a picture of a source was changed" in str(report)


@breaks("dialects_write_it")
def test_arguments_that_a_dialect_loses(monkeypatch):
    parse = Hermes.parse

    def forgetful(self, text):
        turn = parse(self, text)
        calls = (replace(call, arguments={**call.arguments, "target_image": 1}) for call in turn.calls)
        return replace(turn, calls=tuple(calls))

    monkeypatch.setattr(Hermes, "parse", forgetful)
    monkeypatch.setattr(Hermes, "render_call", lambda self, call: f"<tool_call>{_json(call)}</tool_call>")
    assert_only("dialects_write_it", again, "expected a call with")


def _json(call):
    import json

    return json.dumps({"name": call.name, "arguments": dict(call.arguments)})


def test_every_check_is_broken_by_a_test():
    checks = {name for name, check in vars(test_operation).items() if name.startswith("test_") and callable(check)}
    assert checks == {f"test_{name}" for name in BROKEN}
