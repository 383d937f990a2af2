"""ZeRO-2 and ZeRO-3 in RLlib's learner group: the numbers of DDP, checkpoints of all parts, plain exports."""

from __future__ import annotations

import dataclasses
import os
import signal

import numpy as np
import pytest

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install pxr-gym[deepspeed]")

import ray
import torch
from ray.rllib.core.learner.training_data import TrainingData
from safetensors.torch import load_file

from pxr_agents.groups import Group
from pxr_agents.vlm import VLM
from tests.distributions import token_distributions
from training.batch import buckets, group_rows
from training.config import EnvRecipe, LearnerRecipe, PPORecipe
from training.loss import LOGPROBS
from training.rllib.algorithm import VLMPPOConfig
from training.rllib.env_runner import VLMEnvRunner
from training.rllib.run import run_ppo
from training.rllib.sample_queue import Part
from training.rllib.weights import export, learner_weights, load_shards, on_learners, save_shards
from training.run_directory import Interrupted

pytestmark = [pytest.mark.deepspeed, pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

ENV = EnvRecipe(
    id="pxr_env:pxr/SyntheticSearch-v0", kwargs={"coordinates": "pixel", "max_turns": 3, "max_operations": 2}
)
SAMPLES = ["train-1", "train-2", "train-3", "train-4", "train-5"]
UPDATES = 3


@pytest.fixture(scope="module", autouse=True)
def extensions(tmp_path_factory):
    """DeepSpeed's build directory, for these tests alone: a lock left by a build that was killed blocks everybody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path_factory.mktemp("extensions")))
        yield


@pytest.fixture(scope="module")
def recipe(speaker):
    """Two learners, a critic, gradients that are clipped."""
    return PPORecipe(
        model=str(speaker),
        env=ENV,
        iterations=UPDATES,
        groups_per_iteration=5,
        group_size=4,
        num_learners=2,
        num_cpus_per_learner=0.25,
        num_minibatches=2,
        lr=1e-4,
        lr_warmup_iterations=0,
        advantage="gae",
        max_grad_norm=0.5,
        max_tokens=16,
        wandb=False,
    )


@pytest.fixture(scope="module")
def runner(recipe):
    return VLMEnvRunner(config=VLMPPOConfig().recipe(dataclasses.replace(recipe, num_learners=0)), worker_index=0)


@pytest.fixture(scope="module")
def data(runner):
    """Five groups for each update: one learner gets three of them, and in the last update the other sees no images."""
    groups = [sampled.group for sampled in runner.sample_groups([Part(SAMPLES, [0])])]
    rewarded = [with_rewards(group, k) for k, group in enumerate(groups)]
    image_id = runner.module.vlm.chat.image_id
    return [rewarded, rewarded, [*rewarded[:3], *(text_only(group, image_id) for group in rewarded[3:])]]


def with_rewards(group, k):
    """Episode i of group k earns (i + k) % 4 / 2: the speaker's own rewards are mostly alike."""
    episodes = []
    for i, episode in enumerate(group.episodes):
        *earlier, last = episode.steps
        steps = [*earlier, dataclasses.replace(last, reward=(i + k) % 4 / 2)]
        episodes.append(dataclasses.replace(episode, steps=steps))
    return Group(sample_id=group.sample_id, episodes=episodes)


def text_only(group, image_id):
    """The group as if the task had shown no images."""
    episodes = []
    for episode in group.episodes:
        tokens = episode.tokens
        ids = np.where(tokens.ids == image_id, tokens.ids[tokens.action][0], tokens.ids).astype(np.int32)
        episodes.append(dataclasses.replace(episode, tokens=dataclasses.replace(tokens, ids=ids, images=())))
    return Group(sample_id=group.sample_id, episodes=episodes)


@pytest.fixture(scope="module")
def start(recipe, runner):
    """A function that starts the learners of the recipe, alone; `stop` ends them."""

    def start(kind="ddp", changes=None, **learner):
        changed = dataclasses.replace(recipe, **(changes or {}), learner=LearnerRecipe(kind=kind, **learner))
        config = VLMPPOConfig().recipe(changed)
        spec = config.get_multi_rl_module_spec(spaces=runner.get_spaces())
        return config.build_learner_group(rl_module_spec=spec)

    return start


def update(learner_group, data, iteration):
    """One update, and the metrics of all learners."""
    refs = [ray.put(group) for group in data[iteration]]
    learner_group.update(training_data=TrainingData(episodes_refs=refs), iteration=iteration, timesteps={})
    return on_learners(learner_group, lambda learner: learner.ppo.metrics())


@pytest.fixture(scope="module")
def by_ddp(start, data):
    """Weights and metrics after all updates by DDP."""
    learner_group = start("ddp")
    metrics = [update(learner_group, data, k) for k in range(UPDATES)]
    weights = learner_weights(learner_group)
    learner_group.shutdown()
    return weights, metrics


def largest_gap(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


def says(learner, batch):
    """Log-probabilities of the action ids, by the learner."""
    with torch.no_grad():
        return learner.ppo._says(LOGPROBS)(batch).float().numpy()


OPTIONS = {
    "gradient_checkpointing": True,
    "micro_batch_tokens": 300,
    "offload_optimizer": True,
    "offload_parameters": True,
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("zero2", {}), ("zero3", OPTIONS)],
    ids=["zero2", "zero3-options"],
)
def test_numbers_checkpoints_and_exports(start, recipe, data, by_ddp, speaker, tmp_path, kind, options):
    learner_group = start(kind, **options)
    metrics = [update(learner_group, data, k) for k in range(UPDATES - 1)]
    save_shards(learner_group, tmp_path)
    saved = learner_weights(learner_group)
    metrics.append(update(learner_group, data, UPDATES - 1))
    weights = learner_weights(learner_group)

    expected, expected_metrics = by_ddp
    assert largest_gap(expected, VLM.from_pretrained(speaker).model.state_dict()) > 2e-4

    assert largest_gap(weights, expected) < 1e-5
    for mine, theirs in zip(metrics, expected_metrics, strict=True):
        for learner, its in zip(mine, theirs, strict=True):
            assert learner == pytest.approx(its, rel=1e-3, abs=1e-5)
    assert metrics[0][0]["grad_norm"] > recipe.max_grad_norm

    export(learner_group, recipe, tmp_path / "model")
    exported, batch = VLM.from_pretrained(tmp_path / "model"), buckets(group_rows(data[0][0], normalize_std=False))
    learned = on_learners(learner_group, lambda learner: says(learner, batch))[0]
    plain = []
    with torch.no_grad():
        for bucket in batch:
            ids, logprobs, _ = token_distributions(exported, bucket.tokens)
            plain.append(logprobs.gather(1, ids[:, None])[:, 0])
    assert np.allclose(torch.cat(plain).numpy(), learned, atol=1e-5)
    learner_group.shutdown()

    if options:
        return
    # Two learners' parts are read by one, and that one's by two.
    alone = start(kind, {"num_learners": 1}, **options)
    load_shards(alone, tmp_path)
    save_shards(alone, tmp_path / "alone")
    gaps = [largest_gap(learner_weights(alone), saved)]
    alone.shutdown()
    resumed = start(kind, **options)
    for path in (tmp_path / "alone", tmp_path):
        load_shards(resumed, path)
        gaps.append(largest_gap(learner_weights(resumed), saved))
        update(resumed, data, UPDATES - 1)
        gaps.append(largest_gap(learner_weights(resumed), weights))
    resumed.shutdown()
    assert gaps == [0] * 5


def precision(learner):
    """Types of what computes and of what the optimizer keeps, and how far the latter has moved from the former."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    parameter = next(p for p in learner.module["default_policy"].parameters() if p.ndim == 2)
    full = safe_get_full_fp32_param(parameter)
    average = safe_get_full_optimizer_state(parameter, "exp_avg")
    return str(parameter.dtype), str(full.dtype), str(average.dtype), bool((full != full.bfloat16().float()).any())


@pytest.mark.parametrize(
    ("kind", "advantage", "lr", "loss", "falls_by"),
    [("zero2", "gae", 1e-3, "value_loss", 0.02), ("zero3", "group", 1e-4, "policy_loss", 0.002)],
)
def test_bfloat16_learns_with_float32_masters(start, data, kind, advantage, lr, loss, falls_by):
    changes = {"lr": lr, "iterations": 100, "advantage": advantage, "num_minibatches": 1}
    learner_group = start(kind, changes, dtype="bfloat16", gradient_checkpointing=True)
    # The same episodes again and again.
    losses = [np.mean([metrics[loss] for metrics in update(learner_group, [data[0]] * 6, k)]) for k in range(6)]
    types = on_learners(learner_group, precision)
    weights = learner_weights(learner_group)
    learner_group.shutdown()
    assert losses[-1] < losses[0] - falls_by, losses
    assert types == [("torch.bfloat16", "torch.float32", "torch.float32", True)] * 2
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


LORA = {"lora_rank": 4, "lora_targets": ("q_proj", "down_proj")}
PENALTY = {"kl_coef": 0.1, "lr": 1e-3}


@pytest.fixture(scope="module")
def adapters_by_ddp(start, data):
    """Weights and metrics after all updates of adapters by DDP."""
    learner_group = start("ddp", PENALTY, **LORA)
    metrics = [update(learner_group, data, k)[0] for k in range(UPDATES)]
    weights = learner_weights(learner_group)
    learner_group.shutdown()
    return weights, metrics


@pytest.mark.parametrize(
    ("kind", "options"),
    [("zero2", {"offload_optimizer": True, "micro_batch_tokens": 300}), ("zero3", {"gradient_checkpointing": True})],
    ids=["zero2-options", "zero3"],
)
def test_adapters_learn_as_by_ddp_and_are_their_own_reference(
    start, recipe, data, adapters_by_ddp, speaker, tmp_path, kind, options
):
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install pxr-gym[lora]")
    learner_group = start(kind, PENALTY, **LORA, **options)
    metrics = [update(learner_group, data, k)[0] for k in range(UPDATES)]
    weights = learner_weights(learner_group)
    export(learner_group, dataclasses.replace(recipe, learner=LearnerRecipe(kind=kind, **LORA)), tmp_path / "model")
    learner_group.shutdown()
    expected, expected_metrics = adapters_by_ddp
    before = VLM.from_pretrained(speaker).model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], weights[name])}
    assert all(name.endswith(("q_proj.weight", "down_proj.weight")) for name in moved)
    assert len(moved) == 6
    assert largest_gap(before, weights) > 1e-3
    assert largest_gap(expected, weights) < 1e-5
    for mine, theirs in zip(metrics, expected_metrics, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    # At the start policy and reference are equal, and then they part.
    assert metrics[-1]["ref_kl"] > 1e-3

    merged = load_file(tmp_path / "model" / "model.safetensors")
    model = VLM.from_pretrained(speaker).model
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "model" / "adapter").merge_and_unload()
    assert largest_gap({name: adapted.state_dict()[name] for name in merged}, merged) < 1e-6


def test_an_interrupted_run_equals_an_uninterrupted_one(recipe, tmp_path):
    def stop(metrics):
        if metrics["iteration"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    changes = {"learner": LearnerRecipe(kind="zero3"), "groups_per_iteration": 4, "num_env_runners": 0, "lr": 1e-3}
    straight = dataclasses.replace(recipe, **changes, out=str(tmp_path / "straight"))
    stopped = dataclasses.replace(recipe, **changes, out=str(tmp_path / "stopped"))
    model = run_ppo(straight)
    with pytest.raises(Interrupted):
        run_ppo(stopped, on_iteration=stop)
    [checkpoint] = (tmp_path / "stopped" / "checkpoints").iterdir()
    VLM.from_pretrained(checkpoint / "model")
    run_ppo(stopped)
    one, other = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "stopped" / "model"))
    assert largest_gap(one, other) < 1e-6
    assert largest_gap(one, load_file(checkpoint / "model" / "model.safetensors")) > 1e-4
