"""Rectangles of a source: by hand, and what must hold for all of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.views import Quad, overlap

BOX = Quad.from_box((10, 20, 50, 100))

numbers = st.floats(-500, 500)
sides = st.floats(1, 500)
turns = st.lists(
    st.sampled_from(("left-right", "top-bottom")) | st.sampled_from((90, 180, 270, -90)) | st.floats(-360, 360),
    max_size=5,
)


@st.composite
def quads(draw, steps=turns):
    x, y = draw(numbers), draw(numbers)
    quad = Quad.from_box((x, y, x + draw(sides), y + draw(sides)))
    for step in draw(steps):
        quad = quad.mirrored(horizontally=step == "left-right") if isinstance(step, str) else quad.rotated(step)
    return quad


def test_a_quarter_turn_by_hand():
    # Turned clockwise, what was at the lower left is at the upper left.
    turned = BOX.rotated(90)
    assert turned == Quad(top_left=(10, 100), top_right=(10, 20), bottom_left=(50, 100))
    assert (turned.width, turned.height) == (80, 40)
    assert BOX.rotated(-90) == BOX.rotated(270) == Quad(top_left=(50, 20), top_right=(50, 100), bottom_left=(10, 20))
    assert BOX.mirrored(horizontally=True) == Quad(top_left=(50, 20), top_right=(10, 20), bottom_left=(50, 100))
    assert BOX.mirrored(horizontally=False) == Quad(top_left=(10, 100), top_right=(50, 100), bottom_left=(10, 20))


def test_an_angle_by_hand():
    square = Quad.from_box((0, 0, 2, 2)).rotated(45)
    # The shown square has the source's square standing on a corner in it: sides of 2 * sqrt(2) around (1, 1).
    assert square.width == pytest.approx(2 * math.sqrt(2))
    assert square.top_left == pytest.approx((-1, 1))
    assert square.top_right == pytest.approx((1, -1))
    assert square.bottom_left == pytest.approx((1, 3))
    assert square.is_tilted
    # The middle of its upper side shows the upper left corner of the source's square, which a clockwise turn brings up.
    assert square.at((0.5, 0.0), (1, 1)) == pytest.approx((0, 0))


@given(quads(), st.floats(0, 1), st.floats(0, 1))
def test_points_go_there_and_back(quad, x, y):
    back = quad.locate(quad.at((x * 300, y * 70), (300, 70)), (300, 70))
    assert back == pytest.approx((x * 300, y * 70), abs=1e-5)


@given(quads())
def test_corners_are_exact_and_in_order(quad):
    assert quad.at((0, 0), (7, 3)) == quad.top_left
    if not quad.is_tilted:
        assert quad.at((7, 0), (7, 3)) == quad.top_right
        assert quad.at((0, 3), (7, 3)) == quad.bottom_left
        assert set(quad.corners) == {(x, y) for x in quad.box[::2] for y in quad.box[1::2]}


@given(quads(st.lists(st.sampled_from(("left-right", 90, 180, 270)), max_size=6)))
def test_right_angles_lose_nothing(quad):
    assert not quad.is_tilted
    assert quad.rotated(90).rotated(90).rotated(90).rotated(90) == quad
    assert quad.rotated(180) == quad.mirrored(horizontally=True).mirrored(horizontally=False)
    assert quad.mirrored(horizontally=True).mirrored(horizontally=True) == quad
    assert quad.rotated(90).box == quad.box
    assert quad.part((0, 0, 5, 9), (5, 9)) == quad


@given(quads(), st.floats(-360, 360))
def test_turning_keeps_the_centre_and_shows_everything(quad, degrees):
    turned = quad.rotated(degrees)
    assert turned.at((0.5, 0.5), (1, 1)) == pytest.approx(quad.at((0.5, 0.5), (1, 1)), abs=1e-6)
    for corner in quad.corners:
        x, y = turned.locate(corner, (1, 1))
        assert -1e-6 <= x <= 1 + 1e-6
        assert -1e-6 <= y <= 1 + 1e-6
    # And nothing more: each side of the result is touched.
    xs, ys = zip(*(turned.locate(corner, (1, 1)) for corner in quad.corners), strict=True)
    assert (min(xs), max(xs), min(ys), max(ys)) == pytest.approx((0, 1, 0, 1), abs=1e-6)


@given(quads(), st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_a_part_of_a_part_is_a_part(quad, fractions):
    def box(values):
        x, y = sorted(values[:2]), sorted(values[2:])
        return (x[0], y[0], x[1], y[1])

    outer, inner = box(fractions[:4]), box(fractions[4:])
    width, height = outer[2] - outer[0], outer[3] - outer[1]
    direct = (
        outer[0] + inner[0] * width,
        outer[1] + inner[1] * height,
        outer[0] + inner[2] * width,
        outer[1] + inner[3] * height,
    )
    nested = quad.part(outer, (1, 1)).part(inner, (1, 1))
    for one, other in zip(nested.corners, quad.part(direct, (1, 1)).corners, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_overlaps():
    assert overlap((0, 0, 10, 10), (5, -5, 20, 5)) == (5, 0, 10, 5)
    assert overlap((0, 0, 10, 10), (10, 0, 20, 10)) is None
