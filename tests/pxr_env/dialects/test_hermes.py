r"""Turns as models write them, well and badly."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.coordinates import get_frame
from pxr_env.dialects import get_dialect
from pxr_env.operations import get_operation
from pxr_env.types import Mistake, OperationCall, Turn

HERMES = get_dialect("hermes", get_frame("unit"))
CALL = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 1, 1], "target_image": 1}}\n</tool_call>'
ZOOM = OperationCall(name="zoom_in", arguments={"bbox_2d": [0, 0, 1, 1], "target_image": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CALL, Turn(calls=(ZOOM,))),
        (f"左上を見る。\n{CALL}\n\nLet me see.", Turn(calls=(ZOOM,))),
        (CALL + CALL, Turn(calls=(ZOOM, ZOOM))),
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
        (CALL + r"\boxed{7}", Turn(calls=(ZOOM,), answers=("7",))),
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
        ("<answer>3", "<answer> is not closed"),
        (r"<think>hm \boxed{3}", "<think> is not closed"),
        (r"\boxed{}", "the answer is empty"),
        (r"<answer> </answer>", "the answer is empty"),
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


@given(strings)
def test_a_rendered_answer_parses_to_itself_or_is_refused(answer):
    try:
        text = HERMES.render_answer(answer)
    except ValueError:
        braces = answer.count("{") != answer.count("}")
        assert answer != answer.strip() or not answer or braces or "<" in answer or "\\" in answer
    else:
        assert HERMES.parse(f"So {text}.") == Turn(answers=(answer,))


def test_rendered_syntax_by_hand():
    call = OperationCall(name="zoom_in", arguments={"bbox_2d": [1 / 3, 0.0, 0.5, 1], "target_image": 2})
    assert HERMES.render_call(call) == (
        '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [0.3333, 0.0, 0.5, 1], "target_image": 2}}'
        "\n</tool_call>"
    )
    assert HERMES.render_answer("B") == r"\boxed{B}"
    assert HERMES.render_answer("a } b") == "<answer>a } b</answer>"


MARKS = ["<tool_call>", "</tool_call>", "<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "\\", "{", "}", '"']
fragments = st.sampled_from([*MARKS, '{"name": "zoom_in", "arguments": {}}', "7", " ", "\n", "左", "\ud800", "NaN"])


@given(st.lists(fragments | st.text(max_size=3), max_size=30).map("".join))
def test_any_text_is_read_without_an_exception(text):
    turn = HERMES.parse(text)
    assert all(answer == answer.strip() != "" for answer in turn.answers)
    assert len(set(turn.answers)) == len(turn.answers)


PAIRS = ["<tool_call></tool_call>", "<think></think>", "<answer></answer>", "\\boxed{}", "\\boxed{7}", "\\boxed ", CALL]


@pytest.mark.parametrize("piece", [*MARKS, *PAIRS, "x", '<tool_call>{"a":', "["])
def test_a_million_characters_take_no_time(piece):
    for text in (piece * (1_000_000 // len(piece)), f"<tool_call>{piece * (1_000_000 // len(piece))}</tool_call>"):
        start = time.process_time()
        HERMES.parse(text)
        assert time.process_time() - start < 3


def test_many_keys_take_no_time():
    body = "{" + ", ".join(f'"k{index}": 1' for index in range(60_000)) + ', "k59999": 2}'
    start = time.process_time()
    assert 'the key "k59999" came twice' in HERMES.parse(f"<tool_call>{body}</tool_call>").calls[0].message
    assert time.process_time() - start < 3


def test_the_system_prompt_states_what_the_model_must_know():
    operations = [get_operation("zoom_in")]
    for name, words in (("unit", "from 0 to 1"), ("pixel", "in pixels"), ("permille", "0 to 1000")):
        dialect = get_dialect("hermes", get_frame(name))
        prompt = dialect.system_prompt(operations, max_turns=3, max_operations=2)
        tools = prompt.partition("<tools>\n")[2].partition("\n</tools>")[0].splitlines()
        assert [json.loads(line) for line in tools] == dialect.tools(operations)
        for expected in (words, r"\boxed{answer}", "2 operations in 3 messages"):
            assert expected in prompt
    assert "<tools>" not in HERMES.system_prompt([], max_turns=3, max_operations=2)


@pytest.mark.parametrize(("frame", "name"), [("unit", "crop_image_normalized"), ("pixel", "crop_image")])
def test_the_released_names_are_aliases(frame, name):
    dialect = get_dialect("pixel-reasoner", get_frame(frame))
    assert dialect.tools([get_operation("zoom_in")])[0]["function"]["name"] == name
    text = dialect.render_call(ZOOM)
    assert f'{{"name": "{name}", ' in text
    assert dialect.parse(text) == dialect.parse(CALL) == Turn(calls=(ZOOM,))
    assert HERMES.parse(text).calls[0].name == name


def test_unknown_dialects_and_frames_without_released_names_are_refused():
    with pytest.raises(
        ValueError, match=r'"hermis" came; expected one of hermes, pixel-reasoner.*Did you mean "hermes"'
    ):
        get_dialect("hermis", get_frame("unit"))
    with pytest.raises(ValueError, match='coordinates="permille" came; expected'):
        get_dialect("pixel-reasoner", get_frame("permille"))
