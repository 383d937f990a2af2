"""What a plan counts, by hand and against models that are really built."""

from __future__ import annotations

import json
import math

import pytest
from safetensors import safe_open

from pxr_agents.random_checkpoint import FAMILIES, build_random
from tests.training.published import write_config
from training.costs import cache_bytes, model_size


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_of_a_configuration_are_those_of_the_weights(family, tmp_path):
    build_random(tmp_path, family)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        sizes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    size = model_size(str(tmp_path))
    assert size.parameters == sum(math.prod(each) for each in sizes)


def test_the_published_models_by_hand(tmp_path):
    size = model_size(write_config(tmp_path, "7b"))
    assert size.parameters == 8_292_166_656
    assert (size.width, size.layers, size.queries, size.keys, size.vocabulary) == (3584, 28, 3584, 512, 152_064)
    attention, mlp = 2 * 3584**2 + 2 * 512 * 3584, 3 * 3584 * 18944
    assert size.text == 28 * (attention + mlp)
    assert size.patch == 32 * (4 * 1280**2 + 3 * 1280 * 3420) + 3 * 2 * 14**2 * 1280
    assert size.merger == 5120**2 + 5120 * 3584
    assert (size.merge, size.unit, size.vision_layers, size.window_layers, size.window) == (4, 28, 4, 28, 64)
    assert cache_bytes(size, "bfloat16") == 57_344
    assert model_size(write_config(tmp_path, "3b")).parameters == 3_754_622_976


def test_an_id_goes_through_few_experts(tmp_path):
    build_random(tmp_path, "qwen3-vl-moe")
    config = json.loads((tmp_path / "config.json").read_text())["text_config"]
    width, inner, layers = config["hidden_size"], config["moe_intermediate_size"], config["num_hidden_layers"]
    experts = config["num_experts_per_tok"] * 3 * width * inner + config["num_experts"] * width
    heads = config["head_dim"] * (2 * config["num_attention_heads"] + 2 * config["num_key_value_heads"])
    assert model_size(str(tmp_path)).text == layers * (experts + heads * width)


def test_another_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="is a llama; expected one of qwen2_5_vl"):
        model_size(str(tmp_path))
