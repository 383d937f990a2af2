"""A genuine Qwen3-VL of about half a million parameters, with its tokenizer, built from nothing.

The quick start and the tests use it. It is saved as a plain checkpoint directory, so everything loads it as
it would load a 7B. Only its size is special: width 96, three text layers, two vision layers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from pxr_agents.vlm import VLM

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)

#: Writes tools as the dialect `hermes` does, where its prompt has them: in place of the sentence that
#: `ToolSession.native_prompt` has there, at the end of any other prompt, and not at all where a prompt lists some. The
#: results of tools are turns of the user, as the environment's replies are. The loop is over `content` itself: where
#: vLLM finds none like that, its server joins texts and images by line breaks.
CHAT_TEMPLATE = """\
{%- macro parts(content) %}{% if content is string %}{{ content }}{% elif content %}{% for part in content -%}
{% if part.type in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>\
{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{% endmacro -%}
{%- macro inert(json) -%}
{{ json | replace('</', '<\\\\/') | replace('<tool_call>', '\\\\u003ctool_call>') }}{% endmacro -%}
{%- macro offer() %}You may call operations to see more; the resulting images come with the next message.
<tools>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools>
A call: <tool_call>
{"name": <name>, "arguments": <arguments>}
</tool_call>{% endmacro -%}
{%- macro prompt(text) -%}
{%- set native = 'You may call tools to see more; the resulting images come with their results.' -%}
{%- if not tools or '<tools>' in text %}{{ text }}{% elif native in text %}{{ text | replace(native, offer()) }}\
{%- else %}{{ text + '\\n\\n' if text }}{{ offer() }}{% endif %}{% endmacro -%}
{%- if tools and messages[0].role != 'system' %}<|im_start|>system
{{ prompt('') }}<|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- set text = parts(message.content) -%}
{%- if message.role != 'tool' %}<|im_start|>{{ message.role }}
{{ prompt(text) if loop.first and message.role == 'system' else text }}{% for call in message.tool_calls or [] -%}
{%- set call = call.function or call %}{{ '\\n' if text or not loop.first }}<tool_call>
{"name": "{{ call.name }}", "arguments": \
{{ inert(call.arguments if call.arguments is string else call.arguments | tojson) }}}
</tool_call>{% endfor %}<|im_end|>
{% else %}{{ '\\n' if loop.previtem and loop.previtem.role == 'tool' else '<|im_start|>user\\n' }}{{ text }}\
{{ '' if loop.nextitem and loop.nextitem.role == 'tool' else '<|im_end|>\\n' }}{% endif %}\
{%- endfor -%}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

#: How calls are found in the text that a model wrote: for transformers' `parse_response`, and trainers that use it.
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close": "<|im_end|>", "content": "text"},
    },
}

PATCH_SIZE, MERGE_SIZE = 14, 2


def phrases(texts: Iterable[str], atom: str) -> list[str]:
    """The stretches of text between atoms that occur more than once, most frequent first.

    A tiny model cannot afford to spell: given the atoms that vary (a regular expression: numbers, colours,
    letters), everything between them is boilerplate of the task and becomes one token.
    """
    count: Counter[str] = Counter()
    for text in texts:
        # re.split with a group returns the atoms too; they are counted like any other stretch.
        count.update(part for part in re.split(f"({atom})", text) if len(part) > 1)
    return [part for part, n in count.most_common() if n > 1]


def learn_bpe(texts: Sequence[str], *, n_merges: int) -> tuple[dict[str, int], Any]:
    """Vocabulary (the 256 bytes and the merged) and merges of a byte-level BPE learned from texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + n_merges, initial_alphabet=sorted(alphabet), show_progress=False
    )
    bpe.train_from_iterator(list(texts), trainer)
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def build_tokenizer(texts: Sequence[str], atom: str, fixed: Sequence[str] = (), *, n_merges: int = 512) -> Any:
    """A byte-level BPE tokenizer that can encode any text, with the `phrases` of `texts` as added tokens.

    `fixed` are whole texts that never vary (a system prompt): one token each, atoms or not. The merges are for text
    that is not a phrase (error messages).
    """
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    vocab, merges = learn_bpe([*texts, *fixed], n_merges=n_merges)
    no_unknown: Any = None
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=no_unknown,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
    )
    words = ["system\n", "user\n", "assistant\n", *fixed, *phrases(texts, atom)]
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in words])
    tokenizer.chat_template, tokenizer.response_template = CHAT_TEMPLATE, RESPONSE_TEMPLATE
    tokenizer.model_max_length = 2048
    return tokenizer


def build_model(tokenizer: Any, *, width: int = 96, layers: int = 3, vision_width: int = 64, seed: int = 0) -> Any:
    """A randomly initialized Qwen3-VL for `tokenizer`.

    The usual initialization (0.02) does not learn in the minutes a quick start has: at this width weights are
    drawn with a standard deviation of 0.08, and the position table as loud as the content it is added to.
    """
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    torch.manual_seed(seed)
    head = 32
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": width,
            "intermediate_size": 8 * width // 3,
            "num_hidden_layers": layers,
            "num_attention_heads": width // head,
            "num_key_value_heads": width // head,
            "head_dim": head,
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
            "rope_parameters": rope,
        },
        vision_config={
            "depth": 2,
            "hidden_size": vision_width,
            "intermediate_size": 2 * vision_width,
            "num_heads": 4,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": 1,
            "out_hidden_size": width,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pos_embed" in name:
                parameter.normal_(0, 1)
            elif parameter.ndim >= 2 and "patch_embed" not in name:
                parameter.normal_(0, 0.08)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model


def build(path: str | Path, texts: Sequence[str], atom: str, fixed: Sequence[str] = (), *, seed: int = 0) -> VLM:
    """Build tokenizer and model for the texts of a task and save them to `path` as a checkpoint."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(texts, atom, fixed)
    _write_processor(path)
    VLM.around(build_model(tokenizer, seed=seed), tokenizer, path).save(path)
    return VLM.from_pretrained(path)


def _write_processor(path: Path) -> None:
    """The processor configuration beside the weights, as every Qwen3-VL checkpoint has it."""
    unit = (PATCH_SIZE * MERGE_SIZE) ** 2
    common = {
        "patch_size": PATCH_SIZE,
        "merge_size": MERGE_SIZE,
        "temporal_patch_size": 1,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        **dict.fromkeys(("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"), True),
        "rescale_factor": 1 / 255,
        "resample": 3,
        "size": {"shortest_edge": unit, "longest_edge": 1024 * unit},
        "processor_class": "Qwen3VLProcessor",
    }
    image = {**common, "image_processor_type": "Qwen2VLImageProcessor"}
    video = {**common, "video_processor_type": "Qwen3VLVideoProcessor"}
    (path / "preprocessor_config.json").write_text(json.dumps(image, indent=2) + "\n")
    (path / "video_preprocessor_config.json").write_text(json.dumps(video, indent=2) + "\n")
