"""A warm start on several learners is that of one: whole models and spread ones, interrupted, killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("ray")

import torch
from safetensors.torch import load_file

from tests.training.conftest import ENV
from training.config import EnvRecipe, LearnerRecipe, SFTRecipe, TracesRecipe
from training.demonstrations import oracle_traces, write_traces
from training.ray_train import train_on_ray
from training.run_directory import Interrupted, RunDirectory, SampleCursor
from training.sft_run import run_sft, train

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

COUNT, BATCH = 11, 5


@pytest.fixture(scope="module")
def make_recipe(speaker, tmp_path_factory):
    """A function that makes the recipe of a run by its name: five traces a step, so that two learners have two and
    three of them, and gradients that are clipped."""
    folder = tmp_path_factory.mktemp("sft")
    write_traces(folder / "traces.jsonl", oracle_traces(TracesRecipe(env=ENV, count=COUNT)))
    (folder / "extensions").mkdir()

    def make(name, kind="ddp", **changes):
        defaults = {
            "model": str(speaker),
            "traces": str(folder / "traces.jsonl"),
            "out": str(folder / name),
            "steps": 3,
            "batch_size": BATCH,
            "lr": 1e-4,
            "lr_warmup_steps": 0,
            "max_grad_norm": 0.5,
            "num_cpus_per_learner": 0.25,
            "learner": LearnerRecipe(kind=kind),
            "wandb": False,
        }
        return SFTRecipe(**(defaults | changes))

    with pytest.MonkeyPatch.context() as patch:
        # A lock that a killed build of DeepSpeed left elsewhere would block everybody.
        patch.setenv("TORCH_EXTENSIONS_DIR", str(folder / "extensions"))
        yield make


@pytest.fixture
def make_deadly(make_recipe, tmp_path):
    """As `make_recipe`, but the learner that reads a certain trace of the second step is killed there, once."""

    def make(name, **changes):
        traces = oracle_traces(TracesRecipe(env=ENV, count=COUNT))
        write_traces(tmp_path / "plain.jsonl", traces)
        rows = [json.loads(line) for line in (tmp_path / "plain.jsonl").read_text().splitlines()]
        # Read by the second learner.
        number = SampleCursor([str(k) for k in range(COUNT)], seed=0).take(2 * BATCH)[BATCH + 1]
        deadly = {"deadly": rows[int(number)]["sample_id"], "marker": str(tmp_path / "killed")}
        env = EnvRecipe(id="tests.training.deadly:Deadly-v0", kwargs={**ENV.kwargs, **deadly})
        for row in rows:
            row["env"] = {"id": env.id, "kwargs": env.kwargs}
        (tmp_path / "deadly.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return make_recipe(
            name, traces=str(tmp_path / "deadly.jsonl"), num_learners=2, checkpoint_every=1, prefetch=0, **changes
        )

    return make


@pytest.fixture(scope="module")
def alone(make_recipe):
    """A function that returns the directory of what one process makes of it, packed or padded."""
    made = {}

    def run(pack_tokens=None):
        if pack_tokens not in made:
            recipe = make_recipe(f"alone-{pack_tokens}", pack_tokens=pack_tokens)
            run_sft(recipe)
            made[pack_tokens] = Path(recipe.out)
        return made[pack_tokens]

    return run


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def lines(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("seconds/")} for row in rows]


def largest_gap(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


def assert_same_run(recipe, expected):
    out = Path(recipe.out)
    assert [row["step"] for row in lines(out)] == [1, 2, 3]
    for mine, theirs in zip(lines(out), lines(expected), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    assert largest_gap(weights(out), weights(expected)) < 1e-5
    assert not (out / "ray_train").exists()
    assert not (out / "stop").exists()


def test_packed_is_padded(alone, make_recipe, speaker):
    alone(600)
    assert_same_run(make_recipe("alone-600"), alone())
    # There was something to compare.
    assert largest_gap(weights(alone()), load_file(speaker / "model.safetensors")) > 2e-4
    assert lines(alone())[0]["grad_norm"] > 0.5


@pytest.mark.deepspeed
def test_a_spread_model_is_a_whole_one_and_resumes(make_recipe, alone):
    """Two learners, ZeRO-2, packed: stopped after the first step, and started again."""
    recipe = make_recipe("zero2", "zero2", num_learners=2, pack_tokens=600)
    RunDirectory(recipe.out).claim(recipe, free_keys=())
    with pytest.raises(Interrupted, match="Stopped after step 1 of 3"):
        train_on_ray(recipe, train, stop_requested=lambda: True)
    assert [path.name for path in (Path(recipe.out) / "checkpoints").iterdir()] == ["1"]
    assert not (Path(recipe.out) / "model").exists()
    run_sft(recipe)
    assert_same_run(recipe, alone())


def test_two_learners_do_the_work_of_one_although_one_is_killed(make_deadly, alone, tmp_path):
    recipe = make_deadly("restarted", max_restarts=1)
    run_sft(recipe)
    assert (tmp_path / "killed").exists()
    assert_same_run(recipe, alone())


def test_without_restarts_the_same_command_resumes(make_deadly, alone):
    recipe = make_deadly("lost")
    with pytest.raises(Exception, match=r"(?i)worker|actor|died"):
        run_sft(recipe)
    assert [path.name for path in (Path(recipe.out) / "checkpoints").iterdir()] == ["1"]
    run_sft(recipe)
    assert_same_run(recipe, alone())


def with_adapters(base, adapters, rank):
    """The weights in bfloat16, each with its adapter added in float32, for lora_alpha=32."""
    merged = {}
    for name, tensor in base.items():
        down, up = (adapters.get(f"base_model.model.{name.removesuffix('weight')}lora_{x}.weight") for x in "AB")
        delta = 0 if down is None else 32 / rank * (up.float() @ down.float())
        merged[name] = (tensor.bfloat16().float() + delta).bfloat16()
    return merged


@pytest.mark.deepspeed
def test_bfloat16_means_the_same_to_both_ways_of_spreading(make_recipe, alone, speaker):
    """ZeRO-3 with adapters and in bfloat16, and what it writes."""
    first, adapters = {}, {}
    for kind in ("zero2", "zero3"):
        learner = LearnerRecipe(kind=kind, dtype="bfloat16", lora_rank=2, lora_alpha=32)
        recipe = make_recipe(f"{kind}-bfloat16", num_learners=2, steps=2, lr=1e-2, learner=learner)
        out = run_sft(recipe).parent
        first[kind] = lines(out)[0]["loss"]
        adapters[kind] = load_file(out / "model" / "adapter" / "adapter_model.safetensors")
        assert all(tensor.ndim == 2 and tensor.any() for tensor in adapters[kind].values())
        # To the last digit, and what has no adapter as it was.
        expected = with_adapters(load_file(speaker / "model.safetensors"), adapters[kind], rank=2)
        assert {str(tensor.dtype) for tensor in weights(out).values()} == {"torch.bfloat16"}
        assert largest_gap(weights(out), expected) == 0
    # Rounded alike, and rounded at all.
    assert first["zero3"] == pytest.approx(first["zero2"], abs=1e-6)
    assert abs(first["zero3"] - lines(alone())[0]["loss"]) > 1e-5
    # Gradients are summed in another order in bfloat16, and a step of AdamW is as long for one near 0, of either sign:
    # all `B`, which began at 0, agree together, not each number of them.
    one, other = (
        torch.cat([tensor.float().flatten() for name, tensor in each.items() if "lora_B" in name])
        for each in adapters.values()
    )
    assert (one - other).norm() < 0.02 * one.norm()
