"""PPO's options on real learners: alike on one and two of them, resumable, and never waiting for one that failed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import ray
import torch

from pxr_agents.chat import Conversation
from pxr_agents.groups import Group
from pxr_agents.types import Completion
from pxr_agents.vlm import VLM
from tests.training.conftest import ENV
from tests.training.rows import make_episode
from tests.training.uneven import uneven
from training.config import LearnerRecipe
from training.rllib.algorithm import AssignedGroups
from training.rllib.weights import learner_weights

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


def gradients(algorithm):
    """The latest gradient of every parameter, by learner."""

    def of(learner):
        module = learner.module["default_policy"].unwrapped()
        return {name: p.grad.numpy().copy() for name, p in module.named_parameters()}

    return [result.get() for result in algorithm.learner_group.foreach_learner(of)]


def assert_same_gradients(one, two):
    [expected], [first, second] = gradients(one), gradients(two)
    for name, gradient in expected.items():
        assert np.array_equal(first[name], second[name]), name
        assert np.allclose(first[name], gradient, rtol=1e-3, atol=1e-6), name
    return expected


@pytest.mark.parametrize(
    "options", [{}, {"ratio": "sequence", "clip_coef": 3e-4, "clip_coef_high": 4e-4, "mask_truncated": "turns"}]
)
def test_two_learners_do_the_work_of_one_with_every_option(build, make_recipe, options):
    built = []
    for num_learners in (0, 2):
        recipe = make_recipe(
            num_learners=num_learners,
            # One pass a minibatch, or several.
            learner=LearnerRecipe(micro_batch_tokens=700 if num_learners else None),
            env=uneven(ENV, levels=2),
            groups_per_iteration=5,
            max_grad_norm=1e4,
            lr=1e-4,
            loss_normalization="group",
            clip_coef_dual=3.0,
            ent_coef=0.01,
            kl_coef=0.1,
            old_logprobs="learner",
            importance_cap=2.0,
            uniform_groups="drop",
            minibatch_tokens=1_000_000,
            num_minibatches=5,
            **options,
        )
        built.append(build(recipe))
        # The second iteration starts from other weights than the reference.
        for _ in range(2):
            built[-1].train()
    assert_same_gradients(*built)
    metrics, of_two = built[0].last_iteration, built[1].last_iteration
    assert metrics["groups/uniform"] >= metrics["groups/dropped"]
    assert metrics["learner/logprob_gap_max"] < 1e-4
    assert metrics["learner/importance_mean"] == pytest.approx(1, abs=1e-4)
    assert metrics["learner/ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["learner/ref_kl"] > 1e-6
    assert metrics.get("masked_rate") == (metrics["truncated/max_turns"] if options else None)
    for name in ("loss", "entropy", "ref_kl", "importance_mean", "ratio_mean", "policy_loss", "clip_frac"):
        assert of_two[f"learner/{name}"] == pytest.approx(metrics[f"learner/{name}"], abs=1e-4), name
    assert of_two["groups/uniform"] == metrics["groups/uniform"]


def test_replay_goes_on_after_a_restart(build, make_recipe, tmp_path):
    recipe = make_recipe(iterations=4, groups_per_iteration=6, group_size=2, uniform_groups="replay", num_minibatches=2)
    straight = build(recipe)
    books = []
    for k in range(4):
        straight.train()
        books.append({name: v for name, v in straight.last_iteration.items() if name.startswith(("groups", "replay"))})
        if k == 1:
            checkpoint = straight.save_to_path(str(tmp_path / "checkpoint"))
    # Two rollouts score alike more often than not, and earlier groups take their places.
    assert books[0]["groups/replayed"] == 0
    assert sum(b["groups/replayed"] for b in books) > 0
    for before, after in itertools.pairwise(books):
        assert after["groups/replayed"] == min(after["groups/uniform"], before["replay/size"])
    assert all(0 <= b["replay/share"] <= 1 for b in books)
    assert all(b["replay/age"] >= 1 for b in books if b["groups/replayed"])
    assert books[-1]["replay/bytes"] > 1000 * books[-1]["replay/size"]

    resumed = build(recipe)
    resumed.restore_from_path(checkpoint)
    for _ in range(2):
        resumed.train()
    weights = learner_weights(resumed.learner_group)
    assert all(torch.equal(value, weights[name]) for name, value in learner_weights(straight.learner_group).items())


def test_replayed_groups_reach_two_learners_and_outlive_their_runner(build, make_recipe):
    recipe = make_recipe(
        num_env_runners=1,
        num_learners=2,
        iterations=9,
        groups_per_iteration=6,
        group_size=2,
        uniform_groups="replay",
        old_logprobs="learner",
        importance_cap=1.5,
        minibatch_tokens=400,
    )
    algorithm, replayed = build(recipe), 0.0
    algorithm.train()
    ray.kill(algorithm.env_runner_group._worker_manager.actors()[1], no_restart=False)
    for _ in range(3):
        algorithm.train()
        replayed += algorithm.last_iteration["groups/replayed"]
    assert replayed > 0
    assert algorithm.last_iteration["learner/importance_max"] <= 1.5 + 1e-6
    # Only what the present weights sampled tells how far engine and learner are apart.
    assert algorithm.last_iteration.get("learner/logprob_gap_max", 0.0) < 1e-4
    first, second = gradients(algorithm)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def text_group(vlm, rewards):
    """A group whose rows show no image."""
    episodes = []
    for k, reward in enumerate(rewards):
        conversation = Conversation()
        vlm.chat.prompt(conversation, "", {"text": "red", "images": ()})
        turn = Completion(token_ids=(20 + k, 21, 22), logprobs=(-2.0,) * 3, finish_reason="length")
        conversation.append_completion(turn)
        episodes.append(replace(make_episode([reward]), tokens=conversation.tokens()))
    return Group(sample_id="text", episodes=episodes)


def learn(algorithm, parts):
    algorithm.learner_group.update(
        training_data=AssignedGroups([[ray.put(group) for group in part] for part in parts]), iteration=0, timesteps={}
    )


def test_a_learner_without_images_takes_part(build, make_recipe, speaker):
    alone, pair = build(make_recipe(max_grad_norm=1e4)), build(make_recipe(num_learners=2, max_grad_norm=1e4))
    [sampled] = alone.sampler.sample(["train-1"])
    episodes = [replace(e, steps=[replace(e.steps[0], reward=float(k))]) for k, e in enumerate(sampled.group.episodes)]
    episodes = [replace(e, tokens=replace(e.tokens, turn_ends=e.tokens.turn_ends[-1:])) for e in episodes]
    seen, unseen = Group(sample_id="seen", episodes=episodes), text_group(VLM.from_pretrained(speaker), [1.0, 0.0])
    for _ in range(2):
        learn(alone, [[seen, unseen]])
        learn(pair, [[seen], [unseen]])
    expected = assert_same_gradients(alone, pair)
    assert any(np.abs(gradient).max() > 0 for name, gradient in expected.items() if ".visual." in name)


def test_a_learner_that_fails_is_named_and_not_waited_for(build, make_recipe, speaker):
    algorithm = build(make_recipe(num_learners=2))
    good = text_group(VLM.from_pretrained(speaker), [1.0, 0.0])
    placeholder = VLM.from_pretrained(speaker).chat.image_id
    broken = [replace(e, tokens=replace(e.tokens, ids=np.full_like(e.tokens.ids, placeholder))) for e in good.episodes]
    # The first learner is the one that RLlib hears first, and this one waits for the second.
    with pytest.raises(RuntimeError, match=r"(?s)Another learner failed.*learner 1: .*got \d+ image placeholder ids"):
        learn(algorithm, [[good], [Group(sample_id="broken", episodes=broken)]])
