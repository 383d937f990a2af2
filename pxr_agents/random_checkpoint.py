"""Checkpoints of the published architectures with random weights: all is true but widths, depths and vocabulary.

Patches and their limits, window and full attention, deepstack, M-RoPE, special tokens, the structure of the chat
templates and the layout of the files are those of `Qwen/Qwen2.5-VL-7B-Instruct`, `Qwen/Qwen3-VL-4B-Instruct` and
`Qwen/Qwen3-VL-30B-A3B-Instruct`. They know nothing and are for tests and dry runs; the quick start learns with
`pxr_agents.tiny`.

    python -m pxr_agents.random_checkpoint qwen2.5-vl runs/random
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pxr_agents.checkpoint import save_weights
from pxr_agents.tiny import learn_bpe
from pxr_agents.vlm import VLM

FAMILIES = ("qwen2.5-vl", "qwen3-vl", "qwen3-vl-moe")

#: Special tokens in the order of the published vocabularies (151643 to 151656 there).
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
#: Tokens that follow them and count as text.
WORD_TOKENS = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
)
#: Tokens that Qwen3-VL has in addition.
QWEN3_WORD_TOKENS = ("<tool_response>", "</tool_response>", "<think>", "</think>")

_PARTS = """\
{%- macro parts(content) %}
    {%- if content is string %}{{- content }}
    {%- else %}
        {%- for part in content %}
            {%- if part.type == 'image' or 'image' in part %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif part.type == 'video' or 'video' in part %}{{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}{{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
"""
_GENERATION_PROMPT = """\
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

#: What Qwen2.5-VL has in chat_template.json: all roles alike, a system turn of its own where none is given.
QWEN2_5_VL_TEMPLATE = f"""{_PARTS}\
{{%- for message in messages %}}
    {{%- if loop.first and message.role != 'system' %}}
        {{{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}}}
    {{%- endif %}}
    {{{{- '<|im_start|>' + message.role + '\\n' + parts(message.content) + '<|im_end|>\\n' }}}}
{{%- endfor %}}
{_GENERATION_PROMPT}"""

#: What Qwen2.5-VL has in tokenizer_config.json: the template of the text model, which fails on images.
QWEN2_5_TEXT_TEMPLATE = f"""\
{{%- for message in messages %}}
    {{{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}}}
{{%- endfor %}}
{_GENERATION_PROMPT}"""

#: What Qwen3-VL has: no system turn of its own, tools in the system turn, results of tools in a user turn.
QWEN3_VL_TEMPLATE = f"""{_PARTS}\
{{%- if tools %}}
    {{{{- '<|im_start|>system\\n' }}}}
    {{%- if messages[0].role == 'system' %}}{{{{- parts(messages[0].content) + '\\n\\n' }}}}{{%- endif %}}
    {{{{- '# Tools\\n\\n<tools>' }}}}
    {{%- for tool in tools %}}{{{{- '\\n' + (tool | tojson) }}}}{{%- endfor %}}
    {{{{- '\\n</tools><|im_end|>\\n' }}}}
{{%- elif messages[0].role == 'system' %}}
    {{{{- '<|im_start|>system\\n' + parts(messages[0].content) + '<|im_end|>\\n' }}}}
{{%- endif %}}
{{%- for message in messages %}}
    {{%- if message.role == 'tool' %}}
        {{{{- '<|im_start|>user\\n<tool_response>\\n' + parts(message.content) + '\\n</tool_response><|im_end|>\\n' }}}}
    {{%- elif message.role != 'system' %}}
        {{{{- '<|im_start|>' + message.role + '\\n' + parts(message.content) + '<|im_end|>\\n' }}}}
    {{%- endif %}}
{{%- endfor %}}
{_GENERATION_PROMPT}"""

_TEXTS = (
    QWEN3_VL_TEMPLATE,
    "You answer questions about images. Think first, then write one final answer as \\boxed{answer}.",
    '{"name": "zoom_in", "arguments": {"bbox_2d": [0, 28, 56, 84], "target_image": 1}}',
    "What letter is in the red box? Image 2 is 84x84 pixels.",
)


def build_random(
    path: str | Path,
    family: str,
    *,
    texts: Sequence[str] = _TEXTS,
    bpe: tuple[dict[str, int], Sequence[tuple[str, str]]] | None = None,
    seed: int = 0,
) -> VLM:
    """Build a checkpoint, save it to `path` in the published layout and load it.

    Args:
        path: the directory.
        family: "qwen2.5-vl", "qwen3-vl" or "qwen3-vl-moe".
        texts: what the merges of the tokenizer are learned from; it encodes any text.
        bpe: a vocabulary and its merges, the published ones for instance, instead of learned ones.
        seed: of the weights.

    Raises:
        ValueError: an unknown family.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    if family not in FAMILIES:
        raise ValueError(f"family={family!r} came; expected one of {', '.join(FAMILIES)}")
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    qwen3 = family != "qwen2.5-vl"
    ids = _write_tokenizer(path, *(bpe or learn_bpe(texts, n_merges=256)), qwen3=qwen3)
    # As published, the vocabulary of the model is larger than that of the tokenizer.
    vocab_size = (max(ids.values()) // 64 + 2) * 64
    config = (
        qwen3_vl_config(ids, vocab_size, experts=family.endswith("moe"))
        if qwen3
        else qwen2_5_vl_config(ids, vocab_size)
    )
    _write_json(path / "config.json", config)
    torch.manual_seed(seed)
    model: Any = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(path))
    _randomize(model)
    save_weights(model, path)
    # Saving rewrote it in the layout of the installed transformers.
    _write_json(path / "config.json", config)
    _write_json(
        path / "generation_config.json",
        {
            "do_sample": True,
            "bos_token_id": ids["<|endoftext|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            **(
                {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
                if qwen3
                else {"temperature": 0.000001, "repetition_penalty": 1.05}
            ),
        },
    )
    _write_processor(path, qwen3=qwen3)
    return VLM.from_pretrained(path)


def qwen2_5_vl_config(ids: dict[str, int], vocab_size: int) -> dict[str, Any]:
    """config.json of a Qwen2.5-VL: as published, the text model's keys lie at the top."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        # Heads of 32: vLLM takes no smaller ones on a CPU.
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128000,
        "max_window_layers": 4,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        # 16, 24, 24 of 64 there; here 16 frequencies.
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": 4,
            "hidden_act": "silu",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 4,
            "in_chans": 3,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            # Every eighth of 32 there.
            "fullatt_block_indexes": [1, 3],
        },
    }


def qwen3_vl_config(ids: dict[str, int], vocab_size: int, *, experts: bool) -> dict[str, Any]:
    """config.json of a Qwen3-VL; with experts, of the mixture of experts."""
    kind = "qwen3_vl_moe" if experts else "qwen3_vl"
    name = "Qwen3VLMoeForConditionalGeneration" if experts else "Qwen3VLForConditionalGeneration"
    mixture = {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    return {
        "architectures": [name],
        "model_type": kind,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": not experts,
        "text_config": {
            "model_type": f"{kind}_text",
            "vocab_size": vocab_size,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "attention_bias": False,
            "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-06,
            "rope_theta": 5000000,
            # 24, 20, 20 of 64 there; here 16 frequencies of heads of 32.
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [6, 5, 5]},
            "tie_word_embeddings": not experts,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            **(mixture if experts else {}),
        },
        "vision_config": {
            "model_type": kind,
            "depth": 4,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 4,
            "in_channels": 3,
            "out_hidden_size": 64,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
            # 5, 11, 17 of 24 there.
            "deepstack_visual_indexes": [0, 1, 2],
        },
    }


def _write_tokenizer(path: Path, vocab: dict[str, int], merges: Any, *, qwen3: bool) -> dict[str, int]:
    """Write the tokenizer and its chat templates; returns the ids of the special tokens."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    none: Any = None
    tokenizer: Any = Qwen2Tokenizer(vocab=vocab, merges=merges, unk_token=none, eos_token=none, pad_token=none)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    words = (*WORD_TOKENS, *(QWEN3_WORD_TOKENS if qwen3 else ()))
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in words])
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    tokenizer.chat_template = None
    tokenizer.save_pretrained(path)
    marks = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    published = {
        "added_tokens_decoder": {
            str(token_id): {"content": added.content, **marks, "special": added.special}
            for token_id, added in tokenizer.added_tokens_decoder.items()
        },
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "chat_template": QWEN3_VL_TEMPLATE if qwen3 else QWEN2_5_TEXT_TEMPLATE,
        "model_max_length": 262144 if qwen3 else 131072,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    _write_json(path / "tokenizer_config.json", published)
    _write_json(path / "chat_template.json", {"chat_template": QWEN3_VL_TEMPLATE if qwen3 else QWEN2_5_VL_TEMPLATE})
    return {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}


def _write_processor(path: Path, *, qwen3: bool) -> None:
    """The processor configurations, value for value as published."""
    common: dict[str, Any] = {"temporal_patch_size": 2, "merge_size": 2}
    if not qwen3:
        qwen2: dict[str, Any] = {
            **common,
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        }
        _write_json(path / "preprocessor_config.json", qwen2)
        return
    common |= {"patch_size": 16, "processor_class": "Qwen3VLProcessor"}
    half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    image = {"size": {"longest_edge": 16777216, "shortest_edge": 65536}, **common, **half}
    video = {"size": {"longest_edge": 25165824, "shortest_edge": 4096}, **common, **half}
    _write_json(path / "preprocessor_config.json", {**image, "image_processor_type": "Qwen2VLImageProcessorFast"})
    _write_json(path / "video_preprocessor_config.json", {**video, "video_processor_type": "Qwen3VLVideoProcessor"})


def _randomize(model: Any) -> None:
    """Weights at which every part matters: what is forgotten, or computed wrongly, shows in the logits."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)
            elif "pos_embed" in name:
                parameter.normal_(0, 1)
            elif "embed_tokens" in name:
                # Where it is tied to the output, 1 would leave next to no doubt about the next id.
                parameter.normal_(0, 0.25)
            else:
                fan_in = parameter.numel() // parameter.shape[0] if "experts" not in name else parameter.shape[-1]
                parameter.normal_(0, fan_in**-0.5)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build a checkpoint with random weights for tests and dry runs.")
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    vlm = build_random(arguments.path, arguments.family, seed=arguments.seed)
    print(f"{arguments.path}: {arguments.family}, {sum(p.numel() for p in vlm.model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
