"""Paint that the mean does not show, and the overviews that are such means."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pxr_env.synthetic.scenes import Budget, SampleIds, hide

colours = st.tuples(*[st.integers(0, 255)] * 3)


def block_sums(pixels, side):
    height, width, _ = pixels.shape
    return pixels.astype(int).reshape(height // side, side, width // side, side, 3).sum(axis=(1, 3))


@settings(max_examples=60, deadline=None)
@given(colours, colours, st.sampled_from([2, 4, 8]), st.data())
def test_every_block_keeps_its_mean(fill, paint, side, data):
    rows, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    elements = st.floats(0, 1) | st.sampled_from([0.0, 1.0])
    cover = data.draw(arrays.arrays(np.float64, (rows * side, columns * side), elements=elements))
    pixels = hide(fill, paint, cover, reduction=side)
    assert pixels.dtype == np.uint8
    assert np.all(block_sums(pixels, side) == np.array(fill) * side**2)


def test_paint_is_as_asked_where_there_is_room_and_its_glow_is_paid_evenly():
    cover = np.zeros((4, 4))
    cover[0, 0] = 1
    pixels = hide((150, 150, 150), (30, 150, 165), cover, reduction=4)
    assert pixels[0, 0].tolist() == [30, 150, 165]
    rest = pixels.reshape(16, 3)[1:]
    # 120 and -15 over 15 pixels.
    assert np.all(rest == [158, 150, 149])


def test_paint_gets_weaker_where_the_rest_of_the_block_cannot_pay():
    cover = np.zeros((2, 2))
    cover[:, 0] = 1
    # The glow has room for 55 only, so the paint goes down by 55 instead of 200.
    assert hide((200, 200, 200), (0, 0, 0), cover, reduction=2)[0].tolist() == [[145] * 3, [255] * 3]
    assert np.all(hide((200, 200, 200), (0, 0, 0), np.ones((2, 2)), reduction=2) == 200)


def test_cover_off_the_blocks_is_refused():
    with pytest.raises(ValueError, match="6x4 pixels, expected multiples of reduction=4"):
        hide((0, 0, 0), (9, 9, 9), np.zeros((4, 6)), reduction=4)


@pytest.mark.parametrize(("tokens", "multiple", "reduction"), [(1, 28, 4), (12, 28, 4), (13, 32, 8), (36, 28, 8)])
def test_exact_overviews_are_all_there_are(tokens, multiple, reduction):
    budget = Budget(min_pixels=0, max_pixels=tokens * multiple**2 + 5, size_multiple=multiple)
    expected = {
        (columns * multiple, rows * multiple)
        for columns in range(1, tokens + 1)
        for rows in range(1, tokens + 1)
        if columns * rows <= tokens
        and max(columns, rows) <= 8 * min(columns, rows)
        # smart_resize's rounding of the sides that have the area of the budget and the aspect ratio of the source.
        and math.floor(math.sqrt(budget.max_pixels * columns / rows) / multiple + 1e-9) == columns
        and math.floor(math.sqrt(budget.max_pixels * rows / columns) / multiple + 1e-9) == rows
    }
    assert set(budget.exact_overviews(reduction)) == expected


def test_sample_ids_travel():
    ids = pickle.loads(pickle.dumps(SampleIds("test", 10**9)))
    assert len(ids) == 10**9
    assert "test-7" in ids
