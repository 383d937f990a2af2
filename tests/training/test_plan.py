"""What a plan counts, by hand and against models that are really built."""

from __future__ import annotations

import json
import math
import re

import pytest
from safetensors import safe_open

from pxr_agents.random_checkpoint import FAMILIES, build_random
from tests.training.conftest import ENV
from tests.training.published import write_config
from training.__main__ import main
from training.config import EngineRecipe, LearnerRecipe, PPORecipe
from training.costs import (
    PADDING,
    ModelSize,
    Workload,
    cache_bytes,
    learning_seconds,
    model_size,
    sampling_seconds,
    text_flops,
    vision_flops,
)
from training.devices import Device
from training.plan import predict


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


SIZE = ModelSize(
    shapes={"model.visual.a": (10, 6), "model.language_model.layers.0.q_proj.weight": (20, 47), "lm_head": (100, 4)},
    vocabulary=100, width=4, layers=2, queries=4, keys=2, text=50, patch=30, merger=40, merge=4, unit=28,
    vision_width=8, vision_layers=1, window_layers=3, window=16,
)  # fmt: skip
WORK = Workload(
    groups=4, group_size=2, text=10, image=6, turns=3, turn=5, reply=2, operations=1, result=3, teaching=0.5
)
DEVICE = Device(
    name="slide rule", memory=1e6, flops=1e3, bandwidth=1e2, cache=10.0, link=1e2, network=10.0, host=5.0, step=0.1,
    step_layer=0.01, row=0.001, call=0.2, call_layer=0.05, elementwise=1e-4, turn=0.5,
)  # fmt: skip


def recipe(learner=None, engine=None, **changes):
    given = {"model": "m", "env": ENV, "groups_per_iteration": 4, "group_size": 2, "max_tokens": 8} | changes
    return PPORecipe(**given, learner=LearnerRecipe(**(learner or {})), engine=EngineRecipe(**(engine or {})))


def test_operations_of_a_pass_by_hand():
    assert (WORK.episodes, WORK.actions, WORK.ids) == (8, 15, 10 + 6 + 15 + 2 * 2 + 3)
    assert text_flops(SIZE, 3, 7) == 3 * (2 * 50 + 4 * 2 * 4 * 7)
    # 24 patches, each with all of them in one layer and with 16 in three; six vision tokens.
    assert vision_flops(SIZE, 2, 6) == 2 * (24 * (60 + 4 * 8 * (24 + 3 * 16)) + 6 * 80)


def test_seconds_of_rollouts_by_hand():
    found = sampling_seconds(recipe(num_env_runners=2, max_envs_per_runner=2), SIZE, WORK, DEVICE)
    # Each env runner has 4 episodes, 2 at a time, 3 turns each, whose longest has 8 ids (as many as there may be).
    steps, written, context = 2 * 3 * 8, 4 * 15, 16 + (15 + 7) / 2
    products, weights = written * (100 + 2 * 4 * 100) / 1e3, steps * 4 * (20 * 47 + 400) / 1e2
    beside = written * (0.001 + 2 * 4 * 1e-4) + written * context * 2 * 2 * 2 * 4 / 10
    assert weights > products
    assert found["decode"] == pytest.approx(steps * (0.1 + 2 * 0.01) + weights + beside)
    read = (4 * 16 + 8 * 7) / 2
    flops = text_flops(SIZE, read, context / 2)
    assert found["prefill"] == pytest.approx(flops / 1e3 + read * 8 * 1e-4 + 2 * 3 * (0.2 + 2 * 0.05))
    assert found["vision"] == pytest.approx((4 * vision_flops(SIZE, 1, 6) + 8 * vision_flops(SIZE, 1, 3)) / 2 / 1e3)
    assert found["environment"] == 8 * 3 * 0.5 / 2


def test_seconds_of_an_update_by_hand():
    found = learning_seconds(recipe(num_minibatches=2, old_logprobs="learner"), SIZE, WORK, DEVICE)
    ids, images = 4 * WORK.ids * PADDING, 2 * vision_flops(SIZE, 1, 6) + 4 * vision_flops(SIZE, 1, 3)
    text, head, beside = text_flops(SIZE, ids, WORK.ids / 2), 2 * 4 * 15 * 4 * 100, ids * 8 * 1e-4 + 2 * 0.3
    assert found["old log-probabilities"] == pytest.approx((text + head + images) / 1e3 + beside)
    assert found["forward and backward"] == pytest.approx((3 * text + 4 * head + 3 * images) / 1e3 + 3 * beside)
    assert found["between learners"] == 0
    more = {"kind": "zero3", "gradient_checkpointing": True, "micro_batch_tokens": 64, "dtype": "bfloat16"}
    split = learning_seconds(recipe(more, num_learners=2, num_minibatches=1), SIZE, WORK, DEVICE)
    # Two episodes for each learner, each in a pass of its own: weights come three times, gradients go once.
    assert split["between learners"] == pytest.approx(2 * (3 * 2 + 4) * SIZE.parameters / 2 / 1e2)


def test_rollouts_beside_learners_take_as_long_as_the_slower_and_on_one_gpu_as_both():
    def seconds(**changes):
        given = {"num_env_runners": 1, "num_learners": 1, "checkpoint_every": 10**9} | changes
        return predict(recipe(engine={"kind": "vllm"}, **given), SIZE, WORK, DEVICE, 1)

    turns, ahead, shared = (
        seconds(), seconds(max_staleness=1), seconds(max_staleness=1, num_gpus_per_learner=0.5)
    )  # fmt: skip
    rest = turns.sync + turns.checkpoint
    assert turns.seconds == pytest.approx(turns.sampling + turns.learning + rest)
    assert ahead.seconds == pytest.approx(max(turns.sampling, turns.learning) + rest)
    assert shared.seconds == pytest.approx(turns.sampling + turns.learning - turns.sample["environment"] + rest)


def test_the_command(tmp_path, capsys):
    model = write_config(tmp_path, "7b")
    assert main(["plan", "ppo_7b_8gpu", f"model={model}", "--json", "--gpu", "h200", "--turn-ids", "300"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["gpus"], told["workload"]["turn"], told["fits"]) == (8, 300, True)
    assert told["seconds"] > max(told["changes"], key=lambda change: change[1])[1]
    assert main(["plan", "ppo_7b_8gpu", f"model={model}", "--gpus", "16"]) == 0
    assert "on 16 h100" in capsys.readouterr().out
    assert main(["plan", "ppo_7b_8gpu", f"model={model}", "--gpu", "tpu"]) == 2
    assert "expected one of h200, h100, a100, cpu" in capsys.readouterr().err
    assert main(["plan", "ppo_tiny", f"model={model}", "--gpu", "h100", "--gpus", "2"]) == 2
    assert main(["plan", "ppo_7b_8gpu", "model=/nowhere"]) == 2
    assert "got model='/nowhere'" in capsys.readouterr().err


def test_a_cpu_is_measured(make_recipe, capsys):
    """Half a million parameters: the order of magnitude, since other processes want this machine, too."""
    arguments = [f"model={make_recipe().model}", "groups_per_iteration=4", "num_env_runners=0", "num_minibatches=1"]
    assert main(["plan", "ppo_tiny", *arguments]) == 0
    seconds = float(re.search(r"not measured: ([\d.]+) s an iteration on one thread", capsys.readouterr().out)[1])
    assert 0.1 < seconds < 30
