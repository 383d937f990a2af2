"""TRL, with the package itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLProcessor
from transformers.utils.chat_template_utils import render_jinja_template
from trl import chat_template_utils as trl_templates

from pxr_agents import random_checkpoint, tiny
from pxr_env import ToolSession
from tests.adapters.episodes import ENV_ID, EPISODES


@pytest.fixture
def no_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor of videos would need torchvision."""
    monkeypatch.setattr(Qwen3VLProcessor, "get_attributes", classmethod(lambda cls: ["image_processor", "tokenizer"]))


@pytest.mark.parametrize("kind", ["tiny", "qwen3-vl"])
def test_takes_our_checkpoints_as_they_are(tmp_path: Path, no_videos: None, kind: str) -> None:
    if kind == "tiny":
        tiny.build(tmp_path, ["a 1 b", "a 2 b"], r"\d")
    else:
        random_checkpoint.build_random(tmp_path, kind)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    images = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    processor = Qwen3VLProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    assert tokenizer.response_template is not None
    assert trl_templates.supports_tool_calling(processor)
    assert trl_templates.is_chat_template_prefix_preserving(processor)
    prefix = tokenizer.encode("<|im_start|>assistant\n")
    for turn in EPISODES[2].turns:
        read = trl_templates.parse_response(tokenizer, tokenizer.encode(f"{turn.written()}<|im_end|>"), prefix=prefix)
        assert [call["function"]["name"] for call in read.get("tool_calls", ())] == [name for name, _ in turn.calls]


def test_random_templates_are_the_published_ones() -> None:
    published = trl_templates.qwen3_vl_chat_template
    session = ToolSession(ENV_ID)
    for episode in EPISODES:
        question = {"role": "user", "content": session.reset(sample_id=episode.sample_id)}
        messages = [{"role": "system", "content": session.native_prompt}, question]
        for turn in episode.turns:
            if not session.is_over:
                messages += [turn.message(), *session.respond(turn.message())]
        for tools in (None, session.tools):
            ours, theirs = (
                render_jinja_template([messages], tools=tools, chat_template=template, add_generation_prompt=True)[0]
                for template in (random_checkpoint.PUBLISHED["qwen3-vl"]["chat_template"], published)
            )
            assert ours == theirs
