"""What holds in every dialect: what is written is read again, and whatever comes is read without an exception."""

import json
import time

import gymnasium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pxr_env.coordinates import get_frame
from pxr_env.dialects import dialect_names, get_dialect, same_call
from pxr_env.operations import get_operation
from pxr_env.types import Mistake, OperationCall, Turn

pytestmark = pytest.mark.slow

#: Every dialect with the frames it knows.
KNOWN = {
    "hermes": ("unit", "pixel", "permille"),
    "pixel-reasoner": ("unit", "pixel"),
    "qwen3-vl": ("permille",),
    "qwen3.5": ("permille",),
    "glm-4.5v": ("permille",),
    "mini-o3": ("unit",),
    "deepeyes": ("pixel",),
    "tags": ("unit", "pixel", "permille"),
}
DIALECTS = {name: get_dialect(name, get_frame(frames[0])) for name, frames in KNOWN.items()}
GENERAL = ["hermes", "pixel-reasoner", "qwen3-vl", "qwen3.5", "glm-4.5v", "tags"]
ZOOM = OperationCall(name="zoom_in", arguments={"bbox_2d": [0.1, 0.2, 0.4, 1], "target_image": 1})
OPERATIONS = [
    "zoom_in", "select_frames", "seek", "rotate", "flip", "enhance", "mark", "compare", "grid",
]  # fmt: skip

every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
general_dialects = pytest.mark.parametrize("dialect", [DIALECTS[name] for name in GENERAL], ids=GENERAL)

MARKS = [
    "<tool_call>", "</tool_call>", "<grounding>", "</grounding>", "<think>", "</think>", "<answer>", "</answer>",
    "<function=zoom_in>", "</function>", "<parameter=bbox_2d>", "</parameter>", "<arg_key>", "</arg_value>", "```json",
    "<|begin_of_box|>", "<|end_of_box|>",
    "\\boxed{", "\\", "{", "}", "[", "]", '"', "'", "<", ">", "/>", "=", "<zoom_in ", 'box="', "image='", "&", "&#",
    ";", "|", "<|im_end|>", "<|image_pad|>", "<ANSWER>", "\x00", "\ud800", "左", "NaN", "9" * 5000, " ", "\n",
    '{"name": "zoom_in", "arguments": {}}', '{"bbox_2d": [], "source": "original_image"}',
]  # fmt: skip
finite = st.floats(-1e6, 1e6).map(lambda number: round(number, 4))
numbers = st.integers(-(10**9), 10**9) | finite
words = st.lists(st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(MARKS[:-4]), max_size=3).map(
    lambda parts: "".join(parts).replace("\ud800", "")
)


def arguments_of(schema):
    """Any value that a schema allows, and some of the right type that it does not."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "array":
        return st.lists(arguments_of(schema["items"]), max_size=schema.get("maxItems", 8) % 5)
    return {"integer": st.integers(-(10**9), 10**9), "number": numbers, "string": words}[schema["type"]]


@st.composite
def calls(draw, names=OPERATIONS):
    schema = get_operation(draw(st.sampled_from(names))).parameters
    name = next(name for name in names if get_operation(name).parameters is schema)
    required = {key: arguments_of(schema["properties"][key]) for key in schema["required"]}
    optional = {key: arguments_of(part) for key, part in schema["properties"].items() if key not in required}
    return OperationCall(name=name, arguments=draw(st.fixed_dictionaries(required, optional=optional)))


boxes = st.lists(numbers, max_size=6)


def zooms(dialect):
    """Calls that the dialect can express."""
    if dialect in map(DIALECTS.get, GENERAL):
        return calls()
    images = st.just(1) if dialect is DIALECTS["deepeyes"] else st.integers(1, 10**6)
    zoom = st.fixed_dictionaries({"bbox_2d": boxes, "target_image": images})
    return zoom.map(lambda arguments: OperationCall(name="zoom_in", arguments=arguments))


def test_these_are_all_dialects():
    assert list(KNOWN) == dialect_names()


@every_dialect
@settings(max_examples=60)
@given(data=st.data())
def test_a_rendered_turn_parses_to_itself(dialect, data):
    turn = data.draw(st.lists(zooms(dialect), min_size=1, max_size=3))
    prose = data.draw(
        st.sampled_from(["", "Look: ", "<think>Maybe \\boxed{3} <answer>4</answer>.</think>\n左上 ", "a < b "])
    )
    text = prose + "\n\n".join(map(dialect.render_call, turn)) + "\nLet me see."
    parsed = dialect.parse(text)
    assert parsed == Turn(calls=tuple(turn))
    # Equality takes 1 for 1.0 and for True.
    as_json = [json.dumps([dict(call.arguments) for call in part], sort_keys=True) for part in (parsed.calls, turn)]
    assert as_json[0] == as_json[1]


@every_dialect
@given(answer=words)
def test_a_rendered_answer_parses_to_itself_or_is_refused(dialect, answer):
    try:
        text = dialect.render_answer(answer)
    except ValueError:
        assert answer != answer.strip() or not answer or any(sign in answer for sign in "<\\{}")
    else:
        assert dialect.parse(f"So {text}.") == Turn(answers=(answer,))


@every_dialect
@given(text=st.lists(st.sampled_from(MARKS) | st.text(max_size=3), max_size=30).map("".join))
def test_any_text_is_read_without_an_exception(dialect, text):
    turn = dialect.parse(text)
    assert all(answer == answer.strip() != "" for answer in turn.answers)
    assert len(set(turn.answers)) == len(turn.answers)
    mistakes = [*turn.mistakes, *(call for call in turn.calls if isinstance(call, Mistake))]
    for mistake in mistakes:
        assert "expected" in mistake.message
        assert len(mistake.message) < 700
        mistake.message.encode()


@every_dialect
def test_floats_are_written_with_four_decimals(dialect):
    call = OperationCall(name="zoom_in", arguments={"bbox_2d": (1 / 3, 0.0, 0.99999, 1), "target_image": 1})
    text = dialect.render_call(call)
    (read,) = dialect.parse(text).calls
    assert read.arguments["bbox_2d"] == [0.3333, 0.0, 1.0, 1]
    assert "0.33333" not in text


@every_dialect
@pytest.mark.parametrize(
    "arguments",
    [
        {"bbox_2d": [float("nan"), 0, 1, 1], "target_image": 1},
        {"bbox_2d": [0, 0, 1, float("inf")], "target_image": 1},
        {"bbox_2d": [0, 0, 1, object()], "target_image": 1},
        {"bbox_2d": [0, 0, 1, "\ud800"], "target_image": 1},
    ],
)
def test_what_cannot_be_written_is_refused(dialect, arguments):
    with pytest.raises(ValueError, match=r"got .*; expected .* cannot be written in this dialect"):
        dialect.render_call(OperationCall(name="zoom_in", arguments=arguments))


@every_dialect
def test_calls_and_answers_are_found_wherever_they_are(dialect):
    call, answer = dialect.render_call(ZOOM), dialect.render_answer("左上")
    for text in (
        call,
        f"{call}\n",
        f"{call}<|im_end|>\n",
        f"左。\n{call}\n\nLet me see.",
        f"<think>{answer}</think>{call}",
    ):
        assert dialect.parse(text) == Turn(calls=(ZOOM,))
    assert dialect.parse(call + call) == Turn(calls=(ZOOM, ZOOM))
    assert dialect.parse(f"{call} {answer}") == Turn(calls=(ZOOM,), answers=("左上",))
    assert dialect.parse(f"{call}</think>{answer}") == Turn(answers=("左上",))  # the template opened <think>
    assert dialect.parse(f"{answer} {answer}<|im_end|>") == Turn(answers=("左上",))
    assert dialect.parse(answer + dialect.render_answer("B")) == Turn(answers=("左上", "B"))
    assert dialect.parse(f"<think>{call}{answer}").mistakes[0].message.startswith("<think> is not closed")
    assert dialect.parse("<answer> </answer>").mistakes[0].message.startswith("the answer is empty")
    assert dialect.parse("<answer>7").mistakes[0].message.startswith("<answer> is not closed")


@every_dialect
def test_shouted_tags_are_prose(dialect):
    shouted = dialect.render_call(ZOOM).replace("tool_call", "TOOL_CALL").replace("grounding", "GROUNDING")
    if shouted != dialect.render_call(ZOOM):
        assert dialect.parse(shouted) == Turn()
    assert dialect.parse("<ANSWER>7</ANSWER>") == Turn()


@every_dialect
def test_half_calls_are_mistakes_and_never_calls(dialect):
    call = dialect.render_call(ZOOM)
    # What is whole but for the closing tag is a call.
    last = {"qwen3.5": "</function>", "glm-4.5v": "</tool_call>", "tags": "/>"}
    sign = next((last[name] for name in last if dialect is DIALECTS[name]), "}")
    whole = call.rindex(sign) + len(sign)
    assert dialect.parse(call[:whole]).calls == (ZOOM,)
    for length in range(1, whole):
        turn = dialect.parse(call[:length])
        assert not any(isinstance(part, OperationCall) for part in turn.calls)
        if length > len(dialect.call_opening("zoom_in")):
            assert turn.calls or turn.mistakes


@pytest.mark.parametrize("name", ["hermes", "qwen3.5", "mini-o3", "deepeyes", "tags"])
@pytest.mark.parametrize(
    "piece",
    [
        *MARKS,
        "<tool_call></tool_call>",
        "<grounding>{}</grounding>",
        '<a b="',
        "<a b='",
        '<zoom_in box="',
        "<zoom_in ",
        '<a x="<a "',
        "<think></think>",
        "<answer></answer>",
        "\\boxed{}",
        "\\boxed{7}",
        "\\boxed ",
        "x",
        '{"a":',
        '\\"',
        ", ",
        '{"name": "a", "arguments": {}}"<tool_call>',
        '<tool_call>{"name": "a", "arguments": {}} ',
        "<tool_call>f<arg_key>",
        "<tool_call><function=f>",
    ],
)
def test_long_messages_take_no_time(name, piece):
    dialect = DIALECTS[name]
    body = piece * (200_000 // len(piece))
    call = dialect.render_call(ZOOM)
    for text in (body, call[: len(call) // 2] + body + call[len(call) // 2 :]):
        start = time.process_time()
        dialect.parse(text)
        assert time.process_time() - start < 2  # quadratic takes half a minute and more


def test_many_keys_take_no_time():
    body = "{" + ", ".join(f'"k{index}": 1' for index in range(60_000)) + ', "k59999": 2}'
    start = time.process_time()
    assert 'the key "k59999" came twice' in DIALECTS["hermes"].parse(f"<tool_call>{body}</tool_call>").calls[0].message
    assert time.process_time() - start < 3


@general_dialects
@settings(max_examples=30)
@given(call=calls())
def test_every_call_begins_with_its_opening(dialect, call):
    order = get_operation(call.name).parameters["properties"]
    ordered = {name: call.arguments[name] for name in order if name in call.arguments}
    text = dialect.render_call(OperationCall(name=call.name, arguments=ordered))
    assert text.startswith(dialect.call_opening(call.name))


@pytest.mark.parametrize("name", ["mini-o3", "deepeyes"])
def test_dialects_of_zooming_know_nothing_else(name):
    dialect = DIALECTS[name]
    assert dialect.render_call(ZOOM).startswith(dialect.call_opening("zoom_in"))
    dialect.check_operations([get_operation("zoom_in")])
    with pytest.raises(ValueError, match=f'"{name}" with the operation "seek"; expected only zoom_in.*Leave'):
        dialect.check_operations([get_operation("zoom_in"), get_operation("seek")])
    with pytest.raises(ValueError, match='the call of "seek"'):
        dialect.call_opening("seek")
    with pytest.raises(ValueError, match='the call of "seek"'):
        dialect.render_call(OperationCall(name="seek", arguments={"start": 0, "end": 1}))
    with pytest.raises(ValueError, match='the call of "zoom_in"'):
        dialect.render_call(OperationCall(name="zoom_in", arguments={"bbox_2d": [0, 0, 1, 1]}))


@general_dialects
def test_general_dialects_call_every_operation_and_no_unknown_one(dialect):
    dialect.check_operations([get_operation(name) for name in OPERATIONS])
    with pytest.raises(ValueError, match='"zom_in"; expected one of'):
        dialect.call_opening("zom_in")


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("frame", ["unit", "pixel", "permille"])
def test_unknown_frames_are_refused(name, frame):
    if frame in KNOWN[name]:
        assert get_dialect(name, get_frame(frame)).parse("") == Turn()
    else:
        with pytest.raises(ValueError, match=f'dialect="{name}" with coordinates="{frame}"; expected .*Use'):
            get_dialect(name, get_frame(frame))


def test_calls_are_compared_by_what_they_ask_for():
    def zoom(box, target_image=1):
        return OperationCall(name="zoom_in", arguments={"target_image": target_image, "bbox_2d": box})

    assert same_call(ZOOM, zoom([0.1, 0.2, 0.4, 1.0]))
    assert same_call(ZOOM, zoom((0.1, 0.2, 0.4, 1.0), 1.0))
    assert not same_call(ZOOM, zoom([0.1, 0.2, 0.4]))
    assert not same_call(ZOOM, zoom([0.1, 0.2, 0.4, True]))
    assert not same_call(ZOOM, zoom([0.1, 0.2, 0.4, 1], 2))
    assert not same_call(ZOOM, OperationCall(name="zoom", arguments=ZOOM.arguments))
    assert not same_call(ZOOM, OperationCall(name="zoom_in", arguments={**ZOOM.arguments, "x": 1}))


@every_dialect
def test_the_system_prompt_states_what_the_model_must_know(dialect):
    prompt = dialect.system_prompt([get_operation("zoom_in")], max_turns=7, max_operations=5)
    assert "5 operations in 7 messages" in prompt
    assert dialect.call_opening("zoom_in").partition(":")[0].partition("\n")[0].removesuffix("zoom_in") in prompt
    bare = dialect.system_prompt([], max_turns=7, max_operations=5)
    assert prompt.startswith(bare)
    assert "answer" in bare
    assert "operations" not in bare
    first, second = (dialect.tools([get_operation("zoom_in")])[0] for _ in range(2))
    assert first == second
    first["function"]["parameters"]["properties"].clear()
    assert second["function"]["parameters"]["properties"]["bbox_2d"]["items"] == {"type": "number"}


@pytest.mark.parametrize("name", KNOWN)
def test_an_episode_in_every_dialect(name):
    frame = get_frame(KNOWN[name][0])
    env = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", dialect=name, coordinates=frame.name).unwrapped
    observation, info = env.reset(seed=0)
    tools = env.dialect.tools([get_operation("zoom_in")])
    assert info["tools"] == tools
    assert info["system_prompt"] == env.dialect.system_prompt([get_operation("zoom_in")], max_turns=3, max_operations=2)
    box = frame.from_source(env.sample.evidence_box, env.views[0])
    call = OperationCall(name="zoom_in", arguments={"bbox_2d": box, "target_image": 1})
    observation, *_, info = env.step(f"Closer. {env.dialect.render_call(call)}")
    assert len(observation["images"]) == info["usage"]["zoom_in"] == 1
    assert observation["text"] == env.dialect.render_views(env.views[1:], call)
    again = env.step(env.dialect.render_call(call))[0]["text"]
    refused = "the same call was made before, and its result is image 2; expected another call."
    assert again.startswith(env.dialect.render_error(refused)[: len(refused)])
    *_, info = env.step(env.dialect.render_answer(env.sample.answers[0]))
    assert info["correct"]
    names = r"expected one of hermes, pixel-reasoner, qwen3-vl, qwen3\.5, glm-4\.5v, mini-o3, .*"
    with pytest.raises(ValueError, match=f'{names}Did you mean "{name}"'):
        gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", dialect=f"{name}x")
