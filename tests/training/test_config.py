"""The recipes themselves: ranges, presets, and that every key is explained."""

import dataclasses
import math

import pytest
from pydantic import ValidationError

from pxr_agents.engines.vllm import StartArguments
from training.config import (
    CuriosityRecipe,
    EngineRecipe,
    EnvRecipe,
    PPORecipe,
    ProbesRecipe,
    RecipeError,
    SFTRecipe,
    TracesRecipe,
    load_recipe,
    recipe_keys,
)

ENV = EnvRecipe(id="pxr_env:pxr/SyntheticSearch-v0")
PPO = PPORecipe(model="m", env=ENV)
GSPO = PPORecipe(model="m", env=ENV, ratio="sequence", clip_coef=3e-4, clip_coef_high=4e-4)
SFT = SFTRecipe(model="m", traces="t")
PROBES, ENGINE = ProbesRecipe(), EngineRecipe()
AHEAD = {"num_env_runners": 1, "max_staleness": 1, "importance_cap": 2.0}


def test_a_recipe_file(tmp_path):
    path = tmp_path / "ppo.toml"
    path.write_text("""
        model = "models/tiny"
        lr = 3e-4
        advantage = "gae"
        group_size = 1
        [env]
        id = "pxr_env:pxr/SyntheticSearch-v0"
        kwargs = {coordinates = "pixel"}
        [curiosity]
        overrides = {alpha = 1}
    """)
    recipe = load_recipe(path, PPORecipe, [
        "env.kwargs.max_turns=3", "out=runs/x", "curiosity.overrides.N=2",
        "engine.kind=vllm", "engine.num_engines=4", "engine.vllm.block_size=32",
    ])  # fmt: skip
    assert recipe == PPORecipe(
        model="models/tiny",
        lr=3e-4,
        advantage="gae",
        group_size=1,
        env=EnvRecipe(id="pxr_env:pxr/SyntheticSearch-v0", kwargs={"coordinates": "pixel", "max_turns": 3}),
        curiosity=CuriosityRecipe(overrides={"alpha": 1, "N": 2}),
        out="runs/x",
        engine=EngineRecipe(kind="vllm", num_engines=4, vllm=StartArguments(block_size=32)),
    )
    assert PPO.engine == EngineRecipe()
    assert ENGINE.kind == "transformers"


def test_a_typo_names_file_key_and_nearest(tmp_path):
    path = tmp_path / "ppo.toml"
    path.write_text('model = "m"\nclip_ceof = 0.2\nenv.id = "e"')
    with pytest.raises(RecipeError, match=r'ppo\.toml: clip_ceof: there is no such key\. Did you mean "clip_coef"\?'):
        load_recipe(path, PPORecipe)


@pytest.mark.parametrize(
    ("recipe", "name", "value"),
    [
        (PPO, "iterations", 0),
        (PPO, "num_learners", -1),
        (PPO, "lr", 0.0),
        (PPO, "lr", math.nan),
        (PPO, "max_grad_norm", math.inf),
        (PPO, "temperature", 0.0),
        (PPO, "gamma", 1.01),
        (PPO, "lr_decay_fraction", -0.1),
        (PPO, "clip_coef", 1.0),
        (PPO, "adam_betas", (0.9, 1.0)),
        (PPO, "advantage", "gea"),
        (PPO, "group_size", 1),
        (PPO, "num_minibatches", 33),
        (PPO, "kl_coef", -0.1),
        (PPO, "kl_estimator", "k4"),
        (PPO, "loss_normalization", "mean"),
        (PPO, "ratio", "group"),
        (PPO, "mask_truncated", True),
        (GSPO, "clip_coef", 0.2),
        (GSPO, "clip_coef_high", 0.35),
        (GSPO, "advantage", "gae"),
        (PPO, "clip_coef_dual", 1.0),
        (PPO, "old_logprobs", "policy"),
        # Without the learner's own log-probabilities there is nothing to compare the engine's with.
        (PPO, "importance_cap", 2.0),
        (dataclasses.replace(PPO, old_logprobs="learner"), "importance_cap", 0.0),
        (PPO, "uniform_groups", "skip"),
        (PPO, "replay_staleness", 0),
        (PPO, "replay_alpha", math.nan),
        (PPO, "minibatch_tokens", 0),
        (dataclasses.replace(PPO, advantage="gae"), "uniform_groups", "drop"),
        (SFT, "steps", 0),
        (SFT, "lr", -1e-3),
        (SFT, "weight_decay", -0.1),
        (PROBES, "floor", 0.0),
        (PROBES, "share", 0.6),
        (PROBES, "window", 0),
        (PROBES, "patience", 0),
        (ENGINE, "num_engines", 0),
        (ENGINE, "num_gpus_per_engine", -1.0),
        (ENGINE, "timeout", 0.0),
    ],
)
def test_ranges(recipe, name, value):
    with pytest.raises(ValidationError) as refused:
        dataclasses.replace(recipe, **{name: value})
    [mistake] = refused.value.errors()
    assert (mistake["loc"] or (mistake["msg"].removeprefix("Value error, ").split()[0],))[0] == name


@pytest.mark.parametrize(
    ("changes", "mistake", "message"),
    [
        (
            {"uniform_groups": "replay", "importance_cap": 2.0},
            {"importance_cap": None},
            r"importance_cap is None; expected .* comes from older weights",
        ),
        ({"oversample": 2.0}, {"advantage": "gae"}, r"oversample is 2.0; expected 1 where advantage is 'gae'"),
        (AHEAD, {"num_env_runners": 0}, r"num_env_runners is 0; expected 1 or more where max_staleness is:"),
        (AHEAD, {"importance_cap": None}, r"importance_cap is None; expected .* rollouts come from older weights"),
        (
            {"groups_per_iteration": 2, "num_learners": 2, "minibatch_tokens": 1000},
            {"minibatch_tokens": None},
            "num_minibatches",
        ),
    ],
)
def test_keys_that_need_each_other(changes, mistake, message):
    changes = {"old_logprobs": "learner", **changes}
    dataclasses.replace(PPO, **changes)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PPO, **(changes | mistake))
    if mistake == {"importance_cap": None}:
        # With the engine's log-probabilities PPO's own ratio corrects.
        dataclasses.replace(PPO, **(changes | mistake | {"old_logprobs": "engine"}))


TURNS = {"kind": "vllm", "colocate": True, "num_engines": 2, "vllm": StartArguments(tensor_parallel_size=2)}


@pytest.mark.parametrize(
    ("changes", "engine", "message"),
    [
        ({"max_staleness": 1, "num_env_runners": 1}, {}, "max_staleness is 1; expected 0 where engine.colocate"),
        ({"num_gpus_per_learner": 0.5}, {}, r"num_gpus_per_learner is 0\.5; expected 1"),
        ({"num_learners": 3}, {}, "num_engines is 2; expected so many .* GPUs of 3 learners"),
        ({}, {"kind": "transformers"}, "colocate is True; expected false where kind is not 'vllm'"),
        ({}, {"num_gpus_per_engine": 1.0}, r"num_gpus_per_engine is 1\.0; expected 0"),
        ({}, {"vllm": StartArguments(weight_transfer="nccl")}, "weight_transfer is 'nccl'; expected 'ipc' or 'none'"),
    ],
)
def test_engines_that_cannot_take_turns_with_learners_are_refused(changes, engine, message):
    fits = {"num_learners": 4, "num_gpus_per_learner": 1.0}
    dataclasses.replace(PPO, **fits, engine=EngineRecipe(**TURNS))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PPO, **(fits | changes), engine=EngineRecipe(**(TURNS | engine)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantage": "gae"}, "advantage is 'gae'; expected 'group' where probes are enabled"),
        ({"group_size": 3}, "probes.share is 0.25; expected at least one rollout of a group of 3"),
        # 2 groups with 6 rollouts that are no probes: 64 episodes are counted in 6 iterations.
        ({"groups_per_iteration": 2}, "probes.window is 5; expected 6 or more"),
    ],
)
def test_probes_that_could_never_happen_are_refused(changes, message):
    dataclasses.replace(PPO, probes=ProbesRecipe(enabled=True))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PPO, probes=ProbesRecipe(enabled=True), **changes)
    dataclasses.replace(PPO, **changes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["curiosity.preset=papr"], 'curiosity: .*Did you mean "paper"'),
        (["curiosity.overrides.alhpa=1"], 'curiosity: .*Did you mean "alpha"'),
        (["curiosity.overrides.alpha=-1"], "alpha is -1"),
        (["curiosity.preset=off", "curiosity.overrides.alpha=1"], "'off' has no 'alpha'"),
        (["engine.kind=vlm"], r'engine\.kind: .*Did you mean "vllm"'),
        (["engine.num_engine=2"], r'engine\.num_engine: .*Did you mean "engine\.num_engines"'),
        (["engine.vllm.max_model_length=2"], r'Did you mean "engine\.vllm\.max_model_len"'),
        (["engine.vllm.gpu_memory_utilization=90"], r"gpu_memory_utilization: got 90; expected less than or equal"),
    ],
)
def test_tables_are_checked_before_anything_runs(overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(None, PPORecipe, ["model=m", "env.id=e", *overrides])


@pytest.mark.parametrize("recipe_class", [PPORecipe, SFTRecipe, TracesRecipe])
def test_every_key_is_explained(recipe_class):
    assert [key for key, text in recipe_keys(recipe_class) if not text] == []
