"""Fields made from JSON schemas, and what is read from what was typed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.coordinates import FRAMES
from pxr_env.operations import get_operation, operation_names
from pxr_env.play.seat import KINDS, Field, explain, fields_of, kind_of, read_arguments, read_call, usage

NUMBER = {"type": "number"}
NUMBERS = {"type": "array", "items": NUMBER}
FOUR = {**NUMBERS, "minItems": 4, "maxItems": 4}
TWO = {**NUMBERS, "minItems": 2, "maxItems": 2}


@pytest.mark.parametrize(
    ("name", "schema", "kind"),
    [
        ("bbox_2d", FOUR, "box"),
        ("region", FOUR, "box"),
        ("line", FOUR, "line"),
        ("outline_box", FOUR, "box"),
        ("at", TWO, "point"),
        ("boxes", {"type": "array", "items": FOUR}, "boxes"),
        ("lines", {"type": "array", "items": FOUR}, "lines"),
        ("lines", {"type": "integer"}, "integer"),
        ("points", {"type": "array", "items": TWO}, "points"),
        ("target_image", {"type": "integer"}, "image"),
        ("target_video", {"type": "integer"}, "integer"),
        ("target_frames", {"type": "array", "items": {"type": "integer"}}, "images"),
        ("weights", NUMBERS, "json"),
        ("grid", {"type": "array", "items": {"type": "array", "items": NUMBER}}, "json"),
        ("labels", {"type": "array", "items": {"type": "string"}}, "texts"),
        ("direction", {"type": "string", "enum": ["a", "b"]}, "choice"),
        ("text", {"type": "string"}, "text"),
        ("strong", {"type": "boolean"}, "flag"),
        ("options", {"type": "object"}, "json"),
    ],
)
def test_the_kind_follows_from_the_schema_and_the_name(name, schema, kind):
    assert kind_of(name, schema) == kind


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("box", "0.1,0.2,0.4,0.5", [0.1, 0.2, 0.4, 0.5]),
        ("box", " 1 2  3, 4 ", [1, 2, 3, 4]),
        ("box", "[1, 2.5, 3, 4]", [1, 2.5, 3, 4]),
        ("point", ".5,-1e-2", [0.5, -0.01]),
        ("boxes", "0,0,1,1; 2,2,3,3;", [[0, 0, 1, 1], [2, 2, 3, 3]]),
        ("points", "1,2\n3,4", [[1, 2], [3, 4]]),
        ("lines", "[[0, 0, 1, 1]]", [[0, 0, 1, 1]]),
        ("image", "3", 3),
        ("images", "1, 3 5", [1, 3, 5]),
        ("integer", "-2", -2),
        ("number", "2", 2),
        ("number", "2.50", 2.5),
        ("flag", "Yes", True),
        ("flag", "false", False),
        ("text", "[as it is]", "[as it is]"),
        ("texts", "a door, open; a window", ["a door, open", "a window"]),
        ("texts", '["a;b"]', ["a;b"]),
        ("json", '{"a": [1]}', {"a": [1]}),
    ],
)
def test_what_was_typed_is_read(kind, text, value):
    read = Field(name="x", kind=kind, schema={}, required=True).read(text)
    assert read == value
    assert json.dumps(read) == json.dumps(value), "1 and 1.0 are written differently"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("box", "a,b,c,d"), ("box", "nan,0,1,1"), ("box", "[0, 0, Infinity, 1]"), ("box", "[0, 0"), ("image", "1.5")),
        *(("integer", "9" * 5000), ("number", "1e999"), ("images", "1,,2"), ("flag", "maybe"), ("json", "[" * 100_000)),
    ],
)
def test_what_is_no_such_value_is_refused_with_what_was_expected(kind, text):
    with pytest.raises(ValueError, match=r"x is .*; expected ") as error:
        Field(name="x", kind=kind, schema={}, required=True).read(text)
    assert len(str(error.value)) < 200


def test_options_of_a_choice_keep_their_type():
    field = Field(name="turns", kind="choice", schema={"enum": [1, 2]}, required=True)
    assert field.read("2") == 2
    # The environment says what is wrong with an unknown one, as it would to a model.
    assert field.read("3") == "3"


@given(st.sampled_from(sorted(KINDS)), st.text() | st.text(alphabet="[]{}0123456789.,;-+eE \n\"'"))
def test_any_text_is_read_or_refused(kind, text):
    field = Field(name="x", kind=kind, schema={"enum": ["a"]} if kind == "choice" else {}, required=False)
    try:
        value = field.read(text)
    except ValueError:
        return
    json.dumps(value, allow_nan=False)


@pytest.mark.parametrize("name", operation_names())
def test_every_operation_has_help(name):
    operation = get_operation(name)
    text = explain(operation, FRAMES["permille"])
    assert text.startswith(f"{usage(operation)}\n  {operation.description}\n")
    for field in fields_of(operation):
        assert f"  {field.name} " in text
        assert field.expects in text


def test_the_usage_has_what_is_optional_in_brackets():
    assert usage(get_operation("seek")) == "seek start end [target_video]"


ZOOM = {"target_image": 1, "bbox_2d": [0.1, 0.2, 0.4, 0.5]}
MARK = {"target_image": 1, "points": [[0, 0], [1, 1]], "labels": ["a b", "c"]}


@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        *(("zoom_in", "target_image=1 bbox_2d=0.1,0.2,0.4,0.5", ZOOM), ("zoom_in", "0.1,0.2,0.4,0.5 1", ZOOM)),
        *(("zoom_in", "0.1 0.2 0.4 0.5 1", ZOOM), ("zoom_in", "'[0.1, 0.2, 0.4, 0.5]' 1", ZOOM)),
        ("zoom_in", "target_image=2 0.1 0.2 0.4 0.5", {**ZOOM, "target_image": 2}),
        ("select_frames", "1 3 5", {"target_frames": [1, 3, 5]}),
        ("seek", "1.5 3", {"start": 1.5, "end": 3}),
        ("flip", "1 vertical", {"target_image": 1, "direction": "vertical"}),
        ("mark", '1 points="0,0; 1,1" labels="a b;c"', MARK),
        ("enhance", "1 sharpness=2", {"target_image": 1, "sharpness": 2}),
    ],
)
def test_commands_become_arguments(name, text, arguments):
    assert read_call(get_operation(name), text) == arguments


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("zoom_in", "1", "bbox_2d is|lacks target_image"),
        ("zoom_in", "target_image=1", "lacks bbox_2d; expected x1,y1,x2,y2"),
        ("zoom_in", "0,0,1,1 1 7", '"7" is left over; expected zoom_in bbox_2d target_image'),
        ("zoom_in", "0,0,1,1 target_imag=1", 'Did you mean "target_image"'),
        ("zoom_in", "target_image=1 target_image=2", "got target_image twice"),
        ("mark", 'labels="a', "not closed"),
        ("flip", "one vertical", 'target_image is "one"; expected the number of an image'),
    ],
)
def test_commands_that_make_no_sense_are_refused(name, text, message):
    with pytest.raises(ValueError, match=message):
        read_call(get_operation(name), text)


def test_blank_texts_count_as_left_out():
    texts = {"target_image": "1", "contrast": "2", "brightness": " ", "sharpness": ""}
    assert read_arguments(get_operation("enhance"), texts) == {"target_image": 1, "contrast": 2}
