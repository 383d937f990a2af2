r"""Turns as models write them, well and badly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.coordinates import get_frame
from pxr_env.dialects import get_dialect
from pxr_env.operations import get_operation
from pxr_env.types import Mistake, OperationCall, Turn
from pxr_env.views import Region, View

HERMES = get_dialect("hermes", get_frame("unit"))
CALL = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 1, 1], "target_image": 1}}\n</tool_call>'
ZOOM = OperationCall(name="zoom_in", arguments={"bbox_2d": [0, 0, 1, 1], "target_image": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CALL.replace("\n", ""), Turn(calls=(ZOOM,))),
        (CALL.replace("\n", " \r\n\t"), Turn(calls=(ZOOM,))),
        (r"It is \boxed{B}.", Turn(answers=("B",))),
        (r"\boxed {B} and more prose", Turn(answers=("B",))),
        (r"\boxed{\frac{1}{2}}", Turn(answers=(r"\frac{1}{2}",))),
        (r"\boxed{\{1\}, \}}", Turn(answers=(r"\{1\}, \}",))),
        ("<answer> 左上 </answer>", Turn(answers=("左上",))),
        ("<answer>a\nb</answer>", Turn(answers=("a\nb",))),
        (r"<answer>\boxed{7}</answer>", Turn(answers=("7",))),
        (r"\boxed{7}, that is <answer>7</answer>", Turn(answers=("7",))),
        (r"\boxed{7} \boxed{8}", Turn(answers=("7", "8"))),
        (rf"<think>\boxed{{7}} {CALL}</think>\boxed{{8}}", Turn(answers=("8",))),
        (r"maybe \boxed{7}</think>\boxed{8}", Turn(answers=("8",))),  # the template opened <think>
        (r"<think>a</think>\boxed{8}<think>\boxed{9}</think>", Turn(answers=("8",))),
        (r"It is \fbox{B}.", Turn(answers=("B",))),
        (r"\framebox {B}", Turn(answers=("B",))),
        (r"<answer>The answer is \boxed{B}.</answer>", Turn(answers=("B",))),
        (r"<answer>$\boxed{B}$</answer>", Turn(answers=("B",))),
        (r"<answer>\boxed{A} or \boxed{B}</answer>", Turn(answers=("A", "B"))),
        (r"<answer>The answer is B.</answer> \boxed{\text{B}}", Turn(answers=("The answer is B.",))),
        (r"\boxed{\textbf{(B)}} <answer>B</answer>", Turn(answers=(r"\textbf{(B)}",))),
        (r"\boxed{CO} \boxed{Co}", Turn(answers=("CO", "Co"))),
        (r"\boxed{10^2} \boxed{102}", Turn(answers=("10^2", "102"))),
        (r"I use \boxed{}: \boxed{C}", Turn(answers=("C",))),
        (r"As \boxed{answer}: \boxed{C}", Turn(answers=("C",))),
        (r"As \boxed{\text{Your answer here}} or \boxed{...}: \boxed{C}", Turn(answers=("C",))),
        ("As <answer></answer>: <answer>C</answer>", Turn(answers=("C",))),
        ("As <answer>answer</answer>: <answer>C</answer>", Turn(answers=("C",))),
        (r"\boxed{answer}", Turn(answers=("answer",))),
        (r"\boxed{?}", Turn(answers=("?",))),
        (r"\boxed{+} \boxed{-}", Turn(answers=("+", "-"))),
        (rf"Then I write \boxed{{}}. {CALL}", Turn(calls=(ZOOM,))),
        (rf"Then I write \boxed{{answer}}. {CALL}", Turn(calls=(ZOOM,))),
        ("", Turn()),
        ("I do not know. {} <tool> boxed{3}", Turn()),
    ],
)
def test_parse_by_hand(text, expected):
    assert HERMES.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CALL[:-14], "<tool_call> is not closed; expected </tool_call>"),
        ('<tool_call>{"name": "zoom_in"', "not closed"),
        ("</tool_call>", "closes nothing"),
        (CALL[11:], "closes nothing"),
        (r"\boxed{3", "not closed; expected a closing brace"),
        (r"\boxed{{3}", "not closed"),
        (r"\boxed{}", "the answer is empty"),
    ],
)
def test_mistakes_are_explained(text, message):
    turn = HERMES.parse(text)
    assert turn.calls == turn.answers == ()
    assert len(turn.mistakes) == 1
    assert message in turn.mistakes[0].message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "not valid JSON"),
        ("zoom_in(0, 0, 1, 1)", "not valid JSON"),
        ("{'name': 'zoom_in', 'arguments': {}}", "not valid JSON"),
        ('{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 1, 1}}', "not valid JSON"),
        ('{"name": "zoom_in", "arguments": {}} and more', 'Extra data near "'),
        ('{"name": "zoom_in", "arguments": {"bbox_2d": [NaN, 0, 1, 1]}}', "NaN is not a number"),
        ('{"name": "zoom_in", "arguments": {"bbox_2d": [-Infinity, 0, 1, 1]}}', "-Infinity is not a number"),
        ('{"name": "zoom_in", "arguments": {"n": ' + "9" * 5000 + "}}", "not valid JSON"),
        ('{"name": "zoom_in", "name": "x", "arguments": {}}', 'the key "name" came twice'),
        ('{"name": "zoom_in", "arguments": {"a": 1, "b": 2, "a": 1}}', 'the key "a" came twice'),
        ('{"name": 3, "arguments": {}}', "the name of the call is 3"),
        ('{"arguments": {}}', "the call has no name"),
        ('{"name": "zoom_in"}', "the call has no arguments"),
        ('{"name": "zoom_in", "arguments": "{"}', 'the arguments of the call are "{"'),
        ('{"name": "zoom_in", "arguments": "[]"}', "the arguments of the call are []"),
        ('{"name": "zoom_in", "arguments": null}', "the arguments of the call are null"),
        ('{"name": "zoom_in", "arguments": {}, "argument": 1}', 'the call has "argument".*Did you mean "arguments"'),
        ('[{"name": "zoom_in", "arguments": {}}, 1]', "the call is [{"),
        ("[]", "the call is []"),
        ('"zoom_in"', 'the call is "zoom_in"'),
        ('{"name": "zoom_in", "arguments": {}, "parameters": {}}', 'the call has "parameters"'),
        ('{"name": "zoom_in", "arguments": {"a": 1,, "b": 2}}', "not valid JSON"),
        ("<function=zoom_in>\n</tool>", '"</tool>" came; expected <parameter=KEY>VALUE</parameter> or </function>'),
        ("<function=f><parameter=a>1</parameter><parameter=a>1</parameter></function>", 'argument "a" came twice'),
        ("f<arg_key>a</arg_key>1", '"<arg_key>a</arg_key>1" came; expected <arg_key>KEY</arg_key><arg_value>VALUE'),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 300 + "]" * 300, "the call is [[["),
    ],
)
def test_calls_that_cannot_be_read_are_explained(body, message):
    turn = HERMES.parse(f"<tool_call>{body}</tool_call>")
    assert [type(call) for call in turn.calls] == [Mistake]
    text = turn.calls[0].message
    first, _, second = message.partition(".*")
    assert first in text
    assert second in text
    assert "expected" in text
    assert len(text) < 300


def test_calls_beside_broken_ones_are_kept_in_order():
    turn = HERMES.parse(f"{CALL}<tool_call>nonsense</tool_call>{CALL}<tool_call>{{")
    assert [type(call) for call in turn.calls] == [OperationCall, Mistake, OperationCall]
    assert len(turn.mistakes) == 1


def test_lone_surrogates_become_text():
    turn = HERMES.parse("<answer>a\ud800b</answer>")
    assert turn.answers == ("a?b",)


finite = st.floats(-1e6, 1e6).map(lambda number: round(number, 4))
scalars = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | finite | st.text(max_size=30)
tricky = st.sampled_from(("</tool_call>", "<think>", "</think>", "\\boxed{", "<answer>", "}\n", "<\\/", "\u2028"))
strings = st.lists(st.text(max_size=5) | tricky, max_size=4).map("".join)
values = st.recursive(
    scalars | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=8,
)


@given(strings, st.dictionaries(strings, values, max_size=4))
def test_a_rendered_call_parses_to_itself(name, arguments):
    call = OperationCall(name=name, arguments=arguments)
    assert HERMES.parse(f"Look: {HERMES.render_call(call)} and so on") == Turn(calls=(call,))


@pytest.mark.parametrize(("frame", "name"), [("unit", "crop_image_normalized"), ("pixel", "crop_image")])
def test_the_released_names_are_aliases(frame, name):
    dialect = get_dialect("pixel-reasoner", get_frame(frame))
    assert dialect.tools([get_operation("zoom_in")])[0]["function"]["name"] == name
    text = dialect.render_call(ZOOM)
    assert f'{{"name": "{name}", ' in text
    assert dialect.parse(text) == dialect.parse(CALL) == Turn(calls=(ZOOM,))
    assert HERMES.parse(text).calls[0].name == name


# Byte for byte: published numbers and a tokenizer were made with exactly these texts.

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
