"""Calls as tags: attributes of every type, and what is no call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pxr_env.coordinates import get_frame
from pxr_env.dialects import get_dialect
from pxr_env.dialects.tags import escape, placeholder, read_attribute, unescape, write_attribute
from pxr_env.operations import Operation, get_operation
from pxr_env.types import Mistake, OperationCall, Turn

TAGS = get_dialect("tags", get_frame("unit"))
NUMBER, INTEGER, TEXT, FLAG = ({"type": kind} for kind in ("number", "integer", "string", "boolean"))


def array(items):
    return {"type": "array", "items": items}


def call(name, **arguments):
    return OperationCall(name=name, arguments=arguments)


ZOOM = call("zoom_in", bbox_2d=[0.1, 0.2, 0.4, 0.5], target_image=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<zoom_in box="0.1 0.2 0.4 0.5" image="1"/>', ZOOM),
        ('<zoom_in box="0.1 0.2 0.4 0.5" image="1">\n</zoom_in>', ZOOM),
        ("<zoom_in\n  box = '0.1, 0.2, 0.4, 0.5'\timage='1' />", ZOOM),
        ('<zoom_in image="1" bbox_2d="[0.1, 0.2, 0.4, 0.5]"/>', ZOOM),
        ('<zoom_in box="0.1 0.2 0.4 0.5"image="1"/>', ZOOM),
        ('<zoom_in box="left" image="1.0"/>', call("zoom_in", bbox_2d=["left"], target_image=1.0)),
        ('<zoom_in box="nan inf 1e999 0x1" image=""/>',
         call("zoom_in", bbox_2d=["nan", "inf", float("inf"), "0x1"], target_image="")),
        ('<zoom_in box="0 0 1 1" where="here"/>', call("zoom_in", bbox_2d=[0, 0, 1, 1], where="here")),
        ('<zoom_in BOX="0 0 1 1"/>', call("zoom_in", BOX="0 0 1 1")),
        ("<zoom_in/>", call("zoom_in")),
        ('<flip image="2" direction="a&quot;b&amp;lt;"/>', call("flip", target_image=2, direction='a"b&lt;')),
        ('<select_frames frames="3 5"/>', call("select_frames", target_frames=[3, 5])),
        ('<select_frames frames=""/>', call("select_frames", target_frames=[])),
        ('<seek start="1.5" end="2"/>', call("seek", start=1.5, end=2)),
        ('<compare first="1" second="2"/>', call("compare", first_image=1, second_image=2)),
        ('<mark image="1" boxes="0 0 1 1 | 0.1 0.1 0.2 0.2" labels="a > b|c"/>',
         call("mark", target_image=1, boxes=[[0, 0, 1, 1], [0.1, 0.1, 0.2, 0.2]], labels=["a > b", "c"])),
        ('<mark image="1" labels=\'["a|b", " c"]\'/>', call("mark", target_image=1, labels=["a|b", " c"])),
        ('<ZOOM_IN box="0 0 1 1"/>', call("ZOOM_IN", box="0 0 1 1")),
        ('<crop box="0 0 1 1"/>', call("crop", box="0 0 1 1")),
    ],
)  # fmt: skip
def test_calls_by_hand(text, expected):
    turn = TAGS.parse(f"I look.\n{text}\nSo.")
    assert turn == Turn(calls=(expected,))
    # Equality takes 1 for 1.0.
    assert repr(sorted(turn.calls[0].arguments.items())) == repr(sorted(expected.arguments.items()))


@pytest.mark.parametrize(
    "text",
    [
        "<br/>", "<b>bold</b>", '<a href="x">link</a>', "a <zoom_in> tag", "</zoom_in>", "1 <2/>", "< zoom_in/>",
        "<zoom_in", "<think >", '<think x="1"/>', '<answer x="1"/>', "<左 x='1'/>", "<crop box=", "<zoom_in image>",
    ],
)  # fmt: skip
def test_prose_is_no_call(text):
    assert TAGS.parse(text) == Turn()


@pytest.mark.parametrize(
    "text",
    [
        '<zoom_in box="0 0 1 1" image="1">', '<zoom_in box="0 0 1 1" image="1"></zoom>', '<zoom_in box="0 0 1',
        "<zoom_in box=0 image=1/>", '<zoom_in box="0 0 1 1" image=1/>', '<zoom_in box="0 0 1 1" /', "<zoom_in box =",
    ],
)  # fmt: skip
def test_tags_that_are_not_closed_are_explained(text):
    (mistake,) = TAGS.parse(text).calls
    assert isinstance(mistake, Mistake)
    assert mistake.message == (
        "<zoom_in ...> is not closed by />, or not written as a tag; expected "
        '<zoom_in box="number number number number" image="integer"/>. Write it again.'
    )


def test_an_attribute_comes_once_under_either_name():
    for text in ('<zoom_in image="1" image="1"/>', '<zoom_in image="1" target_image="2"/>'):
        (mistake,) = TAGS.parse(text).calls
        assert "came twice; expected each once" in mistake.message


def test_reading_goes_on_after_what_is_no_call():
    text = '<b> <zoom_in image="1"> <a href="1"> <zoom_in box="0.1 0.2 0.4 0.5" image="1"/> <answer>7</answer>'
    turn = TAGS.parse(text)
    assert isinstance(turn.calls[0], Mistake)
    assert turn.calls[1:] == (ZOOM,)
    assert turn.answers == ("7",)


@pytest.mark.parametrize(
    ("value", "schema", "text"),
    [
        (1, INTEGER, "1"),
        (-0.5, NUMBER, "-0.5"),
        (1 / 3, NUMBER, "0.3333"),
        (1e30, NUMBER, "1e+30"),
        (True, FLAG, "true"),
        ("a < 'b' | c\n", TEXT, "a &lt; &apos;b&apos; &#124; c&#10;"),
        ("", TEXT, ""),
        ([], array(NUMBER), ""),
        ([0, 0.5], array(NUMBER), "0 0.5"),
        ([True, False], array(FLAG), "true false"),
        (["a b", "c"], array(TEXT), "a b | c"),
        (["a", " b"], array(TEXT), "[&quot;a&quot;, &quot; b&quot;]"),
        ([""], array(TEXT), "[&quot;&quot;]"),
        ([[1, 2], [3]], array(array(NUMBER)), "1 2 | 3"),
        ([[]], array(array(NUMBER)), "[[]]"),
        ([[["a"]]], array(array(array(TEXT))), "a"),
        ({"k": [1]}, {"type": "object"}, "{&quot;k&quot;: [1]}"),
        (["a", {"b": None}], {"type": "array"}, "[&quot;a&quot;, {&quot;b&quot;: null}]"),
        ("7", INTEGER, None),
        (7, TEXT, None),
        (float("nan"), NUMBER, None),
        (10**400, INTEGER, None),
        (object(), TEXT, None),
    ],
)
def test_values_by_hand(value, schema, text):
    assert write_attribute(value, schema) == text


@given(st.text(), st.sampled_from([NUMBER, INTEGER, TEXT, FLAG, array(NUMBER), array(TEXT), array(array(NUMBER))]))
def test_any_value_is_read(raw, schema):
    value = read_attribute(raw, schema)
    if schema["type"] == "array":
        assert isinstance(value, list)


@given(st.text())
def test_escaped_text_is_read_again_and_ends_nothing(text):
    assert unescape(escape(text)) == text
    assert not set(escape(text)) & set("<>\"'|\n\r\t")


def test_what_is_no_entity_stays():
    assert unescape("Tom & Jerry &copy; &#xD800; &#55296; &#1114112; &#9999999; &#65;") == (
        "Tom & Jerry &copy; &#xD800; &#55296; &#1114112; &#9999999; A"
    )


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (INTEGER, "integer"),
        (TEXT, "text"),
        (FLAG, "true or false"),
        ({"type": "object"}, "JSON"),
        ({"type": "array"}, "JSON"),
        ({"type": "string", "enum": ["a", "b"]}, "a or b"),
        ({**array(NUMBER), "minItems": 2, "maxItems": 2}, "number number"),
        ({**array(INTEGER), "minItems": 1, "maxItems": 8}, "integer integer ..."),
        (array(TEXT), "text | text ..."),
    ],
)
def test_placeholders(schema, words):
    assert placeholder(schema) == words


def test_the_prompt_shows_every_operation_as_a_tag():
    operations = [get_operation(name) for name in ("zoom_in", "mark", "grid", "seek")]
    prompt = TAGS.system_prompt(operations, max_turns=3, max_operations=2)
    lines = prompt.splitlines()
    assert (
        '<grid image="integer" [lines="integer"]/>: Show an image again under a grid of lines with their coordinates.'
        in lines
    )
    assert '<seek start="number" end="number" [video="integer"]/>' in prompt
    assert "  start: The first time, in seconds." in lines
    assert 'For example <zoom_in box="0.1 0.2 0.4 0.5" image="1"/>' in lines
    assert "For example" not in TAGS.system_prompt(operations[1:], max_turns=3, max_operations=2)
    permille = get_dialect("tags", get_frame("permille"))
    assert 'box="100 200 400 500"' in permille.system_prompt(operations, max_turns=3, max_operations=2)
    # The example is the only call in the prompt.
    assert TAGS.parse(prompt.replace("<answer>answer</answer>", "")).calls[-1] == ZOOM


@pytest.mark.parametrize(("name", "argument"), [("左", "x"), ("answer", "x"), ("a b", "x"), ("look", "x y")])
def test_names_that_are_no_tags_are_refused(name, argument):
    schema = {"type": "object", "properties": {argument: TEXT}, "required": []}
    operation = Operation(name=name, description="", parameters=schema, function=lambda context: ())
    with pytest.raises(ValueError, match=r'got dialect="tags" with the name ".*"; expected Latin letters.* Rename it'):
        TAGS.check_operations([operation])
    with pytest.raises(ValueError, match="cannot be written"):
        TAGS.render_call(OperationCall(name=name, arguments={argument: "v"}))


def test_unknown_operations_take_text():
    crop = call("crop", box="0 0 1 1")
    assert TAGS.parse(TAGS.render_call(crop)) == Turn(calls=(crop,))
    for other in (call("crop"), call("crop", box=1)):
        with pytest.raises(ValueError, match="cannot be written"):
            TAGS.render_call(other)
