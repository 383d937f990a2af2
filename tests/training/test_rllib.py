"""PPO on RLlib with every layout of processes: what is trained is what was sampled, on all learners alike."""

from __future__ import annotations

import numpy as np
import pytest
import ray
import torch

from pxr_agents.types import Episode
from pxr_agents.vlm import VLM
from tests.training.conftest import ENV
from tests.training.uneven import uneven
from training.rllib.weights import learner_weights

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


def runner_states(algorithm):
    """Versions and weights of all env runners that sample."""
    local = algorithm.config.num_env_runners == 0
    return algorithm.env_runner_group.foreach_env_runner(
        lambda runner: (runner.weights_version, runner.module.get_state(inference_only=True)), local_env_runner=local
    )


def learner_states(algorithm):
    """All parameters and their latest gradients, by learner."""

    def states(learner):
        module = learner.module["default_policy"].unwrapped()
        return {
            name: (parameter.detach().numpy().copy(), parameter.grad.numpy().copy())
            for name, parameter in module.named_parameters()
        }

    return [result.get() for result in algorithm.learner_group.foreach_learner(states)]


def sampled_turns(episode: Episode, vlm: VLM) -> list[str]:
    """What the trained ids of each turn say."""
    tokens, starts = episode.tokens, [0, *(end + 1 for end in episode.tokens.turn_ends[:-1])]
    return [
        vlm.chat.decode(tokens.ids[start : end + 1][tokens.action[start : end + 1]].tolist())
        for start, end in zip(starts, tokens.turn_ends, strict=True)
    ]


@pytest.mark.parametrize(("num_env_runners", "num_learners"), [(0, 0), (0, 1), (2, 0), (2, 2)])
def test_trained_ids_are_sampled_ids_and_everybody_gets_the_new_weights(
    build, make_recipe, speaker, num_env_runners, num_learners
):
    recipe = make_recipe(num_env_runners=num_env_runners, num_learners=num_learners, env=uneven(ENV))
    algorithm, vlm = build(recipe), VLM.from_pretrained(speaker)
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}

    data = algorithm.sampler.sample(["train-1", "train-2", "train-3"])
    groups = [ray.get(each.group) if isinstance(each.group, ray.ObjectRef) else each.group for each in data]
    tokens = [[episode.tokens for episode in group.episodes] for group in groups]
    assert [each.n_tokens for each in data] == [sum(len(t.ids) for t in members) for members in tokens]
    assert [each.n_action_ids for each in data] == [sum(t.action.sum() for t in members) for members in tokens]
    assert [group.sample_id for group in groups] == ["train-1", "train-2", "train-3"]
    episodes = [episode for group in groups for episode in group.episodes]
    assert [sampled_turns(e, vlm) for e in episodes] == [[step.turn for step in e.steps] for e in episodes]
    assert len({episode.steps[0].turn for episode in episodes}) > 1

    algorithm.train()
    metrics = algorithm.last_iteration
    assert metrics["n_episodes"] == 16
    assert metrics["learner/logprob_gap_max"] < 1e-4
    assert metrics["learner/ratio_mean"] == pytest.approx(1, abs=1e-4)
    assert metrics["learner/ratio_max"] == pytest.approx(1, abs=1e-4)
    assert metrics["learner/grad_norm"] > 1e-3
    assert not any(name.startswith("async/") for name in metrics)

    after = learner_weights(algorithm.learner_group)
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    # They take new weights when they begin to sample.
    algorithm.sampler.sample(["train-1", "train-2"])
    states = runner_states(algorithm)
    assert len(states) == max(num_env_runners, 1)
    for version, weights in states:
        assert version == 1
        assert all(np.array_equal(weights[f"model.{name}"], after[name]) for name in after)


def test_two_learners_do_the_work_of_one(build, make_recipe):
    """With a critic; `test_ppo_options.py` has the other options."""
    results = []
    for num_learners in (0, 2):
        # No clipping of gradients and five groups: a mean over a rank instead of over all tokens would show.
        recipe = make_recipe(
            num_learners=num_learners,
            advantage="gae",
            groups_per_iteration=5,
            max_grad_norm=1e4,
            lr=1e-4,
            env=uneven(ENV),
        )
        algorithm = build(recipe)
        algorithm.train()
        results.append((learner_states(algorithm), algorithm.last_iteration))
    ([one], metrics), ([first, second], metrics_of_two) = results
    assert first.keys() == one.keys()
    assert any("value_head" in name for name in one)
    for name, (weights, gradient) in one.items():
        assert np.array_equal(first[name][0], second[name][0])
        assert np.allclose(first[name][1], gradient, rtol=1e-3, atol=1e-6), name
        # Adam's first step is lr * sign(gradient): where the gradient is rounding noise, so is the sign.
        sure = np.abs(gradient) > 1e-5
        assert np.allclose(first[name][0][sure], weights[sure], atol=1e-6), name
    for name in ("loss", "entropy", "ratio_mean", "policy_loss", "logprob_gap_max"):
        assert metrics_of_two[f"learner/{name}"] == pytest.approx(metrics[f"learner/{name}"], abs=1e-5), name
    assert metrics_of_two["learner/value_loss"] == pytest.approx(metrics["learner/value_loss"], rel=1e-4)
