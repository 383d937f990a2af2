"""Coordinate frames: by hand, and there and back again."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pxr_env.coordinates import FRAMES, get_frame
from pxr_env.errors import OperationError
from pxr_env.types import View

WHOLE = View(index=1, source=1, box=(0.0, 0.0, 1000.0, 800.0), size=(504, 392))
PART = View(index=2, source=1, box=(200.0, 100.0, 400.0, 200.0), size=(112, 56))


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
def test_to_source_by_hand(frame, numbers, view, expected):
    assert get_frame(frame).to_source(numbers, view) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("frame", "numbers", "message"),
    [
        ("unit", [0, 0, 100, 100], "leaves image 1.*x2 <= 1 and.*unit"),
        ("unit", [-0.1, 0, 0.5, 0.5], "leaves"),
        ("unit", [0.0, 0.0, 0.5, 1.0001], "leaves"),
        ("permille", [0, 0, 1001, 5], "x2 <= 1000"),
        ("pixel", [0, 0, 505, 100], "x2 <= 504 and 0 <= y1 < y2 <= 392"),
        ("pixel", [0, 393, 100, 394], "leaves"),
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
        get_frame(frame).to_source(numbers, WHOLE)


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


def test_from_source_refuses_what_the_view_does_not_show():
    with pytest.raises(ValueError, match="overlaps"):
        get_frame("unit").from_source((0, 0, 200, 100), PART)


coordinate = st.floats(0, 1)


@given(st.sampled_from(sorted(FRAMES)), coordinate, coordinate, coordinate, coordinate, st.sampled_from((WHOLE, PART)))
def test_written_boxes_cover_what_they_describe(name, x1, x2, y1, y2, view):
    left, top, right, bottom = view.box
    x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    box = (
        left + x1 * (right - left),
        top + y1 * (bottom - top),
        left + x2 * (right - left),
        top + y2 * (bottom - top),
    )
    assume(box[2] - box[0] > 1 and box[3] - box[1] > 1)
    frame = get_frame(name)
    back = frame.to_source(frame.from_source(box, view), view)
    columns, rows = {"unit": (10_000, 10_000), "permille": (1000, 1000), "pixel": view.size}[name]
    step_x, step_y = (right - left) / columns, (bottom - top) / rows
    for got, wanted, step, sign in zip(back, box, (step_x, step_y) * 2, (1, 1, -1, -1), strict=True):
        assert -1e-3 <= (wanted - got) * sign <= step + 1e-3
    assert left <= back[0] < back[2] <= right
    assert top <= back[1] < back[3] <= bottom


def test_an_unknown_frame_is_named():
    with pytest.raises(ValueError, match=r'"units" came.*unit, pixel, permille.*Did you mean "unit"'):
        get_frame("units")
