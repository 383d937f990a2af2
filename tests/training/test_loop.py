"""The trainer in one process: it trains, goes on where it stopped, and computes what RLlib's layer does."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import ENV
from tests.training.test_environments import MIX
from tests.training.uneven import uneven
from training.config import EngineRecipe, LearnerRecipe, ProbesRecipe
from training.learners import plain_weights
from training.loop import PlainPPO, plain_recipe, run_plain
from training.run_directory import Interrupted

UNEVEN = uneven(ENV)


def lines(out):
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("seconds/")} for row in rows]


@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted(make_recipe, tmp_path):
    def stop_after_one(metrics):
        if metrics["iteration"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def recipe(out):
        options = {"num_minibatches": 2, "advantage": "gae", "env": UNEVEN, "iterations": 3, "num_env_runners": 2}
        return make_recipe(**options, groups_per_iteration=2, out=str(tmp_path / out))

    model = run_plain(recipe("straight"))
    with pytest.raises(Interrupted, match="Stopped after iteration 1 of 3"):
        run_plain(recipe("stopped"), on_iteration=stop_after_one)
    seen = []
    resumed = run_plain(recipe("stopped"), on_iteration=lambda metrics: seen.append(metrics["iteration"]))
    assert seen == [1, 2, 3]
    assert lines(tmp_path / "stopped") == lines(tmp_path / "straight")
    one, other = (load_file(folder / "model.safetensors") for folder in (model, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    for row in lines(tmp_path / "straight"):
        assert row["n_episodes"] == 8
        assert row["learner/grad_norm"] > 1e-3
        assert row["learner/logprob_gap_max"] < 1e-4
    before = load_file(Path(recipe("straight").model) / "model.safetensors")
    assert any(not torch.equal(tensor, one[name]) for name, tensor in before.items())


ALL = {
    "advantage": "gae",
    "num_epochs": 2,
    "loss_normalization": "group",
    "clip_coef_dual": 3.0,
    "ent_coef": 0.01,
    "kl_coef": 0.1,
    "old_logprobs": "learner",
    "importance_cap": 2.0,
    "minibatch_tokens": 1500,
    "reward": "tests.training.test_rewards:half_away",
}
PROBES = {
    "probes": ProbesRecipe(enabled=True, window=16),
    "learner": LearnerRecipe(lora_rank=4, lora_targets=("q_proj",)),
}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "options",
    [{}, ALL, PROBES, {"env": MIX, "groups_per_iteration": 4}],
    ids=["defaults", "all-options", "probes-and-adapters", "several-environments"],
)
def test_iterations_equal_rllibs(build, make_recipe, options):
    from training.rllib.weights import learner_weights

    recipe = make_recipe(**{"env": UNEVEN, "num_minibatches": 2, "groups_per_iteration": 2} | options)
    # Adapters are merged into what samples on Ray, and computed beside the weights here: equal up to rounding.
    rounding = {"rel": 1e-3, "abs": 1e-5} if "learner" in options else {"rel": 1e-6}
    plain, on_ray = PlainPPO(plain_recipe(recipe)), build(recipe)
    for _ in range(2):
        plain.train()
        on_ray.train()
        assert [e.steps for e in plain.last_episodes] == [e.steps for e in on_ray.last_episodes]
        others = {name: on_ray.last_iteration[name] for name in plain.last_iteration if not name.startswith("seconds/")}
        assert {name: plain.last_iteration[name] for name in others} == pytest.approx(others, **rounding)
        assert plain.last_iteration["learner/grad_norm"] > 1e-3
    weights = learner_weights(on_ray.learner_group)
    for name, tensor in plain_weights(plain.policy.vlm.model):
        assert torch.allclose(weights[name], tensor, rtol=0, atol=1e-5 if "learner" in options else 0), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": EngineRecipe(kind="vllm")}, r"engine\.kind is 'vllm'; expected 'transformers' with --plain"),
        ({"learner": LearnerRecipe(kind="zero2"), "num_learners": 1}, r"learner\.kind is 'zero2'; expected 'ddp'"),
        ({"max_staleness": 1, "num_env_runners": 1}, "max_staleness is 1; expected 0"),
        ({"uniform_groups": "drop"}, "uniform_groups is 'drop'; expected 'keep'"),
    ],
)
def test_what_needs_ray_is_refused(make_recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        plain_recipe(make_recipe(**changes))


def test_numbers_of_processes_are_ignored(make_recipe):
    assert plain_recipe(make_recipe(num_env_runners=2, num_learners=2)) == make_recipe()


def test_an_engine_of_ones_own_samples(make_recipe, tmp_path, monkeypatch, capsys):
    """The one that CONTRIBUTING.md shows; it is as good as transformers', and tells how many ids it sampled."""
    shown = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text().partition("+++ b/my_engine.py\n")[2]
    lines = shown.partition("```")[0].splitlines()
    (tmp_path / "my_engine.py").write_text("\n".join(line.removeprefix("+") for line in lines if line[:2] != "@@"))
    monkeypatch.syspath_prepend(tmp_path)
    trainer = PlainPPO(plain_recipe(make_recipe(engine=EngineRecipe(kind="my_engine:Counted"))))
    trainer.train()
    told = [int(line.split()[2]) for line in capsys.readouterr().out.splitlines() if line.endswith(" ids")]
    assert sum(told) == trainer.last_iteration["tokens/generated"] > 0
    with pytest.raises(ValueError, match=r'the module my_engine has no such function.*"Counted"'):
        PlainPPO(plain_recipe(make_recipe(engine=EngineRecipe(kind="my_engine:Counter"))))
    with pytest.raises(ValueError, match=r'"nowhere" cannot be imported .* the function "Engine"'):
        PlainPPO(plain_recipe(make_recipe(engine=EngineRecipe(kind="nowhere:Engine"))))
