"""Coordinate frames: by hand, and there and back again."""

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pxr_env.coordinates import FRAMES, get_frame
from pxr_env.errors import OperationError
from pxr_env.views import Comparison, Quad, Region, View

WHOLE = View.of(1, Region.from_box(1, (0.0, 0.0, 1000.0, 800.0)), (504, 392))
PART = View.of(2, Region.from_box(1, (200.0, 100.0, 400.0, 200.0)), (112, 56))


@pytest.mark.parametrize(
    ("frame", "numbers", "view", "expected"),
    [
        # The box that others take for pixels although it is normalized.
        ("unit", [0.5, 0.5, 1, 1], WHOLE, (500, 400, 1000, 800)),
        ("unit", [0, 0, 1, 1], WHOLE, (0, 0, 1000, 800)),
        ("permille", [500, 500, 1000, 1000], WHOLE, (500, 400, 1000, 800)),
        # 252 of 504 shown pixels is the middle, whatever the source's resolution.
        ("pixel", [252, 98, 504, 392], WHOLE, (500, 200, 1000, 800)),
        ("pixel", [0.5, 0.0, 504.0, 392], WHOLE, (1000 * 0.5 / 504, 0, 1000, 800)),
        # A box in a part refers to the part, and reads the source.
        ("unit", [0.25, 0.5, 0.75, 1.0], PART, (250, 150, 350, 200)),
        ("pixel", [28, 14, 56, 28], PART, (250, 125, 300, 150)),
        ("permille", [100, 0, 200, 500], PART, (220, 100, 240, 150)),
    ],
)
def test_regions_by_hand(frame, numbers, view, expected):
    assert get_frame(frame).region(numbers, view).box == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("frame", "numbers", "message"),
    [
        ("unit", [0, 0, 100, 100], "leaves image 1.*x2 <= 1 and.*unit"),
        ("unit", [-0.1, 0, 0.5, 0.5], "leaves"),
        ("unit", [0.0, 0.0, 0.5, 1.0101], "leaves"),
        ("permille", [0, 0, 1011, 5], "x2 <= 1000"),
        ("pixel", [0, 0, 510, 100], "x2 <= 504 and 0 <= y1 < y2 <= 392"),
        ("pixel", [0, -4, 100, 300], "leaves"),
        ("pixel", [0, 392, 100, 394], "empty, y1 is not less than y2"),
        ("permille", [1001, 0, 1010, 5], "empty, x1 is not less than x2"),
        ("unit", [0.5, 0.1, 0.5, 0.9], "empty"),
        ("unit", [0.6, 0.1, 0.5, 0.9], "empty"),
        ("unit", [0.1, 0.9, 0.5, 0.2], "empty"),
        ("unit", [0.1, 0.9, 0.5], "3 numbers"),
        ("unit", [0.1, 0.2, 0.5, math.nan], "not finite"),
        ("unit", [0.1, 0.2, math.inf, 0.3], "not finite"),
        ("unit", [0.1, 0.1, 0.1009, 0.9], "0.90x640.00 pixels.*at least 1x1"),
    ],
)
def test_wrong_boxes_are_explained(frame, numbers, message):
    with pytest.raises(OperationError, match=message):
        get_frame(frame).region(numbers, WHOLE)


@pytest.mark.parametrize(
    ("frame", "numbers", "view", "expected"),
    [
        ("unit", [-0.01, 0.5, 0.5, 1.01], WHOLE, (0, 400, 500, 800)),
        ("permille", [500, -10, 1010, 1000], WHOLE, (500, 0, 1000, 800)),
        # One percent of 504 and of 392 shown pixels is 5.04 and 3.92.
        ("pixel", [-5, 196, 509, 395.9], WHOLE, (0, 400, 1000, 800)),
        ("pixel", [-1.12, -0.56, 113.12, 56.56], PART, (200, 100, 400, 200)),
    ],
)
def test_a_box_that_overshoots_by_a_hundredth_is_cut_off_and_noted(frame, numbers, view, expected):
    clipped = []
    frame = replace(get_frame(frame), clipped=clipped)
    assert frame.region(numbers, view).box == pytest.approx(expected, abs=1e-9)
    assert clipped == [tuple(numbers)]
    whole = [0, 0, *frame.extent(view.size)]
    assert frame.region(whole, view).box == view.box
    assert len(clipped) == 1


def test_a_point_that_overshoots_by_a_hundredth_is_cut_off_and_noted():
    frame = replace(get_frame("permille"), clipped=[])
    assert frame.point([1010, -10], PART) == (400, 100)
    assert frame.point([1000, 0], PART) == (400, 100)
    assert frame.clipped == [(1010, -10)]
    with pytest.raises(OperationError, match=r"leaves image 2; expected .* 0 <= x <= 1000"):
        frame.point([1011, 0], PART)


@pytest.mark.parametrize(
    ("frame", "box", "view", "expected"),
    [
        ("unit", (500.0, 400.0, 1000.0, 800.0), WHOLE, [0.5, 0.5, 1.0, 1.0]),
        ("unit", (1000 / 3, 0.0, 2000 / 3, 800.0), WHOLE, [0.3333, 0.0, 0.6667, 1.0]),  # outward
        ("permille", (1.2, 0.8, 3.4, 800.0), WHOLE, [1, 1, 4, 1000]),
        ("pixel", (250.0, 150.0, 350.0, 250.0), PART, [28, 28, 84, 56]),  # what the part shows of it
    ],
)
def test_from_source_by_hand(frame, box, view, expected):
    numbers = get_frame(frame).from_source(box, view)
    assert numbers == expected
    assert all(isinstance(number, float if frame == "unit" else int) for number in numbers)


coordinate = st.floats(0, 1)


@given(st.sampled_from(sorted(FRAMES)), coordinate, coordinate, coordinate, coordinate, st.sampled_from((WHOLE, PART)))
def test_written_boxes_cover_what_they_describe(name, x1, x2, y1, y2, view):
    left, top, right, bottom = view.box
    x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    (x1, x2), (y1, y2) = (left + x * (right - left) for x in (x1, x2)), (top + y * (bottom - top) for y in (y1, y2))
    box = (x1, y1, x2, y2)
    assume(box[2] - box[0] > 1 and box[3] - box[1] > 1)
    frame = get_frame(name)
    back = frame.region(frame.from_source(box, view), view).box
    columns, rows = {"unit": (10_000, 10_000), "permille": (1000, 1000), "pixel": view.size}[name]
    step_x, step_y = (right - left) / columns, (bottom - top) / rows
    for got, wanted, step, sign in zip(back, box, (step_x, step_y) * 2, (1, 1, -1, -1), strict=True):
        assert -1e-3 <= (wanted - got) * sign <= step + 1e-3
    assert left <= back[0] < back[2] <= right
    assert top <= back[1] < back[3] <= bottom


def test_what_is_not_shown_and_what_is_no_frame_is_named():
    with pytest.raises(ValueError, match="overlaps"):
        get_frame("unit").from_source((0, 0, 200, 100), PART)
    with pytest.raises(ValueError, match=r'got coordinates="units";.*unit, pixel, permille.*Did you mean "unit"'):
        get_frame("units")


#: The right half of PART turned clockwise: its left column became its upper row.
TURNED = View.of(3, Region(source=1, quad=PART.region.quad.rotated(90)), (56, 112))


@pytest.mark.parametrize(
    ("numbers", "box"),
    [
        ([0, 0, 1, 1], (200, 100, 400, 200)),
        # The upper half of the turned picture was its left half, and its left half the lower one.
        ([0, 0, 1, 0.5], (200, 100, 300, 200)),
        ([0, 0, 0.5, 1], (200, 150, 400, 200)),
        ([0.25, 0.1, 0.5, 0.2], (220, 150, 240, 175)),
    ],
)
def test_boxes_in_a_turned_view(numbers, box):
    region = get_frame("unit").region(numbers, TURNED)
    assert region.box == pytest.approx(box, abs=1e-9)
    assert get_frame("unit").from_source(region.box, TURNED) == pytest.approx(numbers)
    # What was turned stays turned.
    assert region.quad.top_left[0] == pytest.approx(region.box[0])
    assert region.quad.top_left[1] == pytest.approx(region.box[3])


def test_a_tilted_view_covers_what_it_shows_of_a_box():
    tilted = View.of(1, Region(source=1, quad=Quad.from_box((0, 0, 100, 100)).rotated(45)), (142, 142))
    # Rotating by 45 degrees moves a point (x, y) beside the centre to (x - y, x + y) / sqrt(2); the centre stays.
    numbers = get_frame("unit").from_source((50.0, 40.0, 60.0, 50.0), tilted)
    # The shown side is 100 * sqrt(2): 10 / sqrt(2) of it is 0.05, and 20 / sqrt(2) is 0.1.
    assert numbers == pytest.approx([0.5, 0.45, 0.6, 0.55], abs=1.1e-4)


PAIR = View.of(4, Comparison(left=WHOLE.region, right=Region.from_box(2, (0, 0, 400, 400))), (454, 200))


def test_boxes_in_a_comparison_belong_to_the_picture_they_lie_in():
    # 1.25 : 1 of 454 pixels: the line of 4 pixels is centred at round(454 * 1.25 / 2.25) = 252.
    assert [panel.place for panel in PAIR.panels] == [(0, 0, 250, 200), (254, 0, 454, 200)]
    frame = get_frame("pixel")
    left, right = frame.region([0, 0, 125, 100], PAIR), frame.region([354, 50, 454, 200], PAIR)
    assert (left.source, left.box) == (1, (0, 0, 500, 400))
    assert (right.source, right.box) == (2, (200, 100, 400, 400))
    assert frame.from_source((200, 100, 400, 400), PAIR, source=2) == [354, 50, 454, 200]
    assert frame.from_source((0, 0, 500, 400), PAIR) == [0, 0, 125, 100]
    # What reaches over the line is cut off at it.
    assert frame.region([200, 0, 260, 200], PAIR).box == (800, 0, 1000, 800)
    with pytest.raises(OperationError, match="lies across both pictures of image 4"):
        frame.region([50, 0, 454, 200], PAIR)


def test_points_by_hand():
    assert get_frame("unit").point([0.5, 0.25], PART) == (300, 125)
    assert get_frame("pixel").point([112, 0], PART) == (400, 100)
    assert get_frame("permille").point([0, 1000], TURNED) == pytest.approx((400, 200))
    for numbers, message in (([1.1, 0], "leaves image 2"), ([0, math.nan], "not finite"), ([0, 0, 1], "3 numbers")):
        with pytest.raises(OperationError, match=message):
            get_frame("unit").point(numbers, PART)
    with pytest.raises(OperationError, match="two images side by side"):
        get_frame("unit").point([0.1, 0.1], PAIR)
