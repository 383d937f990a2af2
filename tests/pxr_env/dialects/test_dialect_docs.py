"""The page about dialects: its examples are what the dialects write, and its code runs."""

import re
from pathlib import Path

import gymnasium
import pytest

from pxr_env.coordinates import get_frame
from pxr_env.dialects import dialect_names, get_dialect, registry
from pxr_env.types import OperationCall, Turn
from pxr_env.views import Region, View

PAGE = (Path(__file__).parents[3] / "docs" / "dialects.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `([\w.-]+)`\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL))
FRAMES = {"qwen3-vl": "permille", "qwen3.5": "permille", "glm-4.5v": "permille", "deepeyes": "pixel"}
BOXES = {"unit": [0.1, 0.2, 0.4, 0.5], "permille": [100, 200, 400, 500], "pixel": [10, 20, 40, 50]}
TASK = "pxr_env:pxr/SyntheticSearch-v0"


def test_every_dialect_has_a_section():
    assert list(SECTIONS) == [
        "hermes",
        "qwen3-vl",
        "qwen3.5",
        "glm-4.5v",
        "pixel-reasoner",
        "mini-o3",
        "deepeyes",
        "tags",
    ]
    assert sorted(SECTIONS) == sorted(dialect_names())


@pytest.mark.parametrize("name", SECTIONS)
def test_the_examples_are_what_the_dialect_writes(name):
    frame = FRAMES.get(name, "unit")
    dialect = get_dialect(name, get_frame(frame))
    zoom = OperationCall(name="zoom_in", arguments={"bbox_2d": BOXES[frame], "target_image": 1})
    view = View.of(2, Region.from_box(1, (10, 20, 40, 50)), (448, 336))
    call, answer, reply, error = re.findall(r"```text\n(.*?)\n```", SECTIONS[name], re.DOTALL)
    assert call == dialect.render_call(zoom)
    assert answer == dialect.render_answer("B")
    assert reply == dialect.render_views([view], zoom)
    assert error == dialect.render_error("there is no image 5; only image 1 was shown.")
    assert dialect.parse(call) == Turn(calls=(zoom,))


def test_the_inline_example_of_tags_is_a_call():
    (text,) = re.findall(r"`(<mark .*?/>)`", PAGE)
    boxes = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.6, 0.6]]
    call = OperationCall(name="mark", arguments={"target_image": 1, "boxes": boxes, "labels": ["left", "right"]})
    tags = get_dialect("tags", get_frame("unit"))
    assert tags.parse(text) == Turn(calls=(call,))
    assert tags.render_call(call) == text


def test_the_dialects_written_on_the_page_work(monkeypatch):
    monkeypatch.setattr(registry, "_DIALECTS", dict(registry._DIALECTS))
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, {"__name__": "page"})

    env = gymnasium.make(TASK, dialect="crop").unwrapped
    assert '"name": "crop"' in env.reset(seed=0)[1]["system_prompt"]
    call = '<tool_call>{"name": "crop", "arguments": {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1}}</tool_call>'
    assert env.step(call)[0]["text"] == "Now 1 more."

    env = gymnasium.make(TASK, dialect="look").unwrapped
    env.reset(seed=0)
    assert env.step("Hm.\nLOOK 1: 0 0 0.5 0.5\n")[0]["text"] == "Image 2 (84x84)."
    assert "leaves image 1" in env.step("LOOK 1: 0 0 0.5 7")[0]["text"]
    zoom = OperationCall(name="zoom_in", arguments={"bbox_2d": [0.25, 0.5, 1.0, 1.0], "target_image": 2})
    assert env.dialect.parse(env.dialect.render_call(zoom)) == Turn(calls=(zoom,))
    *_, info = env.step(f"I see.\n{env.dialect.render_answer(env.sample.answers[0])}")
    assert info["correct"]
