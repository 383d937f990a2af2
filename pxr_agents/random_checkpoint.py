"""Checkpoints of the published architectures with random weights: all is true but widths, depths and vocabulary.

Patches and their limits, window and full attention, deepstack, M-RoPE, special tokens, the structure of the chat
templates and the layout of the files are those of `Qwen/Qwen2.5-VL-7B-Instruct`, `Qwen/Qwen3-VL-4B-Instruct` and
`Qwen/Qwen3-VL-30B-A3B-Instruct`. They know nothing and are for tests and dry runs; the quick start learns with
`pxr_agents.tiny`. What was published is written down in `random_checkpoint.toml`.

    python -m pxr_agents.random_checkpoint qwen2.5-vl runs/random
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pxr_agents.checkpoint import save_weights
from pxr_agents.tiny import RESPONSE_TEMPLATE, learn_bpe
from pxr_agents.vlm import VLM

PUBLISHED: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
"""Family -> its templates, tokens and files."""
PUBLISHED["qwen2.5-vl"]["chat_template"] += PUBLISHED["qwen3-vl"]["chat_template"]
FAMILIES = tuple(PUBLISHED)

#: Special tokens in the order of the published vocabularies (151643 to 151656 there).
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)

_TEXTS = (
    PUBLISHED["qwen3-vl"]["chat_template"],
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

    The merges of the tokenizer are learned from `texts`, if `bpe` has no vocabulary and merges (the published ones for
    instance); it encodes any text. ValueError for an unknown family.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    if family not in FAMILIES:
        raise ValueError(f"got family={family!r}; expected one of {', '.join(FAMILIES)}")
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    published = PUBLISHED[family]
    if family == "qwen3-vl-moe":
        published = _merged(PUBLISHED["qwen3-vl"], published)
    vocab, merges = bpe or learn_bpe(texts, n_merges=256)
    ids = _write_tokenizer(path, vocab, merges, published)
    # As published, the vocabulary of the model is larger than that of the tokenizer.
    numbers = ids | {"VOCABULARY": (max(ids.values()) // 64 + 2) * 64}
    files = {name: _numbered(value, numbers) for name, value in published.items() if name.endswith(".json")}
    _write_json(path / "config.json", files["config.json"])
    torch.manual_seed(seed)
    model: Any = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(path))
    _randomize(model)
    save_weights(model, path)
    # Saving rewrote the configuration in the layout of the installed transformers.
    for name, value in files.items():
        _write_json(path / name, value)
    return VLM.from_pretrained(path)


def _merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    tables = {name: _merged(table.get(name, {}), value) for name, value in changes.items() if isinstance(value, dict)}
    return {**table, **changes, **tables}


def _numbered(value: Any, numbers: Mapping[str, int]) -> Any:
    """A JSON value with numbers in place of their names."""
    if isinstance(value, dict):
        return {name: _numbered(part, numbers) for name, part in value.items()}
    if isinstance(value, list):
        return [_numbered(part, numbers) for part in value]
    return numbers.get(value, value) if isinstance(value, str) else value


def _write_tokenizer(path: Path, vocab: dict[str, int], merges: Any, published: Mapping[str, Any]) -> dict[str, int]:
    """Write the tokenizer and its chat templates; returns the ids of the special tokens."""
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    none: Any = None
    tokenizer: Any = Qwen2Tokenizer(vocab=vocab, merges=merges, unk_token=none, eos_token=none, pad_token=none)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in published["word_tokens"]])
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    tokenizer.chat_template = None
    tokenizer.save_pretrained(path)
    marks = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    files = {
        "added_tokens_decoder": {
            str(token_id): {"content": added.content, **marks, "special": added.special}
            for token_id, added in tokenizer.added_tokens_decoder.items()
        },
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "chat_template": published.get("tokenizer_template", published["chat_template"]),
        "response_template": RESPONSE_TEMPLATE,
        "model_max_length": published["model_max_length"],
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    _write_json(path / "tokenizer_config.json", files)
    _write_json(path / "chat_template.json", {"chat_template": published["chat_template"]})
    return {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}


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
