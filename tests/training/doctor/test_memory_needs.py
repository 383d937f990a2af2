from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from training.config import EngineRecipe, LearnerRecipe
from training.doctor.machine import GIB, GPU, Machine
from training.doctor.memory import check_memory, learner_memory, parameter_shapes

SHAPES = {
    "model.visual.blocks.0.attn.q_proj.weight": (64, 64),
    "model.language_model.layers.0.self_attn.q_proj.weight": (64, 32),
    "model.language_model.layers.0.self_attn.q_proj.bias": (64,),
    "model.language_model.layers.0.mlp.other.weight": (16, 32),
}
N = 64 * 64 + 64 * 32 + 64 + 16 * 32


@pytest.fixture
def model(tmp_path):
    """Two files, as large checkpoints have them."""
    names = list(SHAPES)
    folder = tmp_path / "model"
    folder.mkdir()
    for k, part in enumerate((names[:2], names[2:])):
        save_file({name: np.zeros(SHAPES[name], np.float32) for name in part}, folder / f"model-{k}.safetensors")
    return str(folder)


def findings(recipe, **changes):
    machine = {"cpus": 8, "memory": GIB, "shared_memory": GIB, "gpus": ()} | changes
    return list(check_memory(recipe, Machine(**machine)))


def levels(recipe, **changes):
    return [finding.level for finding in findings(recipe, **changes)]


def test_shapes_are_read_from_headers(model, tmp_path):
    assert parameter_shapes(Path(model)) == SHAPES
    assert parameter_shapes(tmp_path / "nowhere") == {}


def test_adapters_are_counted_in_the_language_model_only(make_recipe):
    full = learner_memory(make_recipe(), SHAPES)
    assert full.total == 16 * N  # 4 bytes each for weights, gradients and two averages
    learner = LearnerRecipe(lora_rank=2, lora_targets=("q_proj",))
    adapters = learner_memory(make_recipe(learner=learner), SHAPES)
    assert adapters.total == 4 * (N + 2 * (64 + 32)) + 12 * 2 * (64 + 32)


def test_a_small_model_fits(make_recipe, model):
    [told] = findings(make_recipe(model=model))
    assert (told.level, "a learner holds 0.0 GiB" in told.text) == ("ok", True)


def test_a_model_that_is_elsewhere_is_not_estimated(make_recipe):
    [note] = findings(make_recipe(model="Qwen/Qwen2.5-VL-7B-Instruct"))
    assert (note.level, "memory not estimated" in note.text) == ("note", True)


def test_a_gpu_needs_room_beside_what_stays(make_recipe, model):
    recipe = make_recipe(model=model, num_gpus_per_learner=1.0, engine=EngineRecipe(kind="vllm"))
    need = 16 * N
    for memory, level in ((math.ceil(need / 0.8), []), (need, ["warning"]), (need - 1, ["error"])):
        assert levels(recipe, gpus=(GPU(name="small", memory=memory),)) == ["ok", *level]
    half = make_recipe(model=model, num_gpus_per_learner=0.5, engine=EngineRecipe(kind="vllm"))
    assert levels(half, gpus=(GPU(name="small", memory=2 * need),)) == ["ok", "warning"]


def test_main_memory_holds_learners_and_the_copies_of_env_runners(make_recipe, model):
    recipe = make_recipe(model=model, num_env_runners=3)
    need = 16 * N + 3 * 4 * N
    for memory, level in ((math.ceil(need / 0.8), []), (need, ["warning"]), (need - 1, ["error"])):
        assert levels(recipe, memory=memory) == ["ok", *level]
    # Env runners hold no model where vLLM does.
    vllm = make_recipe(model=model, num_env_runners=3, engine=EngineRecipe(kind="vllm"))
    assert levels(vllm, memory=need - 1) == ["ok"]
