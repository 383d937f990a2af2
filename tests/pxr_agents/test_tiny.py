from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pxr_agents import tiny


def test_phrases_are_what_stands_between_atoms():
    texts = ["go to 12, 7 now", "go to 3, 12 now", "stay"]
    found = tiny.phrases(texts, r"\b\d+\b")
    # "go to ", ", ", " now" and "12" occur twice; single characters and what occurs once do not count.
    assert sorted(found) == sorted(["go to ", ", ", " now", "12"])


def test_a_fixed_text_is_one_token():
    tokenizer = tiny.build_tokenizer(["a 1 b", "a 2 b"], r"\b\d+\b", ["System with 1 number."], n_merges=8)
    assert len(tokenizer.encode("System with 1 number.")) == 1


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_survives(tokenizer, text):
    """Qwen's tokenizers write characters in their composed form (NFC); nothing else changes."""
    expected = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(tokenizer.encode(text, split_special_tokens=True)) == expected


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.build_tokenizer(["go to 12, 7 now", "go to 3, 12 now"], r"\b\d+\b", n_merges=16)


def test_size_and_determinism(tmp_path):
    texts = ["go to 12, 7 now", "go to 3, 12 now"]
    first = tiny.build(tmp_path / "a", texts, r"\b\d+\b", seed=1)
    again = tiny.build(tmp_path / "b", texts, r"\b\d+\b", seed=1)
    other = tiny.build(tmp_path / "c", texts, r"\b\d+\b", seed=2)
    assert 400_000 < sum(p.numel() for p in first.model.parameters()) < 1_500_000
    weights = [(path / "model.safetensors").read_bytes() for path in (tmp_path / "a", tmp_path / "b", tmp_path / "c")]
    assert weights[0] == weights[1] != weights[2]
    assert first.chat.tokenizer.get_vocab() == again.chat.tokenizer.get_vocab() == other.chat.tokenizer.get_vocab()


def test_transformers_loads_it_as_any_checkpoint(tiny_path):
    from transformers import AutoConfig, AutoTokenizer, Qwen3VLForConditionalGeneration

    assert AutoConfig.from_pretrained(tiny_path).model_type == "qwen3_vl"
    tokenizer = AutoTokenizer.from_pretrained(tiny_path)
    assert tokenizer.eos_token == "<|im_end|>"
    assert "<|vision_start|><|image_pad|><|vision_end|>" in tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}]}], tokenize=False
    )
    model = Qwen3VLForConditionalGeneration.from_pretrained(tiny_path)
    assert model.config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")
