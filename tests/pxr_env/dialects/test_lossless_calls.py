"""Calls that are not written as asked for, and can only mean one thing, in every dialect that has the construct."""

import json

import gymnasium
import pytest

from pxr_env.coordinates import get_frame
from pxr_env.dialects import get_dialect
from pxr_env.types import Mistake, OperationCall, Turn

#: Dialects of JSON -> tags around a call, and the JSON of the zoom below.
JSON_DIALECTS = {
    name: ("tool_call", {"name": tool, "arguments": {"bbox_2d": [10, 20, 40, 50], **rest}})
    for name, tool, rest in (
        ("hermes", "zoom_in", {"target_image": 1}),
        ("pixel-reasoner", "crop_image", {"target_image": 1}),
        ("qwen3-vl", "zoom_in", {"target_image": 1}),
        ("qwen3.5", "zoom_in", {"target_image": 1}),
        ("glm-4.5v", "zoom_in", {"target_image": 1}),
        ("deepeyes", "image_zoom_in_tool", {}),
    )
} | {"mini-o3": ("grounding", {"bbox_2d": [10, 20, 40, 50], "source": "original_image"})}
FRAMES = {"mini-o3": "unit", "qwen3-vl": "permille", "qwen3.5": "permille", "glm-4.5v": "permille"}
ZOOM = OperationCall(name="zoom_in", arguments={"bbox_2d": [10, 20, 40, 50], "target_image": 1})

every_dialect = pytest.mark.parametrize("name", JSON_DIALECTS)
dialects_with_arguments = pytest.mark.parametrize("name", [name for name in JSON_DIALECTS if name != "mini-o3"])


def parse(name, text):
    return get_dialect(name, get_frame(FRAMES.get(name, "pixel"))).parse(text)


def block(name, body, end=None):
    tag = JSON_DIALECTS[name][0]
    return f"<{tag}>\n{body}\n" + (f"</{tag}>" if end is None else end)


def body(name):
    return json.dumps(JSON_DIALECTS[name][1])


@every_dialect
@pytest.mark.parametrize(
    "odd",
    [
        "```json\n%s\n```",
        "```\n%s```",
        "%s,",
        "%s}",
        "%s]\n.",
        "%s \N{ALEMBIC}",
        "[%s]",
        "[%s,\n]",
        "\n\n%s\n\n",
    ],
)
def test_one_call_in_a_block(name, odd):
    assert parse(name, block(name, odd % body(name))) == Turn(calls=(ZOOM,))


@every_dialect
def test_a_comma_before_a_closing_bracket(name):
    text = body(name).replace("50]", "50, ]").replace("}", ",}")
    assert parse(name, block(name, text)) == Turn(calls=(ZOOM,))
    # A comma inside a string is none of those.
    (mistake,) = parse(name, block(name, '{"name": ",}", "source": 1,, }')).calls
    assert "not valid JSON" in mistake.message


@every_dialect
def test_a_call_inside_a_string(name):
    once = json.dumps(body(name))
    assert parse(name, block(name, once)) == parse(name, block(name, json.dumps(once))) == Turn(calls=(ZOOM,))


@every_dialect
@pytest.mark.parametrize("odd", ["{0}\n{0}", "{0}{0}", "{0}, {0}", "[{0}, {0}]", "```json\n{0}\n{0}\n```"])
def test_two_calls_in_a_block(name, odd):
    assert parse(name, block(name, odd.replace("{0}", body(name)))) == Turn(calls=(ZOOM, ZOOM))


@every_dialect
def test_a_broken_call_beside_a_whole_one_is_named(name):
    whole, mistake = parse(name, block(name, body(name) + '\n{"name": ')).calls
    assert whole == ZOOM
    assert "not valid JSON" in mistake.message
    # Words behind a call may change what it means.
    (mistake,) = parse(name, block(name, f"{body(name)} in the second image")).calls
    assert 'Extra data near "' in mistake.message


@every_dialect
@pytest.mark.parametrize(
    "end",
    ["", "\N{ALEMBIC}", "\nPlease wait.", "</tool>", "</tool_cal", "<tool_call>", "<|im_end|>", "\n<tool_call>\n"],
)
def test_a_whole_call_without_its_closing_tag(name, end):
    end = end.replace("tool_call", JSON_DIALECTS[name][0])
    assert parse(name, block(name, body(name), end)) == Turn(calls=(ZOOM,))
    two = f"{block(name, body(name), end)}\n{block(name, body(name))}"
    assert parse(name, two).calls == (ZOOM, ZOOM)


@every_dialect
def test_what_follows_an_unclosed_call_is_read(name):
    text = block(name, body(name), "\nIt is <answer>7</answer>")
    assert parse(name, text) == Turn(calls=(ZOOM,), answers=("7",))
    half = body(name)[:-1]
    turn = parse(name, f"{block(name, half, '')}{block(name, body(name))}")
    assert turn.calls == (ZOOM,)
    assert "is not closed; expected </" in turn.mistakes[0].message
    tag = JSON_DIALECTS[name][0]
    assert parse(name, f"<{tag}>\n{block(name, body(name))}") == Turn(calls=(ZOOM,))


@every_dialect
@pytest.mark.parametrize("thought", ["I need a closer look.\n", "<answer>4</answer> \\boxed{4} <think> ", ""])
@pytest.mark.parametrize("end", ["", "\n", "<|im_end|>\n"])
def test_a_call_that_ends_thoughts_which_are_not_closed(name, thought, end):
    call = block(name, body(name))
    assert parse(name, f"<think>{thought}{call}{end}") == Turn(calls=(ZOOM,))
    assert parse(name, f"<think>{thought}{call}\n{call}{end}") == Turn(calls=(ZOOM, ZOOM))
    # A call that was only thought about is none.
    assert parse(name, f"<think>{call} or else {thought}{call}{end}") == Turn(calls=(ZOOM,))


@every_dialect
@pytest.mark.parametrize("end", ["Let me see.", "<answer>4</answer>", "<think>", "\\boxed{4}"])
def test_nothing_else_in_thoughts_that_are_not_closed_counts(name, end):
    turn = parse(name, f"<think>{block(name, body(name))}{end}")
    assert not turn.calls
    assert not turn.answers
    assert turn.mistakes[0].message.startswith("<think> is not closed")
    turn = parse(name, f"<think>{block(name, '{')}")
    assert not turn.calls
    assert turn.mistakes[0].message.startswith("<think> is not closed")


def test_a_tag_that_ends_thoughts_which_are_not_closed():
    tags = get_dialect("tags", get_frame("pixel"))
    call = '<zoom_in box="10 20 40 50" image="1"/>'
    assert tags.parse(f"<think>Closer.\n{call}") == Turn(calls=(ZOOM,))
    assert not tags.parse(f"<think>{call} or not").calls


@dialects_with_arguments
def test_arguments_inside_a_string_or_under_another_name(name):
    call = JSON_DIALECTS[name][1]
    text = json.dumps(call["arguments"])
    odd = (
        {**call, "arguments": text},
        {**call, "arguments": json.dumps(text)},
        {"name": call["name"], "parameters": call["arguments"]},
        {"name": call["name"], "parameters": text},
        {"type": "function", "function": call},
        {"id": "call_1", "type": "function", "function": {**call, "arguments": text}},
    )
    for value in odd:
        assert parse(name, block(name, json.dumps(value))) == Turn(calls=(ZOOM,))


@pytest.mark.parametrize("name", ["hermes", "qwen3-vl", "qwen3.5", "glm-4.5v"])
@pytest.mark.parametrize(
    "text",
    [
        "<function=zoom_in>\n<parameter=bbox_2d>\n[10, 20, 40, 50]\n</parameter>\n<parameter=target_image>\n1\n"
        "</parameter>\n</function>",
        "<function=zoom_in><parameter=bbox_2d>[10, 20, 40, 50]</parameter><parameter=target_image>1</parameter>"
        "</function>",
        "zoom_in\n<arg_key>bbox_2d</arg_key>\n<arg_value>[10, 20, 40, 50]</arg_value>\n<arg_key>target_image</arg_key>"
        "\n<arg_value>1</arg_value>",
        "zoom_in<arg_key>bbox_2d</arg_key><arg_value>[10, 20, 40, 50]</arg_value><arg_key>target_image</arg_key>"
        "<arg_value>1</arg_value>",
    ],
)
def test_the_tags_of_qwen_and_glm(name, text):
    assert parse(name, block(name, text)) == Turn(calls=(ZOOM,))
    if "function" in text:
        assert parse(name, block(name, text + text)) == Turn(calls=(ZOOM, ZOOM))
        # Whether GLM's call is whole shows only its closing tag.
        assert parse(name, block(name, text, "\N{ALEMBIC}")) == Turn(calls=(ZOOM,))
    else:
        assert isinstance(parse(name, block(name, text, "\N{ALEMBIC}")).mistakes[0], Mistake)


def test_text_in_tags_is_taken_as_it_is():
    text = '<function=flip><parameter=target_image>2</parameter><parameter=direction>\n"a"\n1\n</parameter></function>'
    (call,) = parse("qwen3.5", block("qwen3.5", text)).calls
    assert call == OperationCall(name="flip", arguments={"target_image": 2, "direction": '"a"\n1'})
    (call,) = parse("qwen3.5", block("qwen3.5", "<function=own><parameter=n>1</parameter></function>")).calls
    assert call == OperationCall(name="own", arguments={"n": "1"})


def test_answers_of_glm():
    answer = "<think>easy</think>The answer is <|begin_of_box|>B<|end_of_box|>."
    assert parse("glm-4.5v", answer) == parse("hermes", answer) == Turn(answers=("B",))
    assert parse("glm-4.5v", r"\boxed{B}") == Turn(answers=("B",))
    assert parse("glm-4.5v", r"<|begin_of_box|>\boxed{B}<|end_of_box|>") == Turn(answers=("B",))
    assert "<|begin_of_box|> is not closed" in parse("glm-4.5v", "<|begin_of_box|>B").mistakes[0].message


def turns(dialect, frame):
    """A zoom of image 1 into its left half in odd numbers, as each dialect has them."""
    width, height = get_frame(frame).extent((84, 84))
    exact = json.dumps([0, 0, width / 2, height])
    over = json.dumps([0, 0, width / 2, height * 1.01])
    far = json.dumps([0, 0, width / 2, height * 1.02])
    form = {
        "mini-o3": '<grounding>{"bbox_2d": %s, "source": "original_image"}</grounding>',
        "deepeyes": '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": %s}}</tool_call>',
        "tags": '<zoom_in box="%s" image="1.0"/>',
    }.get(
        dialect,
        '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": %s, "target_image": 1.0}}</tool_call>',
    )
    return form % exact, form % over, form % far


KNOWN = [
    *[("hermes", frame) for frame in ("unit", "pixel", "permille")],
    *[("tags", frame) for frame in ("unit", "pixel", "permille")],
    ("pixel-reasoner", "unit"), ("qwen3-vl", "permille"), ("qwen3.5", "permille"), ("glm-4.5v", "permille"),
    ("mini-o3", "unit"), ("deepeyes", "pixel"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "frame"), KNOWN)
def test_an_overshot_box_is_shown_and_counted_and_one_far_outside_refused(dialect, frame):
    limits = {"max_operations": 3, "max_turns": 5, "duplicates": "execute"}
    env = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", dialect=dialect, coordinates=frame, **limits)
    _, info = env.reset(seed=0)
    assert info["clipped"] == 0
    exact, over, far = turns(dialect, frame)
    observation, *_, info = env.step(far)
    width, height = get_frame(frame).extent((84, 84))
    limits = f"with 0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height}"
    assert f"leaves image 1; expected [x1, y1, x2, y2] {limits}" in observation["text"]
    assert (info["clipped"], info["failures"]) == (0, {"zoom_in": 1})
    for text, n_clipped in ((exact, 0), (over, 1), (over, 2)):
        *_, info = env.step(text)
        assert info["views"][-1]["box"] == (0, 0, 168, 336)
        assert info["clipped"] == n_clipped


def test_the_same_call_in_other_words_is_a_duplicate():
    env = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", coordinates="unit")
    env.reset(seed=0)
    for arguments, n_duplicates in (
        ({"bbox_2d": [0, 0, 0.5, 1], "target_image": 1}, 0),
        ({"bbox_2d": "[0, 0, 0.5, 1]", "target_image": "1.0"}, 1),
    ):
        *_, info = env.step(f"<tool_call>{json.dumps({'name': 'zoom_in', 'arguments': arguments})}</tool_call>")
        assert info["duplicates"] == n_duplicates


def test_marks_that_overshoot_are_one_clipped_call():
    env = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", coordinates="permille", operations=["mark"])
    env.reset(seed=0)
    arguments = {"target_image": 1, "boxes": [[0, 0, 500, 1003]], "points": [[1001, 5], [5, 5]]}
    *_, info = env.step(f"<tool_call>{json.dumps({'name': 'mark', 'arguments': arguments})}</tool_call>")
    assert info["clipped"] == info["usage"]["mark"] == 1
    assert info["views"][-1]["marks"][0]["points"][2] == (168, 336)
    assert info["views"][-1]["marks"][1]["points"] == [(336, pytest.approx(1.68))]
