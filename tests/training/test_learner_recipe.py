"""How a recipe says that the model is held and trained, on one learner in this process."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("ray")

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData

from pxr_agents.chat import Conversation
from pxr_agents.groups import Group
from pxr_agents.vlm import VLM, collate
from tests.distributions import token_distributions
from training.config import LearnerRecipe
from training.policy import Policy
from training.rllib.algorithm import VLMPPOConfig
from training.rllib.env_runner import VLMEnvRunner
from training.rllib.sample_queue import Part
from training.rllib.weights import learner_state, learner_weights


@pytest.fixture
def learn(make_recipe):
    """A function that makes some updates on the same episodes, and returns the learners and the metrics of each."""

    def learn(updates=3, **learner):
        recipe = make_recipe(lr=1e-4, iterations=100, learner=LearnerRecipe(**learner))
        config = VLMPPOConfig().recipe(recipe)
        runner = VLMEnvRunner(config=config, worker_index=0)
        groups = [sampled.group for sampled in runner.sample_groups([Part(["train-1", "train-2"], [0])])]
        groups = [with_rewards(group) for group in groups]
        learner_group = config.build_learner_group(
            rl_module_spec=config.get_multi_rl_module_spec(spaces=runner.get_spaces())
        )
        metrics = []
        for k in range(updates):
            data = TrainingData(episodes=groups)
            learner_group.update(training_data=data, iteration=k, timesteps={})
            metrics += [result.get() for result in learner_group.foreach_learner(lambda each: each.ppo.metrics())]
        return learner_group, metrics

    return learn


def with_rewards(group):
    """Episode i earns i / 2: the speaker's own rewards are mostly alike."""
    episodes = []
    for i, episode in enumerate(group.episodes):
        *earlier, last = episode.steps
        episodes.append(dataclasses.replace(episode, steps=[*earlier, dataclasses.replace(last, reward=i / 2)]))
    return Group(sample_id=group.sample_id, episodes=episodes)


def gradients(learner_group):
    """Those of the last step."""
    [found] = learner_group.foreach_learner(
        lambda each: {name: p.grad.clone() for name, p in each.module[DEFAULT_MODULE_ID].named_parameters()}
    )
    return found.get()


def test_gradient_checkpointing_changes_no_number_and_bfloat16_products_round(learn):
    (plain, exact), (checkpointed, others) = learn(), learn(gradient_checkpointing=True)
    one, other = learner_weights(plain), learner_weights(checkpointed)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    assert exact[-1] == pytest.approx(others[-1], rel=1e-4, abs=1e-6)

    learner_group, metrics = learn(dtype="bfloat16")
    assert metrics[-1]["policy_loss"] < metrics[0]["policy_loss"] - 0.003
    assert metrics[-1]["policy_loss"] == pytest.approx(exact[-1]["policy_loss"], abs=1e-3)
    assert {tensor.dtype for tensor in learner_weights(learner_group).values()} == {torch.float32}
    # What the engine computed in float32, the learner rounds.
    assert exact[0]["logprob_gap_max"] < 1e-4 < metrics[0]["logprob_gap_max"] < 0.5


def test_small_passes_change_no_gradient(learn, monkeypatch):
    """Gradients rather than weights: AdamW makes steps of one size out of gradients that are mere rounding."""
    (plain, exact), (passes, call) = learn(updates=1), ([], Policy.__call__)

    def counted(self, batch):
        passes.append(sum(bucket.tokens.ids.numel() for bucket in batch))
        return call(self, batch)

    monkeypatch.setattr(Policy, "__call__", counted)
    small, metrics = learn(updates=1, micro_batch_tokens=250)
    assert len(passes) > 2
    assert max(passes) <= 250
    one, other = gradients(plain), gradients(small)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)
    assert exact[-1] == pytest.approx(metrics[-1], rel=1e-4, abs=1e-6)


def test_log_probabilities_are_float32_where_weights_are_bfloat16(tiny_path, noise_image):
    vlm, conversation = VLM.from_pretrained(tiny_path, dtype=torch.bfloat16), Conversation()
    vlm.chat.prompt(conversation, "You look.", {"text": "What letter?", "images": (noise_image(),)})
    conversation.append_turn((*vlm.chat.encode_text("red box"), vlm.chat.stop_id), train=True)
    _, logprobs, hidden = token_distributions(vlm, collate([conversation.tokens()]))
    assert hidden.dtype == torch.bfloat16
    assert logprobs.dtype == torch.float32
    # Sums of bfloat16 numbers would be off by a hundredth.
    assert torch.allclose(logprobs.exp().sum(-1), torch.ones(len(hidden)), atol=1e-5)


def test_adapters_alone_move_and_leave_merged(learn, speaker):
    learner_group, metrics = learn(lora_rank=4, lora_targets=("o_proj",))
    before, after = VLM.from_pretrained(speaker).model.state_dict(), learner_weights(learner_group)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"model.language_model.layers.{k}.self_attn.o_proj.weight" for k in range(3)}
    assert metrics[-1]["policy_loss"] < metrics[0]["policy_loss"]
    state = learner_state(learner_group)
    assert state["weights_seq_no"] == 3
    assert state["rl_module"].tensors().keys() == before.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "zero1"}, "kind\n  Input should be "),
        ({"dtype": "float16"}, "dtype\n  Input should be "),
        ({"lora_rank": -1}, "lora_rank\n  Input should be "),
        ({"lora_rank": 4, "lora_targets": ()}, "lora_targets is"),
        ({"kind": "zero2", "micro_batch_tokens": 0}, "micro_batch_tokens\n  Input should be "),
        ({"offload_optimizer": True}, "offload_optimizer is True"),
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation is 'flash_attention_2'; .* 'float32'"),
        ({"kind": "zero2", "offload_parameters": True}, "offload_parameters is True"),
    ],
)
def test_ranges(changes, message):
    with pytest.raises(ValueError, match=message):
        LearnerRecipe(**changes)


def test_deepspeed_needs_processes_of_its_own(make_recipe):
    with pytest.raises(ValueError, match=r"num_learners is 0; expected 1 or more where learner\.kind is 'zero2'"):
        make_recipe(learner=LearnerRecipe(kind="zero2"))
