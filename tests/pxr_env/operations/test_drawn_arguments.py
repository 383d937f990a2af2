"""Drawn arguments satisfy their schema, and some of them mean something."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.operations import get_operation, operation_names
from pxr_env.operations.registry import Scale, check_schema, draw, draw_call, read_arguments

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
    operation = get_operation(name)
    rng = np.random.default_rng(0)
    for _ in range(100):
        call = draw_call(operation, SCALE, rng)
        read_arguments(call.arguments, operation.parameters, "arguments")


def test_many_boxes_lie_inside_the_image():
    rng = np.random.default_rng(0)
    boxes = [draw(get_operation("zoom_in").parameters, SCALE, rng)["bbox_2d"] for _ in range(100)]
    inside = [x1 < x2 <= 84 and y1 < y2 <= 56 for x1, y1, x2, y2 in boxes]
    assert 50 < sum(inside) < 100
    whole = Scale(width=1000, height=1000, seconds=1.0, integers=True)
    inside = draw({"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}, whole, rng)
    assert all(isinstance(number, int) for number in inside) or max(inside) > 1
