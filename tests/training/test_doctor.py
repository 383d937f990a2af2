"""What the doctor finds in recipes: processes, disk, model and environment, memory by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pxr_agents.random_checkpoint import build_random
from tests.training.conftest import ENV
from tests.training.published import write_config
from tests.training.test_machine import H100, Package, bad, machine
from training.__main__ import main
from training.config import EngineRecipe, EnvRecipe, LearnerRecipe, PPORecipe, RecipeError, SFTRecipe, TracesRecipe
from training.costs import estimate, learner_memory, transient
from training.doctor import (
    check_memory,
    check_recipe,
    check_start,
    load_any,
    parts_of,
    processes,
)  # fmt: skip
from training.machine import GIB, GPU

ROOT = Path(__file__).resolve().parents[2]
TORCH = {"torch": Package("2.13.0"), "transformers": Package("5.19.0"), "wandb": Package("1")}


@pytest.fixture
def speaker(tiny_path):
    """Nothing is said here: any checkpoint will do."""
    return tiny_path


def problems(recipe, packages=TORCH, **changes):
    return bad(check_recipe(recipe, machine(**changes), packages))


def on_gpus(make_recipe, learners, engines):
    engine = EngineRecipe(kind="vllm", num_engines=engines, num_gpus_per_engine=1.0)
    return make_recipe(num_env_runners=1, num_learners=learners, num_gpus_per_learner=1.0, engine=engine)


def test_a_recipe_that_fits_has_no_problem(make_recipe):
    found = list(check_recipe(make_recipe(num_env_runners=2), machine(), TORCH))
    assert bad(found) == []
    assert "1 driver, 2 env runners (0.25 CPUs, 0 GPUs each)" in [finding.text for finding in found]


def test_gpus_and_processes_are_counted(make_recipe):
    recipe = on_gpus(make_recipe, learners=4, engines=12)
    counted = {"learners": (4, 0.25, 1.0), "env runners": (1, 0.25, 0.0), "vLLM engines": (12, 1.0, 1.0)}
    assert processes(recipe) == counted
    [(level, text), *_] = problems(recipe, cpus=64)
    assert (level, "needs 16 GPUs; this machine has 0" in text) == ("error", True)
    [(level, text)] = problems(recipe, cpus=64, gpus=(H100,) * 8)
    assert (level, "needs 16 GPUs (2 nodes like this one); this machine has 8" in text) == ("warning", True)
    assert problems(recipe, cpus=64, gpus=(H100,) * 16) == []
    assert problems(make_recipe(num_env_runners=8), cpus=4) == [("warning", "9 processes share 4 CPUs.")]
    assert problems(make_recipe(num_env_runners=7), cpus=4) == []


FLASH = {"dtype": "bfloat16", "attn_implementation": "flash_attention_2"}


@pytest.mark.parametrize(
    ("gpus", "packages", "learner", "level", "text"),
    [
        (0, {}, {}, "ok", "sdpa (torch's own, without FlashAttention)"),
        (1, {}, {"dtype": "bfloat16"}, "ok", "sdpa (torch's own, with FlashAttention)"),
        (1, {}, {"attn_implementation": "eager"}, "ok", "eager"),
        (1, {"kernels": Package("1")}, FLASH, "ok", "flash_attention_2, vision towers by torch's own, with Flash"),
        (1, {}, FLASH, "error", "neither flash-attn nor kernels"),
        (0, {"flash-attn": Package("2")}, FLASH, "error", "needs a GPU"),
    ],
)
def test_which_attention_learners_take(make_recipe, gpus, packages, learner, level, text):
    recipe = make_recipe(num_gpus_per_learner=gpus, learner=LearnerRecipe(**learner))
    found = check_recipe(recipe, machine(gpus=(H100,) * gpus), TORCH | packages)
    assert any(each.level == level and text in each.text for each in found)


def test_a_directory_that_will_not_do_is_found(make_recipe, tmp_path, monkeypatch):
    (tmp_path / "done" / "model").mkdir(parents=True)
    [(level, text)] = problems(make_recipe(out=str(tmp_path / "done")))
    assert (level, "holds a finished run" in text) == ("error", True)
    [(level, text)] = problems(make_recipe(out="runs/relative"), environment={"RAY_ADDRESS": "auto"})
    assert (level, "out=runs/relative is relative" in text) == ("warning", True)
    monkeypatch.setattr("training.doctor.free_disk", lambda path: 10 * GIB)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(GIB)  # sparse: takes no disk
    # Three checkpoints of 6 GiB each.
    texts = [text for _, text in problems(make_recipe(model=str(tmp_path)))]
    assert any("10 GiB are free" in text and "about 18 GiB" in text for text in texts)


def test_what_cannot_be_opened_is_a_finding(make_recipe, speaker, tmp_path):
    [(level, text)] = problems(make_recipe(model="/nowhere"))
    assert level == "error"
    assert text.startswith("FileNotFoundError: got model='/nowhere'")
    # Without transformers nothing can be opened; that is said elsewhere.
    assert problems(make_recipe(model="/nowhere"), {}) == []
    sft = SFTRecipe(model=str(speaker), traces=str(tmp_path / "absent.jsonl"), out=str(tmp_path / "run"))
    [(level, text)] = problems(sft)
    assert (level, "absent.jsonl does not exist" in text) == ("error", True)
    assert problems(TracesRecipe(env=ENV, out=str(tmp_path / "traces.jsonl")), {}) == []


@pytest.mark.parametrize(
    ("environment", "packages", "text"),
    [
        ({"WANDB_API_KEY": "secret"}, TORCH, "wandb logs online"),
        ({"WANDB_API_KEY": "secret", "WANDB_MODE": "disabled"}, TORCH, "wandb is in mode disabled"),
        ({}, TORCH, "wandb logs offline"),
        ({"WANDB_API_KEY": "secret"}, {}, "wandb is not installed"),
    ],
)
def test_where_wandb_logs_is_told_but_not_the_key(make_recipe, environment, packages, text):
    found = list(check_recipe(make_recipe(wandb=True), machine(environment=environment), packages))
    assert any(finding.level == "note" and finding.text.startswith(text) for finding in found)
    assert not any("secret" in finding.text for finding in found)


def test_parts_and_kind_follow_from_the_recipe(make_recipe):
    assert parts_of(None) == parts_of(make_recipe()) == {"environments", "training", "ray"}
    assert parts_of(on_gpus(make_recipe, 1, 1)) == {"environments", "training", "ray", "vllm"}
    assert parts_of(SFTRecipe(model="m", traces="t")) == {"environments", "training"}
    learner = LearnerRecipe(kind="zero3", lora_rank=8)
    many = SFTRecipe(model="m", traces="t", num_learners=2, learner=learner)
    assert parts_of(many) == {"environments", "training", "ray", "deepspeed", "lora"}
    assert processes(many) == {"learners": (2, 1.0, 0.0)}
    assert parts_of(TracesRecipe(env=ENV)) == {"environments"}
    for name, kind in {"ppo_tiny": PPORecipe, "sft_tiny": SFTRecipe, "traces_tiny": TracesRecipe}.items():
        assert type(load_any(name)) is kind
    assert load_any("ppo_tiny", ["seed=5"]).seed == 5
    with pytest.raises(RecipeError, match="there is no such recipe"):
        load_any("pppo_tiny")


@pytest.mark.parametrize("model", ["/nowhere", "no such thing", ""])
def test_a_missing_model_is_named_before_a_start(make_recipe, model):
    with pytest.raises(FileNotFoundError, match=r"got model='.*', expected the directory of a Qwen"):
        check_start(make_recipe(model=model))


def test_a_model_that_cannot_be_trained_is_named_before_a_start(make_recipe, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ValueError, match="is a qwen2; expected one of qwen2_5_vl"):
        check_start(make_recipe(model=str(tmp_path)))
    build_random(tmp_path / "model", "qwen3-vl-moe")
    recipe = make_recipe(model=str(tmp_path / "model"), engine=EngineRecipe(kind="vllm"))
    with pytest.raises(ValueError, match=r'mixture of experts.*engine\.kind="transformers"'):
        check_start(recipe)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size_multiple": 32}, r"96x96 pixels.*multiples of 28. Set env.kwargs.size_multiple=28"),
        ({"num_samples": 3}, "got groups_per_iteration=4 for 3 samples"),
        ({"coordinates": "metres"}, 'got coordinates="metres"; expected one of unit, pixel, permille'),
    ],
)
def test_an_environment_that_does_not_fit_is_named_before_a_start(make_recipe, kwargs, message):
    with pytest.raises(ValueError, match=message):
        check_start(make_recipe(env=EnvRecipe(id=ENV.id, kwargs=kwargs)))


def test_rows_that_are_left_out_are_counted(make_recipe, tmp_path):
    Image.new("RGB", (84, 84)).save(tmp_path / "a.png")
    good = '{"id": "%d", "question": "What?", "images": ["a.png"], "answers": ["x"]}'
    rows = [good % number for number in range(4)] + ['{"id": "no question"}']
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    kwargs = {"data": str(tmp_path), "skip_bad_rows": True, "min_pixels": 784, "max_pixels": 84 * 84}
    recipe = make_recipe(env=EnvRecipe(id="pxr_env:pxr/JSONL-v0", kwargs=kwargs))
    with pytest.warns(UserWarning, match=r'1 bad rows of .* are left out, 4 are used: line 5 \(id "no question"\)'):
        check_start(recipe)


def learners(kind="ddp", *, num_learners=4, kl_coef=0.0, **learner):
    """A recipe by its learners; estimates are for a model of 1000 parameters."""
    return PPORecipe(
        model="m", env=ENV, num_learners=num_learners, groups_per_iteration=256, kl_coef=kl_coef,
        learner=LearnerRecipe(kind=kind, **learner),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "dtype", "weights", "gradients", "optimizer"),
    [
        ("ddp", "float32", 4000, 8000, 8000),
        ("ddp", "bfloat16", 4000, 8000, 8000),
        ("zero2", "float32", 4000, 1000, 3000),
        ("zero2", "bfloat16", 2000, 1000, 3000),
        ("zero3", "float32", 1000, 1000, 3000),
        ("zero3", "bfloat16", 500, 1000, 3000),
    ],
)
def test_memory_that_stays(kind, dtype, weights, gradients, optimizer):
    memory = estimate(learners(kind, dtype=dtype), 1000)
    assert (memory.weights, memory.gradients, memory.optimizer) == (weights, gradients, optimizer)
    assert (memory.total, memory.host) == (weights + gradients + optimizer, 0)
    # One DDP learner holds gradients once.
    assert [estimate(learners(num_learners=n), 1000).gradients for n in (0, 1)] == [4000, 4000]


def test_the_table_of_the_paper():
    """Figure 1: 7.5B parameters on 64 devices. Ours accumulates gradients in 4 bytes instead of 2."""
    p, n = 7.5e9, 64
    for kind, paper, tolerance in (("zero2", 16.6e9, 0.01), ("zero3", 1.9e9, 0.02)):
        total = estimate(learners(kind, num_learners=n, dtype="bfloat16"), int(p)).total
        assert total - 2 * p / n == pytest.approx(paper, rel=tolerance)


def test_offloading_moves_what_is_stepped_and_then_the_weights():
    bfloat16 = {"dtype": "bfloat16", "offload_optimizer": True}
    memory = estimate(learners("zero3", **bfloat16), 1000)
    assert (memory.host, memory.total) == (4000, 4500)
    memory = estimate(learners("zero3", **bfloat16, offload_parameters=True), 1000)
    assert (memory.host, memory.total) == (4500, 4500)


def test_adapters_train_little_and_are_their_own_reference():
    memory = estimate(learners("zero2", num_learners=1, dtype="bfloat16", lora_rank=8, kl_coef=0.1), 1000, 10)
    assert (memory.weights, memory.gradients, memory.optimizer, memory.reference) == (2000, 40, 120, 0)
    assert estimate(learners(kl_coef=0.1), 1000).reference == 4000
    with pytest.raises(ValueError, match="n_trainable is 1001 with n_parameters 1000"):
        estimate(learners(), 1000, 1001)


def test_memory_that_comes_and_goes():
    sizes = {"n_tokens": 10, "n_actions": 2, "width": 4, "n_layers": 3, "n_vocabulary": 100}
    logits, inside = 2 * 100 * 20, 34 * 4 * 10
    assert transient(learners("zero2", dtype="bfloat16"), **sizes) == logits + 3 * inside
    checkpointed = learners("zero2", dtype="bfloat16", gradient_checkpointing=True)
    assert transient(checkpointed, **sizes) == logits + inside + 10 * 4 * 3 * 2
    assert transient(learners("zero3", dtype="bfloat16"), **sizes, largest_layer=50) == logits + 3 * inside + 200
    assert transient(learners(), **sizes) == logits + 2 * 3 * inside
    large = sizes | {"n_actions": 4096, "n_vocabulary": 151_936}
    assert transient(learners("zero2", dtype="bfloat16"), **large) == 20 * 2**24 + 3 * inside


SHAPES = {
    "model.visual.blocks.0.attn.q_proj.weight": (64, 64),
    "model.language_model.layers.0.self_attn.q_proj.weight": (64, 32),
    "model.language_model.layers.0.self_attn.q_proj.bias": (64,),
    "model.language_model.layers.0.mlp.other.weight": (16, 32),
}
N = 64 * 64 + 64 * 32 + 64 + 16 * 32
# Of the 7B, 8.29 billion.
MANY = 8_292_166_656


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("7b"), "7b")


def levels(model, here, **changes):
    recipe = PPORecipe(model=model, env=ENV, **changes)
    return [finding.level for finding in check_memory(recipe, machine(**{"memory": 500 * GIB, **here}))]


def test_adapters_are_counted_in_the_language_model_only_and_a_model_by_its_configuration(model):
    assert learner_memory(learners(num_learners=1), SHAPES).total == 16 * N  # weights, gradients and two averages
    adapters = learner_memory(learners(num_learners=1, lora_rank=2, lora_targets=("q_proj",)), SHAPES)
    assert adapters.total == 4 * (N + 2 * (64 + 32)) + 12 * 2 * (64 + 32)
    frozen = learner_memory(learners(num_learners=1, freeze_vision=True), SHAPES)
    assert frozen.total == 4 * N + 12 * (N - 64 * 64)
    [told] = check_memory(SFTRecipe(model=model, traces="t"), machine(memory=200 * GIB))
    assert (told.level, "8.29 billion parameters; a learner holds 123.6 GiB" in told.text) == ("ok", True)
    [told] = check_memory(PPORecipe(model="/nowhere", env=ENV), machine())
    assert (told.level, "memory not estimated: got model='/nowhere'" in told.text) == ("note", True)


def test_a_gpu_needs_room_beside_what_stays(model):
    need, vllm = 16 * MANY, EngineRecipe(kind="vllm")
    for memory, level in ((math.ceil(need / 0.8), []), (need, ["warning"]), (need - 1, ["error"])):
        here = {"gpus": (GPU(name="small", memory=memory),)}
        assert levels(model, here, num_gpus_per_learner=1.0, engine=vllm) == ["ok", *level]
    here = {"gpus": (GPU(name="small", memory=2 * need),)}
    assert levels(model, here, num_gpus_per_learner=0.5, engine=vllm) == ["ok", "warning"]


def test_main_memory_holds_learners_and_the_copies_of_env_runners(model):
    need = 16 * MANY + 3 * 4 * MANY
    for memory, level in ((math.ceil(need / 0.8), []), (need, ["warning"]), (need - 1, ["error"])):
        assert levels(model, {"memory": memory}, num_env_runners=3) == ["ok", *level]
    # Env runners hold no model where vLLM does.
    assert levels(model, {"memory": need - 1}, num_env_runners=3, engine=EngineRecipe(kind="vllm")) == ["ok"]


def test_one_copy_of_the_weights_has_to_fit_into_the_object_store(model):
    half = {"learner": LearnerRecipe(kind="zero2", dtype="bfloat16"), "num_learners": 1}
    need = math.ceil(2 * MANY / 0.8)
    for shared, level in ((need, []), (need - 8, ["warning"])):
        engines = EngineRecipe(kind="vllm", num_engines=8)
        assert levels(model, {"memory": 2**40, "shared_memory": shared}, **half, engine=engines) == ["ok", *level]


def test_the_command_with_and_without_a_mistake(make_recipe, capsys, tmp_path):
    arguments = ["doctor", "ppo_tiny", f"model={make_recipe().model}", f"out={tmp_path}/run"]
    status = main([*arguments, "--json"])
    read = json.loads(capsys.readouterr().out)
    assert read["ok"] is (status == 0)
    assert {finding["topic"] for finding in read["findings"]} == {"versions", "machine", "recipe", "memory"}
    assert "error" not in [finding["level"] for finding in read["findings"] if finding["topic"] == "recipe"]
    assert main([*arguments, "model=/nowhere"]) == 1
    assert "model='/nowhere'" in capsys.readouterr().out
    assert main(["doctor", "ppo_tiny", "sed=1"]) == 2
    assert '"seed"' in capsys.readouterr().err
    assert main(["doctor", "seed=1"]) == 2
    assert "without a recipe" in capsys.readouterr().err


def test_it_runs_where_hardly_anything_is_installed():
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in ("torch", "transformers", "ray", "rich", "vllm"))
    code = f"import sys\n{blocked}from training.__main__ import main\nsys.exit(main(['doctor']))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stderr
    assert result.stdout.startswith("versions\n")
