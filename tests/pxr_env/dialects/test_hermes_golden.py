"""Hermes with zoom_in, byte for byte: published numbers and a tokenizer were made with exactly these texts."""

import pytest

from pxr_env.coordinates import get_frame
from pxr_env.dialects import get_dialect
from pxr_env.operations import get_operation
from pxr_env.types import OperationCall
from pxr_env.views import Region, View

HERMES = get_dialect("hermes", get_frame("unit"))
BARE = "You answer questions about images. Think first, then write one final answer as \\boxed{answer}."
PROMPT = (
    "%s\n\n"
    "You may call operations to see more; the resulting images come with the next message.\n"
    "<tools>\n"
    '{"type": "function", "function": {"name": "zoom_in", "description": "Show the part of an image inside a box '
    'again, at higher resolution.", "parameters": {"type": "object", "properties": {"bbox_2d": {"type": "array", '
    '"items": {"type": "number"}, "minItems": 4, "maxItems": 4, "description": "The box [x1, y1, x2, y2]: x1, y1 the '
    'upper left corner, x2, y2 the lower right one."}, "target_image": {"type": "integer", "description": "The number '
    'of the image the box refers to; images are numbered from 1 in the order shown.", "minimum": 1}}, "required": '
    '["bbox_2d", "target_image"]}}}\n'
    "</tools>\n"
    'A call: <tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>\n'
    "%s Images are numbered from 1 in the order shown.\n"
    "At most 2 operations in 3 messages, and no call in the message with the answer."
)


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (
            "unit",
            "Boxes are [x1, y1, x2, y2] in fractions of the target image's width and height, from 0 to 1.",
        ),
        ("pixel", "Boxes are [x1, y1, x2, y2] in pixels of the target image as shown."),
        ("permille", "Boxes are [x1, y1, x2, y2] in integers from 0 to 1000, relative to the target image."),
    ],
)
def test_the_system_prompt(frame, sentence):
    dialect = get_dialect("hermes", get_frame(frame))
    zoom = [get_operation("zoom_in")]
    assert dialect.system_prompt(zoom, max_turns=3, max_operations=2) == PROMPT % (BARE, sentence)
    assert dialect.system_prompt([], max_turns=3, max_operations=2) == BARE


def test_calls_answers_results_and_errors():
    call = OperationCall(name="zoom_in", arguments={"bbox_2d": [1 / 3, 0.0, 0.5, 1], "target_image": 2})
    assert HERMES.render_call(call) == (
        '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [0.3333, 0.0, 0.5, 1], "target_image": 2}}'
        "\n</tool_call>"
    )
    assert HERMES.call_opening("zoom_in") == '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": ['
    assert HERMES.render_answer("B") == "\\boxed{B}"
    view = View.of(2, Region.from_box(1, (0, 0, 10, 10)), (84, 84))
    assert HERMES.render_views([view], call) == HERMES.render_views([view]) == "Image 2 (84x84)."
    assert HERMES.render_error("it is wrong.") == "Error: it is wrong."
    assert HERMES.render_error("it is wrong.", call_number=2) == "Error in call 2: it is wrong."
    assert HERMES.reminder == '<tool_call>{"name": ..., "arguments": {...}}</tool_call> or \\boxed{answer}'


@pytest.mark.parametrize(
    ("operation", "opening"),
    [
        ("seek", '{"name": "seek", "arguments": {"start": '),
        ("select_frames", '{"name": "select_frames", "arguments": {"target_frames": ['),
        ("flip", '{"name": "flip", "arguments": {"target_image": '),
    ],
)
def test_openings_of_other_operations(operation, opening):
    assert HERMES.call_opening(operation) == f"<tool_call>\n{opening}"


def test_points_are_explained_where_an_operation_takes_them():
    sentence = "Points [x, y] and lines use the same numbers."
    assert sentence in HERMES.system_prompt([get_operation("mark")], max_turns=3, max_operations=2)
