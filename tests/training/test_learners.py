"""Adapters: what is trained, what the model is without them, what leaves it, merged and as peft's; learning rates."""

from __future__ import annotations

import copy

import numpy as np
import pytest

pytest.importorskip("peft", reason="peft is not installed: pip install pxr-gym[lora]")

import peft
import torch

from pxr_agents.vlm import VLM
from training.config import LearnerRecipe, SFTRecipe
from training.learners import (
    adapter_weights,
    adapters_off,
    add_adapters,
    export_model,
    has_adapters,
    lr_factor,
    plain_weights,
)

RANK = 4
LORA = LearnerRecipe(lora_rank=RANK, lora_alpha=16.0, lora_targets=("q_proj", "down_proj"))


@pytest.fixture
def adapted(tiny_path):
    """A model with adapters that do something, and the model as it was."""
    vlm, before = VLM.from_pretrained(tiny_path), VLM.from_pretrained(tiny_path)
    add_adapters(vlm.model, LORA, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in vlm.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    return vlm, before


@torch.no_grad()
def logits(model):
    return model(input_ids=torch.arange(8, 24)[None]).logits


def test_only_adapters_of_the_language_model_are_trained(tiny_path):
    vlm, before = VLM.from_pretrained(tiny_path), VLM.from_pretrained(tiny_path)
    add_adapters(vlm.model, LORA)
    trained = {name: parameter for name, parameter in vlm.model.named_parameters() if parameter.requires_grad}
    # Three layers; q_proj is 96 -> 96 and down_proj 256 -> 96, each with two matrices of rank 4.
    assert sum(parameter.numel() for parameter in trained.values()) == 3 * RANK * ((96 + 96) + (256 + 96))
    assert all(".language_model." in name and ".lora_" in name for name in trained)
    assert has_adapters(vlm.model)
    assert not has_adapters(before.model)
    assert torch.equal(logits(vlm.model), logits(before.model))


def test_equal_seeds_give_equal_adapters_and_leave_the_global_generator_alone(tiny_path):
    models = [VLM.from_pretrained(tiny_path).model for _ in range(3)]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    for model, seed in zip(models, (0, 0, 1), strict=True):
        add_adapters(model, LORA, seed=seed)
    assert torch.equal(torch.rand(1), expected)
    first, second, third = (dict(adapter_weights(model)) for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_plain_weights_are_those_of_the_product(adapted):
    vlm, before = adapted
    plain, state = dict(plain_weights(vlm.model)), before.model.state_dict()
    assert list(plain) == list(state)
    prefix = "model.language_model.layers.1.self_attn.q_proj"
    layer = vlm.model.get_submodule(prefix)
    product = layer.lora_B["default"].weight.detach().numpy() @ layer.lora_A["default"].weight.detach().numpy()
    expected = state[f"{prefix}.weight"].numpy() + 4.0 * product
    assert np.allclose(plain[f"{prefix}.weight"].numpy(), expected, atol=1e-6)
    changed = {name for name in state if not torch.equal(plain[name], state[name])}
    assert changed == {
        f"model.language_model.layers.{k}.{layer}.weight"
        for k in range(3)
        for layer in ("self_attn.q_proj", "mlp.down_proj")
    }
    before.model.load_state_dict(plain)
    assert torch.allclose(logits(before.model), logits(vlm.model), atol=1e-5)


def test_without_adapters_it_is_the_model_before_training(adapted):
    vlm, before = adapted
    with_adapters = logits(vlm.model)
    with adapters_off(vlm.model):
        assert torch.equal(logits(vlm.model), logits(before.model))
    assert torch.equal(logits(vlm.model), with_adapters)
    assert not torch.allclose(with_adapters, logits(before.model), atol=1e-3)
    assert {name for name, p in vlm.model.named_parameters() if p.requires_grad} == {
        name for name, _ in vlm.model.named_parameters() if ".lora_" in name
    }


def test_peft_loads_what_was_saved(adapted, tiny_path, tmp_path):
    vlm, before = adapted
    recipe = SFTRecipe(model=str(tiny_path), traces="none", learner=LORA)
    export_model(recipe, dict(plain_weights(vlm.model)), dict(adapter_weights(vlm.model)), tmp_path)
    config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    assert (config.base_model_name_or_path, config.inference_mode, config.lora_alpha) == (str(tiny_path), True, 16.0)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(before.model), tmp_path / "adapter")
    merged = VLM.from_pretrained(tmp_path)
    assert torch.allclose(logits(merged.model), logits(vlm.model), atol=1e-5)
    assert torch.allclose(logits(loaded), logits(vlm.model), atol=1e-6)
    assert not torch.allclose(logits(loaded), logits(before.model), atol=1e-3)


def test_bfloat16_weights_are_rounded_once(adapted):
    vlm, _ = adapted
    exact = dict(plain_weights(vlm.model.to(torch.bfloat16).float()))
    rounded = dict(plain_weights(vlm.model.to(torch.bfloat16)))
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    assert rounded[name].dtype == torch.bfloat16
    assert torch.equal(rounded[name], exact[name].bfloat16())


def test_no_such_layer(tiny_path):
    with pytest.raises(ValueError, match=r"'q_porj'.*q_proj"):
        add_adapters(VLM.from_pretrained(tiny_path).model, LearnerRecipe(lora_rank=1, lora_targets=("q_porj",)))


def test_rates_go_up_over_the_warm_up_and_down_over_the_last_share():
    factors = [lr_factor(step, 10, warmup=4, decay_fraction=0.5) for step in range(10)]
    assert factors == [0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    assert {lr_factor(step, 5, warmup=0, decay_fraction=0.0) for step in range(5)} == {1.0}
