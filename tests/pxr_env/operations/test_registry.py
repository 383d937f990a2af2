"""The registry, the argument check, drawn arguments and zoom_in."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.coordinates import get_frame
from pxr_env.errors import OperationError
from pxr_env.operations import TARGET_IMAGE, OperationContext, get_operation, operation_names, registry
from pxr_env.operations.registry import Scale, check_schema, draw, draw_call, read_arguments, register_operation
from pxr_env.views import Region, View

VIEWS = (
    View.of(1, Region.from_box(1, (0.0, 0.0, 400.0, 200.0)), (112, 56)),
    View.of(2, Region.from_box(1, (100.0, 50.0, 200.0, 150.0)), (84, 84)),
)
CONTEXT = OperationContext(views=VIEWS, frame=get_frame("unit"), sources=())


def zoom(**arguments):
    return get_operation("zoom_in").run(CONTEXT, arguments)


def test_zoom_reads_the_source_through_the_target_view():
    assert zoom(bbox_2d=[0, 0, 0.5, 0.5], target_image=1) == [Region.from_box(1, (0, 0, 200, 100))]
    assert zoom(bbox_2d=[0.5, 0, 1, 0.5], target_image=2) == [Region.from_box(1, (150, 50, 200, 100))]


BOX = [0.1, 0.1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bbox_2d": BOX, "target_image": 0}, "target_image is 0; expected an integer from 1"),
        ({"bbox_2d": BOX, "target_image": -1}, "expected an integer from 1"),
        ({"bbox_2d": BOX, "target_image": 3}, "no image 3; images 1 to 2 were shown"),
        ({"bbox_2d": BOX, "target_image": 10**500}, "target_image is an integer of 1661 bits"),
        ({"bbox_2d": BOX, "target_image": True}, "target_image is true; expected an integer"),
        ({"bbox_2d": BOX, "target_image": 1.5}, r"target_image is 1\.5; expected an integer"),
        ({"bbox_2d": BOX, "target_image": math.nan}, "target_image is nan; expected an integer"),
        ({"bbox_2d": BOX, "target_image": "one"}, 'target_image is "one"; expected an integer'),
        ({"bbox_2d": BOX, "target_image": "1.5"}, 'target_image is "1.5"; expected an integer'),
        ({"bbox_2d": BOX, "target_image": "true"}, 'target_image is "true"; expected an integer'),
        ({"bbox_2d": BOX, "target_image": None}, "target_image is null"),
        ({"bbox_2d": BOX}, 'arguments lacks "target_image"; expected an integer from 1. Add it'),
        ({"target_image": 1}, 'arguments lacks "bbox_2d"; expected a list of 4 finite numbers'),
        ({"bbox_2d": [0, 0, 1], "target_image": 1}, "bbox_2d has 3 items; expected a list of 4"),
        ({"bbox_2d": [0, 0, 1, True], "target_image": 1}, r"bbox_2d\[3\] is true; expected a finite number"),
        ({"bbox_2d": [0, 0, "NaN", 1], "target_image": 1}, r'bbox_2d\[2\] is "NaN"'),
        ({"bbox_2d": [0, 0, math.inf, 1], "target_image": 1}, r"bbox_2d\[2\] is inf"),
        ({"bbox_2d": "0,0,1,1", "target_image": 1}, 'bbox_2d is "0,0,1,1"; expected a list of 4'),
        ({"bbox_2d": {"x1": 0}, "target_image": 1}, "expected a list of 4"),
        ({"bbox": BOX, "target_image": 1}, 'arguments has "bbox"; expected only.*Did you mean "bbox_2d"'),
        ({"bbox_2d": BOX, "target_image": 1, "label": "x" * 500}, 'arguments has "label"'),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(OperationError, match=message) as caught:
        zoom(**arguments)
    assert len(str(caught.value)) < 300


def test_schemas_are_checked_deeply():
    schema = {
        "type": "object",
        "properties": {
            "mode": {"type": "string", "enum": ["grey", "edges"]},
            "factor": {"type": "number", "minimum": 0.5, "maximum": 2},
            "frames": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 8},
            "flip": {"type": "boolean"},
            "label": {"type": "string", "maxLength": 3},
        },
        "required": [],
    }
    read_arguments({"mode": "grey", "factor": 2, "frames": [1, 8], "flip": False}, schema, "arguments")
    for arguments, message in (
        ({"mode": "edge"}, 'mode is "edge"; expected one of "grey", "edges".*Did you mean "edges"'),
        ({"factor": 2.5}, r"factor is 2\.5; expected a finite number from 0\.5 to 2"),
        ({"frames": []}, "frames has 0 items; expected a list of 1 to 8 integers"),
        ({"frames": [3, 0]}, r"frames\[1\] is 0"),
        ({"flip": 1}, "flip is 1; expected true or false"),
        ({"label": "long"}, "label has 4 characters; expected at most 3"),
        ([], r"arguments is \[\]; expected an object"),
    ):
        with pytest.raises(OperationError, match=message):
            read_arguments(arguments, schema, "arguments")


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        (1.0, {"type": "integer"}, 1),
        (1e2, {"type": "integer"}, 100),
        (-0.0, {"type": "integer"}, 0),
        ([1.0, 3], {"type": "array", "items": {"type": "integer"}}, [1, 3]),
        ("2", {"type": "integer"}, 2),
        ("2.0", {"type": "integer"}, 2),
        ("1e0", {"type": "integer"}, 1),
        (" 0.5 ", {"type": "number"}, 0.5),
        ("[0.1, 1]", {"type": "array", "items": {"type": "number"}}, [0.1, 1]),
        ('["0.1", 1]', {"type": "array", "items": {"type": "number"}}, [0.1, 1]),
        ("[[0, 1], [2, 3]]", {"type": "array", "items": {"type": "array"}}, [[0, 1], [2, 3]]),
        ('{"a": "1"}', {"type": "object", "properties": {"a": {"type": "integer"}}}, {"a": 1}),
        ("true", {"type": "boolean"}, True),
        ("False", {"type": "boolean"}, False),
        # Text stays text, and a number a number.
        ("1", {"type": "string"}, "1"),
        ("[1]", {"type": "string"}, "[1]"),
        (1.0, {"type": "number"}, 1.0),
        (1, {"type": "number"}, 1),
    ],
)
def test_what_can_only_mean_one_thing_is_read(value, schema, expected):
    read = read_arguments({"x": value}, {"type": "object", "properties": {"x": schema}}, "arguments")["x"]
    assert (read, type(read)) == (expected, type(expected))


def test_every_operation_takes_integers_written_as_floats_and_lists_inside_a_string():
    assert zoom(bbox_2d="[0, 0, 0.5, 0.5]", target_image=1.0) == zoom(bbox_2d=[0, 0, 0.5, 0.5], target_image=1)
    for name, exact, odd in (
        ("rotate", {"target_image": 1, "degrees": 90}, {"target_image": "1", "degrees": "90"}),
        ("compare", {"first_image": 1, "second_image": 2}, {"first_image": 1.0, "second_image": 2e0}),
        ("grid", {"target_image": 1, "lines": 3}, {"target_image": 1, "lines": 3.0}),
        (
            "mark",
            {"target_image": 1, "boxes": [[0, 0, 0.5, 0.5]], "points": [[0.1, 0.1]]},
            {"target_image": 1.0, "boxes": "[[0, 0, 0.5, 0.5]]", "points": ["[0.1, 0.1]"]},
        ),
    ):
        operation = get_operation(name)
        assert operation.run(CONTEXT, odd) == operation.run(CONTEXT, exact)


@pytest.fixture
def own_registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_OPERATIONS", dict(registry._OPERATIONS))


@pytest.mark.usefixtures("own_registry")
def test_users_add_operations():
    @register_operation("upper_half", "Show the upper half of an image again.", {"target_image": TARGET_IMAGE})
    def upper_half(context, target_image):
        return context.view(target_image).only_region().part((0, 0, 1, 0.5), (1, 1))

    operation = get_operation("upper_half")
    assert operation.run(CONTEXT, {"target_image": 2}) == [Region.from_box(1, (100, 50, 200, 100))]
    assert operation.tool()["function"]["name"] == "upper_half"
    assert operation.parameters["required"] == ["target_image"]
    operation.tool()["function"]["parameters"]["properties"].clear()
    assert operation.tool()["function"]["parameters"]["properties"]  # every tool is a new dict
    with pytest.raises(ValueError, match=r'expected one of .*zoom_in.*Did you mean "zoom_in"'):
        get_operation("zoomin")


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("zoom_in", {}, "a second time"),
        ("x", {"a": {"type": "string", "pattern": "."}}, "uses pattern; expected only"),
        ("x", {"a": {"type": "str"}}, "has type 'str'"),
        ("x", {"b": {"type": "string"}}, "takes a; expected context and b"),
        ("x", {}, "takes a; expected context and nothing"),
    ],
)
def test_wrong_declarations_are_refused(name, parameters, message):
    with pytest.raises(ValueError, match=message):

        @register_operation(name, "", parameters)
        def function(context, a):
            return []


@pytest.mark.usefixtures("own_registry")
def test_arguments_with_a_default_are_optional():
    @register_operation("part", "", {"share": {"type": "number", "minimum": 0, "maximum": 1}})
    def part(context, share=0.5):
        return [context.views[0].region.part((0, 0, 1, share), (1, 1))] * 2

    assert get_operation("part").parameters["required"] == []
    assert get_operation("part").run(CONTEXT, {})[1].box == (0, 0, 400, 100)
    assert get_operation("part").run(CONTEXT, {"share": 1})[0].box == (0, 0, 400, 200)


SCALE = Scale(width=84, height=56, seconds=3.0, integers=False)


def bounded(kind, values):
    """Schemas of a number with none, one or both of its bounds."""
    return st.tuples(values, values).flatmap(
        lambda pair: st.fixed_dictionaries(
            {"type": st.just(kind)}, optional={"minimum": st.just(min(pair)), "maximum": st.just(max(pair))}
        )
    )


leaves = (
    bounded("integer", st.integers(-50, 50))
    | bounded("number", st.integers(-50, 50))
    | st.just({"type": "boolean"})
    | st.fixed_dictionaries({"type": st.just("string")}, optional={"maxLength": st.integers(0, 5)})
    | st.just({"type": "string", "enum": ["left", "right"]})
)


def nested(schemas):
    lengths = st.tuples(st.integers(0, 5), st.integers(0, 5))
    arrays = st.tuples(schemas, lengths).map(
        lambda pair: {"type": "array", "items": pair[0], "minItems": min(pair[1]), "maxItems": max(pair[1])}
    )
    objects = st.dictionaries(st.sampled_from("abc"), schemas).map(
        lambda parts: {"type": "object", "properties": parts, "required": sorted(parts)[:1]}
    )
    return arrays | objects


@given(st.recursive(leaves, nested, max_leaves=6), st.integers(0, 2**32))
def test_drawn_values_satisfy_their_schema(schema, seed):
    check_schema(schema, "drawn")
    read_arguments(draw(schema, SCALE, np.random.default_rng(seed)), schema, "value")


@pytest.mark.parametrize("name", operation_names())
def test_drawn_calls_satisfy_the_schema_of_their_operation(name):
    rng = np.random.default_rng(0)
    for _ in range(100):
        get_operation(name).read(draw_call(get_operation(name), SCALE, rng).arguments)


def test_many_boxes_lie_inside_the_image():
    rng = np.random.default_rng(0)
    boxes = [draw(get_operation("zoom_in").parameters, SCALE, rng)["bbox_2d"] for _ in range(100)]
    inside = [x1 < x2 <= 84 and y1 < y2 <= 56 for x1, y1, x2, y2 in boxes]
    assert 50 < sum(inside) < 100
    whole = Scale(width=1000, height=1000, seconds=1.0, integers=True)
    inside = draw({"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}, whole, rng)
    assert all(isinstance(number, int) for number in inside) or max(inside) > 1
