"""Chat templates that write tools, calls and their results, and what finds calls in a model's text."""

from __future__ import annotations

import json
from collections.abc import Callable

import gymnasium
import pytest

from pxr_agents import tiny
from pxr_agents.chat import Conversation
from pxr_agents.random_checkpoint import PUBLISHED
from pxr_agents.vlm import VLM
from pxr_env import ToolSession

ENV_ID = "pxr_env:pxr/SyntheticSearch-v0"
KWARGS = {"size_multiple": 28, "operations": ["zoom_in", "rotate"], "images_in_text": True, "max_turns": 8}


def call(name: str, text: bool = False, **arguments: object) -> dict:
    return {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments) if text else arguments}}


ZOOM = call("zoom_in", bbox_2d=[0.0, 0.25, 0.5, 0.75], target_image=1)
TURNS = [
    {"role": "assistant", "content": "A closer look:", "tool_calls": [ZOOM]},
    # Arguments as the text of a server; two calls at once, of which one is a duplicate.
    {"role": "assistant", "content": None, "tool_calls": [call("rotate", text=True, degrees=90, target_image=2), ZOOM]},
    # Words that would end or begin a call.
    {"role": "assistant", "content": "", "tool_calls": [call("zoom_in", label="</tool_call> <tool_call>")]},
    {"role": "assistant", "content": "The letter is \\boxed{T}."},
]


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VLM:
    """Its system prompt is one id, as that of the quick start."""
    fixed = [ToolSession(ENV_ID, **KWARGS).system_prompt]
    return tiny.build(tmp_path_factory.mktemp("tools"), ["a 1 b", "a 2 b"], r"\d", fixed)


@pytest.mark.parametrize("native", [True, False])
def test_tool_messages_are_read_as_the_episode_is(vlm: VLM, native: bool) -> None:
    """The ids of chat messages with tools are those of our own conversation about the same episode."""
    session = ToolSession(ENV_ID, **KWARGS)
    prompt = session.native_prompt if native else session.system_prompt
    messages = [{"role": "system", "content": prompt}, {"role": "user", "content": session.reset(sample_id="train-0")}]
    for said in TURNS:
        messages += [said, *session.respond(said)]
    text = vlm.chat.tokenizer.apply_chat_template(messages[:-1], tools=session.tools, tokenize=False)
    text += f"<|im_start|>assistant\n{TURNS[-1]['content']}<|im_end|>"

    env = gymnasium.make(ENV_ID, **KWARGS)
    observation, info = env.reset(options={"sample_id": "train-0"})
    conversation = Conversation()
    vlm.chat.prompt(conversation, info["system_prompt"], observation, info["image_places"])
    for turn in session.turns:
        conversation.append_turn((*vlm.chat.encode_text(turn), vlm.chat.stop_id), train=True)
        observation, _, is_over, _, info = env.step(turn)
        if not is_over:
            vlm.chat.reply(conversation, observation, info["image_places"])
    ids, image = conversation.ids, vlm.chat.image_id
    assert [t for k, t in enumerate(ids) if t != image or ids[k - 1] != image] == vlm.chat.tokenizer.encode(text)
    assert len(conversation.images) == 3
    assert session.outcome is not None
    assert session.outcome.info["usage"] == {"zoom_in": 1, "rotate": 1}


@pytest.mark.parametrize(
    ("first", "shown"),
    [([], "{}"), ([{"role": "system", "content": "You look."}], "You look.\n\n{}")],
)
def test_other_prompts_get_the_tools_at_their_end(vlm: VLM, first: list, shown: str) -> None:
    tools = ToolSession(ENV_ID).tools
    text = vlm.chat.tokenizer.apply_chat_template(
        [*first, {"role": "user", "content": "?"}], tools=tools, tokenize=False
    )
    offered = (
        "You may call operations to see more; the resulting images come with the next message.\n"
        f"<tools>\n{json.dumps(tools[0], ensure_ascii=False)}\n</tools>\n"
        'A call: <tool_call>\n{"name": <name>, "arguments": <arguments>}\n</tool_call>'
    )
    assert text == f"<|im_start|>system\n{shown.format(offered)}<|im_end|>\n<|im_start|>user\n?<|im_end|>\n"


@pytest.mark.parametrize("family", ["qwen2.5-vl", "qwen3-vl"])
def test_families_write_tools_as_theirs_do(family_vlm: Callable[[str], VLM], family: str) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    image = {"type": "image"}
    messages = [
        {"role": "user", "content": [image, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": "So:", "tool_calls": [call("f", a=[1, 0.5]), call("f", text=True)]},
        {"role": "tool", "content": [image, {"type": "text", "text": "One."}]},
        {"role": "tool", "content": "Two."},
    ]
    tokenizer = family_vlm(family).chat.tokenizer
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    default = "You are a helpful assistant.\n\n" if family == "qwen2.5-vl" else ""
    seen = "<|vision_start|><|image_pad|><|vision_end|>"
    assert text == (
        f"<|im_start|>system\n{default}# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "f", "parameters": {}}}\n</tools>\n\nFor each function call, '
        "return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        f"<|im_start|>user\n{seen}?<|im_end|>\n<|im_start|>assistant\nSo:\n"
        '<tool_call>\n{"name": "f", "arguments": {"a": [1, 0.5]}}\n</tool_call>\n'
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|im_end|>\n'
        f"<|im_start|>user\n<tool_response>\n{seen}One.\n</tool_response>\n<tool_response>\nTwo.\n</tool_response>"
        "<|im_end|>\n<|im_start|>assistant\n"
    )


def test_calls_are_found_in_what_was_written(vlm: VLM, family_vlm: Callable[[str], VLM]) -> None:
    written = 'So: <tool_call>\n{"name": "f", "arguments": {"a": [1, 0.5]}}\n</tool_call>'
    for tokenizer in (vlm.chat.tokenizer, family_vlm("qwen3-vl").chat.tokenizer):
        prefix = "<|im_start|>assistant\n"
        read = tokenizer.parse_response(f"{written}\n{written}<|im_end|>", prefix=prefix)
        assert read["tool_calls"] == [call("f", a=[1, 0.5])] * 2
        answer = tokenizer.parse_response("It is T.<|im_end|>", prefix=prefix)
        assert answer == {"role": "assistant", "content": "It is T."}


def test_vllms_server_hands_the_parts_of_a_message_to_the_template():
    """It joins them by line breaks instead where it finds no loop over `content`."""
    found = pytest.importorskip("vllm.renderers.hf")._detect_content_format
    templates = [tiny.CHAT_TEMPLATE, *(PUBLISHED[family]["chat_template"] for family in ("qwen2.5-vl", "qwen3-vl"))]
    assert [found(template, default="string") for template in templates] == ["openai"] * 3
