"""IoU by hand, and against counted pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.errors import DataError
from pxr_env.scoring import get_scorer
from pxr_env.types import Sample

iou = get_scorer("iou")


def score(answer, *answers):
    return iou(answer, Sample(sample_id="street", question="", sources=(), answers=answers))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("0, 0, 10, 10", 1.0),
        ("[0, 0, 10, 10]", 1.0),
        ("[0,0,10,10]", 1.0),
        ("(0.0 0.0 10. 1e1)", 1.0),
        ("0, 0, 10, 5", 0.5),
        ("5, 0, 15, 10", 50 / 150),
        ("5, 5, 15, 15", 25 / 175),
        ("-10, -10, 20, 20", 100 / 900),
        ("10, 0, 20, 10", 0.0),  # they touch
        ("30, 30, 40, 40", 0.0),
        ("10, 10, 0, 0", 0.0),
        ("0, 0, 0, 10", 0.0),
        ("0, 0, 10", 0.0),
        ("0, 0, 10, 10, 10", 0.0),
        ("[0, 0, 10, 10", 0.0),
        ("0,, 0, 10, 10", 0.0),
        ("x1, y1, x2, y2", 0.0),
        ("0, 0, NaN, 10", 0.0),
        ("0, 0, Infinity, 10", 0.0),
        ("0, 0, 1e999, 10", 0.0),
        ("0, 0, 10, \u0661\u0660", 0.0),  # Arabic digits
        ("about 0, 0, 10, 10", 0.0),
        ("", 0.0),
    ],
)
def test_values_by_hand(answer, expected):
    assert score(answer, "0, 0, 10, 10") == pytest.approx(expected, abs=1e-12)


NOTATIONS = [
    "[0;0;10;10]", "0 0 10 10", "{0, 0, 10, 10}", "[[0, 0, 10, 10]]", "(0,0),(10,10)", "[[0, 0], [10, 10]]",
    "((0,0),(10,10))", "(0, 0)-(10, 10)", "x1=0, y1=0, x2=10, y2=10", '{"x1": 0, "y1": 0, "x2": 10, "y2": 10}',
    "bbox_2d: [0, 0, 10, 10]", "<box>[[0, 0, 10, 10]]</box>", "<box> 0 0 10 10 </box>", "<bbox>0,0,10,10</bbox>",
    "<ref>a dog</ref><box>(0,0),(10,10)</box>", "<|box_start|>(0,0),(10,10)<|box_end|>",
    "<|det|>[[0, 0, 10, 10]]<|/det|>",
    "<|object_ref_start|>a dog<|object_ref_end|><|box_start|>(0,0),(10,10)<|box_end|>", '{"bbox_2d": [0, 0, 10, 10]}',
    '[{"bbox_2d": [0, 0, 10, 10], "label": "the dog\'s bowl"}]', "[{'bbox_2d': [0, 0, 10, 10], 'label': 'dog'}]",
    '```json\n[\n  {"bbox_2d": [0, 0, 10, 10]}\n]\n```', "[[0, 0, 10, 10], [0.0, 0, 10, 10]]",
    "The box is [0, 0, 10, 10].", "The answer is **[0, 0, 10, 10]**.", "$[0, 0, 10, 10]$", r"\text{[0, 0, 10, 10]}",
    r"\left[0, 0, 10, 10\right]", '"[0, 0, 10, 10]"', "`0, 0, 10, 10`",
]  # fmt: skip
SEVERAL = [
    "[[0, 0, 10, 10], [5, 5, 6, 6]]", "<box>0,0,10,10</box><box>1,1,2,2</box>", "[0, 0, 10, 10] or [1, 1, 2, 2]",
    '[{"bbox_2d": [0, 0, 10, 10]}, {"bbox_2d": [1, 1, 2, 2]}]', '{"bbox_2d": [0, 0, 10, 10], "bbox": [1, 2, 3, 4]}',
    "[0, 0, 10, 10, 0, 0, 10, 11]", "not [0, 0, 10, 10]", '{"box_2d": [0, 0, 10, 10]}', "[0, 0, 10, 10]]",
    "0, 0, 10, 10,", '{"bbox_2d": [0, 0, 10]}', '{"label": "dog"}', '[{"bbox_2d": [0, 0, 10, 10]}, {"label": "dog"}]',
    "[]", "{}", "null", "(0, 0, 10, 10]",
]  # fmt: skip


@pytest.mark.parametrize("answer", NOTATIONS)
def test_a_box_is_read_as_models_are_trained_to_write_it(answer):
    assert score(answer, "0, 0, 10, 10") == 1.0
    assert score("0, 0, 10, 5", answer) == 0.5  # and so is the box of the data


@pytest.mark.parametrize("answer", SEVERAL)
def test_several_boxes_never_count_as_the_first_and_half_of_one_is_none(answer):
    assert score(answer, "0, 0, 10, 10") == 0.0


def test_the_best_accepted_box_counts_and_half_of_it_is_correct():
    assert score("0, 0, 10, 5", "[20, 20, 30, 30]", "[0, 0, 10, 10]") == 0.5
    assert iou.is_correct(0.5)
    assert not iou.is_correct(0.49)


def test_tiny_and_huge_boxes_are_exact():
    assert score("0, 0, 1e-99, 1e-99", "0, 0, 1e-99, 1e-99") == 1.0
    assert score("0, 0, 1e99, 1e99", "0, 0, 1e99, 1e99") == 1.0


@pytest.mark.parametrize("accepted", ["red", "10, 10, 0, 0", ""])
def test_an_accepted_answer_that_is_no_box_is_a_mistake_of_the_data(accepted):
    with pytest.raises(DataError, match='sample "street", expected a box'):
        score("0, 0, 10, 10", accepted)


box = st.tuples(*[st.integers(0, 11)] * 2, *[st.integers(1, 12)] * 2).map(
    lambda b: (b[0], b[1], min(b[0] + b[2], 12), min(b[1] + b[3], 12))
)


@given(box, box)
def test_counted_pixels_agree(first, second):
    pixels = np.zeros((2, 12, 12), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(pixels, (first, second), strict=True):
        mask[y1:y2, x1:x2] = True
    expected = (pixels[0] & pixels[1]).sum() / (pixels[0] | pixels[1]).sum()
    assert score(str(list(first)), str(list(second))) == pytest.approx(expected, abs=1e-12)
