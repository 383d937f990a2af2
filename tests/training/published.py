"""Configurations of Qwen2.5-VL at their published sizes, without weights."""

from __future__ import annotations

import json
from pathlib import Path

from pxr_agents.random_checkpoint import PUBLISHED

#: https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/config.json, and that of the 7B.
QWEN = {
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
           "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152_064, "tie_word_embeddings": False},
}  # fmt: skip


def write_config(folder: Path, name: str) -> str:
    """Write config.json of a size; returns the folder."""
    tables = PUBLISHED["qwen2.5-vl"]["config.json"]
    vision = tables["vision_config"] | {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
        "out_hidden_size": QWEN[name]["hidden_size"], "fullatt_block_indexes": [7, 15, 23, 31],
    }  # fmt: skip
    rope = {"type": "mrope", "mrope_section": [16, 24, 24]}
    # Names of ids stand for numbers that nobody asks for here.
    plain = {key: value for key, value in tables.items() if not isinstance(value, str) or not value.startswith("<|")}
    (folder / "config.json").write_text(
        json.dumps(plain | QWEN[name] | {"vision_config": vision, "rope_scaling": rope, "sliding_window": 32768})
    )
    return str(folder)
