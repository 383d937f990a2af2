from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pxr_agents.chat import Conversation
from pxr_agents.checkpoint import ARCHITECTURES, read_checkpoint
from pxr_agents.random_checkpoint import FAMILIES, PUBLISHED, build_random, main
from pxr_agents.vlm import VLM

families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def copy(family_path, tmp_path):
    """A function that copies the checkpoint of a family, to be changed."""

    def make(family="qwen2.5-vl"):
        return shutil.copytree(family_path(family), tmp_path / family)

    return make


def edit(path, **changes):
    """Change keys of a JSON file; None removes one."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: entry for key, entry in value.items() if entry is not None}))


@families
def test_reads_the_published_values(family, family_path):
    checkpoint = read_checkpoint(family_path(family))
    norm = checkpoint.norm
    if family == "qwen2.5-vl":
        assert (norm.image_unit, norm.min_pixels, norm.max_pixels) == (28, 3136, 12845056)
        assert norm.mean == (0.48145466, 0.4578275, 0.40821073)
    else:
        assert (norm.image_unit, norm.min_pixels, norm.max_pixels) == (32, 65536, 16777216)
        assert norm.mean == norm.std == (0.5, 0.5, 0.5)
    assert norm.temporal_patch_size == 2
    assert checkpoint.chat.image_unit == norm.image_unit
    # What the softmax masks is what an engine has to ban.
    logprobs = VLM.from_pretrained(family_path(family)).log_softmax(torch.zeros(64))
    assert sorted(checkpoint.banned_ids) == torch.isinf(logprobs).nonzero()[:, 0].tolist()


PUBLISHED_TEMPLATE = PUBLISHED["qwen2.5-vl"]["chat_template"]


@pytest.mark.parametrize("place", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"])
def test_finds_a_template_where_processors_look(copy, place):
    """Qwen2.5-VL's tokenizer_config.json holds the template of the text model; the processor's counts."""
    path = copy()
    of_text = json.loads((path / "tokenizer_config.json").read_text())["chat_template"]
    assert of_text == PUBLISHED["qwen2.5-vl"]["tokenizer_template"]
    assert read_checkpoint(path).chat.tokenizer.chat_template == PUBLISHED_TEMPLATE
    (path / "chat_template.json").unlink()
    if place.endswith(".jinja"):
        (path / place).write_text(PUBLISHED_TEMPLATE)
    elif place == "chat_template.json":
        (path / place).write_text(json.dumps({"chat_template": PUBLISHED_TEMPLATE}))
    else:
        edit(path / place, chat_template=PUBLISHED_TEMPLATE)
    assert read_checkpoint(path).chat.tokenizer.chat_template == PUBLISHED_TEMPLATE


def test_a_template_that_opens_a_thought_is_followed(copy):
    """Qwen3-VL Thinking: the model's turn begins in a thought, in every turn of the conversation alike."""
    path = copy("qwen3-vl")
    template = json.loads((path / "chat_template.json").read_text())["chat_template"]
    (path / "chat_template.jinja").write_text(template.replace("assistant\\n'", "assistant\\n<think>\\n'"))
    chat = read_checkpoint(path).chat
    conversation = Conversation()
    chat.prompt(conversation, "S", {"text": "Q", "images": ()})
    conversation.append_turn((*chat.encode_text("a</think>b"), chat.stop_id), train=True)
    chat.reply(conversation, {"text": "R", "images": ()})
    assert chat.tokenizer.decode(conversation.ids) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n<think>\na</think>b"
        "<|im_end|>\n<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


def test_bans_what_is_marked_special_though_not_listed(copy):
    path = copy("qwen3-vl")
    before = read_checkpoint(path).chat.banned_ids
    edit(path / "tokenizer_config.json", additional_special_tokens=None)
    assert read_checkpoint(path).chat.banned_ids == before


@families
def test_reads_what_transformers_5_writes_for_a_processor(copy, family):
    """One processor_config.json with the image processor in it, and no preprocessor_config.json."""
    path = copy(family)
    expected = read_checkpoint(path).norm
    processor = json.loads((path / "preprocessor_config.json").read_text())
    pixels = {"shortest_edge": expected.min_pixels, "longest_edge": expected.max_pixels}
    processor = {**processor, "min_pixels": None, "max_pixels": None, "size": pixels}
    (path / "preprocessor_config.json").unlink()
    (path / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    checkpoint = read_checkpoint(path)
    assert checkpoint.norm == expected
    assert "processor_config.json" in checkpoint.processor_files


def test_pixel_limits_by_their_older_name(copy):
    path = copy()
    edit(
        path / "preprocessor_config.json",
        min_pixels=None,
        max_pixels=None,
        size={"min_pixels": 6272, "max_pixels": 784000},
    )
    norm = read_checkpoint(path).norm
    assert (norm.min_pixels, norm.max_pixels) == (6272, 784000)


@families
def test_a_saved_copy_is_the_same_checkpoint(family_vlm, family_path, family, tmp_path):
    family_vlm(family).save(tmp_path / "copy")
    first, again = VLM.from_pretrained(family_path(family)), VLM.from_pretrained(tmp_path / "copy")
    assert again.norm == first.norm
    assert again.chat.banned_ids == first.chat.banned_ids
    assert again.chat.tokenizer.chat_template == first.chat.tokenizer.chat_template
    assert again.model.generation_config.eos_token_id == first.model.generation_config.eos_token_id
    before, after = first.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def without(name):
    return lambda path: (path / name).unlink()


def changed(name, **changes):
    return lambda path: edit(path / name, **changes)


def written(name, text):
    return lambda path: (path / name).write_text(text)


def without_template(path):
    (path / "chat_template.json").unlink()
    edit(path / "tokenizer_config.json", chat_template=None)


def without_parameter(path):
    """transformers would draw it at random and go on."""
    weights = load_file(path / "model.safetensors")
    del weights["visual.merger.mlp.0.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


SHARDS = {"lm_head.weight": "model-00002-of-00002.safetensors", "model.norm.weight": "model.safetensors"}
PROCESSOR = "preprocessor_config.json"
#: What is wrong with a directory, and what the message says.
WRONG = [
    (without("config.json"), r"no config\.json"),
    (without("tokenizer.json"), r"no tokenizer; expected tokenizer\.json"),
    (without(PROCESSOR), r"no preprocessor_config\.json"),
    (without("model.safetensors"), r"no model\.safetensors; expected 1 files of weights"),
    (without_template, r"no chat template; expected chat_template\.jinja"),
    (without("chat_template.json"), r"chat template failed on a conversation with two images.*text model"),
    (
        written("model.safetensors.index.json", json.dumps({"weight_map": SHARDS})),
        r"no model-00002-of-00002\.safetensors; expected 2 files",
    ),
    (written("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "pointer of Git LFS.*git lfs pull"),
    (without_parameter, r"lack 1 parameters of a Qwen2\.5-VL, model\.visual\.merger\.mlp\.0\.weight"),
    *(
        (changed("config.json", model_type=kind), f"is a {kind}; expected one of {', '.join(ARCHITECTURES)}")
        for kind in ("qwen2", "qwen2_vl", "llava")
    ),
    *(
        (changed(PROCESSOR, **{key: value}), f"has {key}={value}; expected")
        for key, value in (("patch_size", 16), ("merge_size", 1), ("temporal_patch_size", 1), ("do_normalize", False))
    ),
    (
        changed("config.json", image_token_id=7),
        r"<\|image_pad\|> is id \d+; its config\.json expects .* image_token_id 7",
    ),
    (written(PROCESSOR, "{"), r"preprocessor_config\.json is no JSON object"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_what_is_wrong_with_a_directory_is_named(copy, spoil, message):
    path = copy()
    spoil(path)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        VLM.from_pretrained(path)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty Hugging Face cache, and no hub; returns the cache."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_hub_name_is_looked_up_in_the_cache(offline, family_path):
    """Qwen2.5-VL has no video_preprocessor_config.json: what is not in the cache is not asked for."""
    repository = offline / "models--Qwen--Qwen2.5-VL-7B-Instruct"
    shutil.copytree(family_path("qwen2.5-vl"), repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    vlm = VLM.from_pretrained("Qwen/Qwen2.5-VL-7B-Instruct")
    assert vlm.norm == read_checkpoint(family_path("qwen2.5-vl")).norm
    assert vlm.model.config.model_type == "qwen2_5_vl"


def test_a_hub_name_that_is_not_cached_says_what_to_do(offline):
    with pytest.raises(
        FileNotFoundError,
        match=r"got model='Qwen/Qwen3-VL-8B-Instruct', .* not in the Hugging Face cache.*"
        r"`hf download Qwen/Qwen3-VL-8B-Instruct`; then set HF_HOME",
    ):
        read_checkpoint("Qwen/Qwen3-VL-8B-Instruct")


@pytest.mark.parametrize("model", ["/nowhere", "a/b/c", "no such thing", ""])
def test_what_is_no_name_is_not_looked_up(model):
    with pytest.raises(FileNotFoundError, match=r", expected the directory of a Qwen2\.5-VL.*it is no hub name"):
        read_checkpoint(model)


def test_equal_seeds_build_equal_checkpoints(family_path, tmp_path):
    build_random(tmp_path / "again", "qwen3-vl")
    build_random(tmp_path / "other", "qwen3-vl", seed=1)
    files = [
        (path / "model.safetensors").read_bytes()
        for path in (family_path("qwen3-vl"), tmp_path / "again", tmp_path / "other")
    ]
    assert files[0] == files[1] != files[2]


def test_an_unknown_family_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"got family='qwen4-vl'; expected one of qwen2\.5-vl, qwen3-vl"):
        build_random(tmp_path, "qwen4-vl")


def test_the_command_line_builds_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["random_checkpoint", "qwen3-vl-moe", str(tmp_path / "model"), "--seed", "3"])
    main()
    assert "qwen3-vl-moe, 1,6" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "model").family == "Qwen3-VL, mixture of experts"


def test_experts_are_saved_as_published(tmp_path):
    """Published: experts.gate_up_proj (experts, hidden, 2 x width) and down_proj (experts, width, hidden)."""
    vlm = build_random(tmp_path / "built", "qwen3-vl-moe")
    vlm.save(tmp_path / "saved")
    for folder in ("built", "saved"):
        files, memory = load_file(tmp_path / folder / "model.safetensors"), vlm.model.state_dict()
        assert files.keys() == memory.keys()
        for name, tensor in files.items():
            expected = memory[name]
            if name.endswith("gate_up_proj"):
                assert tensor.shape == (8, 64, 256)
                expected = torch.stack([expert.T for expert in expected])
            elif name.endswith("experts.down_proj"):
                assert tensor.shape == (8, 128, 64)
                expected = torch.stack([expert.T for expert in expected])
            assert torch.equal(tensor, expected), name
    read = VLM.from_pretrained(tmp_path / "saved").model.state_dict()
    assert all(torch.equal(tensor, read[name]) for name, tensor in vlm.model.state_dict().items())
