"""The recipes themselves: ranges, presets, and that every key is explained."""

import dataclasses
import math

import pytest
from pydantic import ValidationError

from training.config import (
    CuriosityRecipe,
    EnvRecipe,
    PPORecipe,
    ProbesRecipe,
    RecipeError,
    SFTRecipe,
    load_recipe,
    recipe_keys,
)

ENV = EnvRecipe(id="pxr_env:pxr/SyntheticSearch-v0")
PPO = PPORecipe(model="m", env=ENV)
SFT = SFTRecipe(model="m", traces="t")


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
    recipe = load_recipe(path, PPORecipe, ["env.kwargs.max_turns=3", "out=runs/x", "curiosity.overrides.N=2"])
    assert recipe == PPORecipe(
        model="models/tiny",
        lr=3e-4,
        advantage="gae",
        group_size=1,
        env=EnvRecipe(id="pxr_env:pxr/SyntheticSearch-v0", kwargs={"coordinates": "pixel", "max_turns": 3}),
        curiosity=CuriosityRecipe(overrides={"alpha": 1, "N": 2}),
        out="runs/x",
    )


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
    ],
)
def test_ranges(recipe, name, value):
    with pytest.raises(ValidationError) as refused:
        dataclasses.replace(recipe, **{name: value})
    [mistake] = refused.value.errors()
    assert (mistake["loc"] or (mistake["msg"].removeprefix("Value error, ").split()[0],))[0] == name


def test_replay_with_the_learners_own_logprobs_needs_importance_weights():
    with pytest.raises(ValueError, match=r"importance_cap is None; expected .* comes from older weights"):
        dataclasses.replace(PPO, uniform_groups="replay", old_logprobs="learner")
    dataclasses.replace(PPO, uniform_groups="replay", old_logprobs="learner", importance_cap=2.0)
    dataclasses.replace(PPO, uniform_groups="replay")


def test_rollouts_ahead_need_processes_of_their_own_and_a_correction():
    ahead = dataclasses.replace(PPO, num_env_runners=1, max_staleness=1)
    with pytest.raises(ValueError, match=r"max_staleness is 2; expected 0 or 1: sampling further ahead"):
        dataclasses.replace(ahead, max_staleness=2)
    with pytest.raises(ValueError, match=r"num_env_runners is 0; expected 1 or more where max_staleness is 1"):
        dataclasses.replace(ahead, num_env_runners=0)
    with pytest.raises(ValueError, match=r"importance_cap is None; expected .* rollouts come from older weights"):
        dataclasses.replace(ahead, old_logprobs="learner")
    dataclasses.replace(ahead, old_logprobs="learner", importance_cap=2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"floor": 0.0}, r"floor\n  Input should be greater than 0 "),
        ({"share": 0.6}, r"share\n  Input should be less than or equal to 0\.5 "),
        ({"window": 0}, r"window\n  Input should be greater than 0 "),
        ({"patience": 0}, r"patience\n  Input should be greater than 0 "),
    ],
)
def test_ranges_of_probes(changes, message):
    with pytest.raises(ValueError, match=message):
        ProbesRecipe(**changes)


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


def test_a_budget_of_tokens_needs_no_number_of_minibatches():
    recipe = dataclasses.replace(PPO, groups_per_iteration=2, num_minibatches=2, num_learners=0)
    with pytest.raises(ValueError, match="num_minibatches"):
        dataclasses.replace(recipe, num_learners=2)
    dataclasses.replace(recipe, num_learners=2, minibatch_tokens=1000)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["curiosity.preset=papr"], 'curiosity: .*Did you mean "paper"'),
        (["curiosity.overrides.alhpa=1"], 'curiosity: .*Did you mean "alpha"'),
        (["curiosity.overrides.alpha=-1"], "alpha is -1"),
        (["curiosity.preset=off", "curiosity.overrides.alpha=1"], "'off' has no 'alpha'"),
    ],
)  # fmt: skip
def test_curiosity_is_checked_before_anything_runs(overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(None, PPORecipe, ["model=m", "env.id=e", *overrides])


@pytest.mark.parametrize("recipe_class", [PPORecipe, SFTRecipe])
def test_every_key_is_explained(recipe_class):
    assert [key for key, text in recipe_keys(recipe_class) if not text] == []
