"""Probes in the trainer: who is one, what is counted, what is learned, on every layout of processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from pxr_agents.groups import Group
from pxr_agents.types import Episode
from pxr_agents.vlm import VLM, collate
from pxr_env.curiosity import ProbeOperations
from tests.distributions import token_distributions
from tests.training.conftest import ENV
from tests.training.rows import make_episode
from tests.training.uneven import uneven
from training.batch import group_rows, make_bucket
from training.config import PPORecipe, ProbesRecipe
from training.environments import make_env
from training.loss import ENTROPY, LOGPROBS, objective
from training.probes import ProbePlanner

TASK, UNEVEN = "pxr/SyntheticSearch-v0", "uneven/Any-v0"
PPO = PPORecipe(model="m", env=ENV, group_size=8, probes=ProbesRecipe(enabled=True, window=3))


def played(n, *, used=0, probes=0, task=TASK):
    """`n` episodes of the policy of which `used` zoomed in, and `probes`."""
    own = [Episode(task=task, sample_id=f"s{k}", usage={"zoom_in": int(k < used)}) for k in range(n)]
    return own + [Episode(task=task, sample_id="s0", usage={"zoom_in": 1}, probe="zoom_in") for _ in range(probes)]


class TestPlanner:
    @pytest.fixture
    def planner(self):
        return ProbePlanner(PPO, make_env(ENV, probes=True))

    def test_nothing_is_probed_before_enough_was_counted(self, planner):
        planner.count(played(63), 0)
        assert planner.plan(["a"], 1) == {"a": [None] * 8}
        assert planner.metrics() == {"probe_rate": 0.0, "probes/zoom_in": 0.0}

    def test_the_first_quarter_of_each_group_begins_with_a_dead_operation(self, planner):
        planner.count(played(64), 0)
        assert planner.plan(["a", "b"], 1) == dict.fromkeys("ab", ["zoom_in"] * 2 + [None] * 6)
        assert planner.metrics()["probes/zoom_in"] == 1.0

    def test_the_rarer_it_is_the_more_probes(self, planner):
        planner.count(played(100, used=2), 0)
        # (.05 - .02) / .05
        assert planner.metrics()["probes/zoom_in"] == pytest.approx(0.6)
        decided = [d for sample in planner.plan([f"s{k}" for k in range(500)], 1).values() for d in sample[:2]]
        # Five standard deviations of a binomial count.
        assert abs(decided.count("zoom_in") - 600) < 5 * (1000 * 0.6 * 0.4) ** 0.5

    def test_probes_and_broken_episodes_are_no_evidence(self, planner):
        broken = [replace_error(episode) for episode in played(50, used=50)]
        planner.count([*played(64, probes=30), *broken], 0)
        assert planner.metrics()["probes/zoom_in"] == 1.0
        assert planner.rates.probes(TASK) == 30

    def test_only_the_window_counts(self, planner):
        planner.count(played(640, used=640), 0)
        for iteration in (1, 2):
            planner.count(played(64), iteration)
        assert planner.metrics()["probes/zoom_in"] == 0.0
        planner.count(played(64), 3)
        assert planner.metrics()["probes/zoom_in"] == 1.0

    def test_decisions_depend_on_counts_seed_and_iteration_alone(self, planner):
        samples = [f"s{k}" for k in range(50)]
        planner.count(played(100, used=2), 0)
        other = ProbePlanner(PPO, make_env(ENV, probes=True))
        other.load_state_dict(planner.state_dict())
        assert other.plan(samples[20:], 1) == {s: planner.plan(samples, 1)[s] for s in samples[20:]}
        assert planner.plan(samples, 2) != planner.plan(samples, 1)
        reseeded = ProbePlanner(replace(PPO, seed=1), make_env(ENV, probes=True))
        reseeded.rates = planner.rates
        assert reseeded.plan(samples, 1) != planner.plan(samples, 1)

    def test_what_is_decided_stays_so_until_it_was_played(self, planner):
        """As where an iteration is sampled while the one before it is still trained on."""
        planner.count(played(64), 0)
        dead = planner.plan(["a"], 2)
        planner.count(played(640, used=640), 1)
        resumed = ProbePlanner(PPO, make_env(ENV, probes=True))
        resumed.load_state_dict(planner.state_dict())
        for each in (planner, resumed):
            assert each.plan(["a"], 2) == dead == {"a": ["zoom_in"] * 2 + [None] * 6}
            assert each.plan(["b"], 2) == {"b": [None] * 8}
            each.count(played(64), 2)
            assert each.state_dict()["planned"] == {}

    def test_off_by_default(self):
        planner = ProbePlanner(replace(PPO, probes=ProbesRecipe()), make_env(ENV, probes=False))
        planner.count(played(640), 0)
        assert planner.plan(["a"], 1) == {}
        assert planner.metrics() == {}


def replace_error(episode):
    episode.error = "judge: away"
    return episode


def test_environments_are_wrapped_only_when_asked_for():
    assert not isinstance(make_env(ENV, probes=False), ProbeOperations)
    env = make_env(ENV, probes=True)
    assert "probe" not in env.reset(options={"probe": None})[1]
    assert env.reset(options={"probe": "zoom_in"})[1]["probe"]["operation"] == "zoom_in"


def gradient(episodes):
    """Of the loss with respect to the log-probabilities of each episode's action ids."""
    rows = group_rows(Group(sample_id="s", episodes=episodes), normalize_std=False)
    bucket = make_bucket(rows)
    logprobs = bucket.old_logprobs.clone().requires_grad_()
    entropy = torch.ones_like(bucket.old_logprobs).requires_grad_()
    n = sum(row.n_trained for row in rows)
    recipe = replace(PPO, ent_coef=0.1)
    loss, metrics = objective(recipe, [bucket], {LOGPROBS: logprobs, ENTROPY: entropy}, normalizer=n)
    loss.backward()
    sizes = [row.n_actions for row in rows]
    return metrics, [[part.tolist() for part in x.grad.split(sizes)] for x in (logprobs, entropy)]


def test_gradients_of_forced_ids_by_hand():
    """A probe of two forced and one sampled id against two others with two ids each; ratio 1, so that the gradient of
    an id is -advantage / number of ids that carry a loss."""
    others = [make_episode([reward], turns=[2]) for reward in (1.0, 0.0)]

    def probe(reward, scale):
        episode = make_episode([reward], turns=[3], n_forced=2)
        return replace(episode, tokens=replace(episode.tokens, logprobs=scale * episode.tokens.logprobs))

    # exp(-3 - 4) is alive, exp(2 * (-3 - 4)) is dead.
    won, lost = 1.5, 0.0
    for scale, reward, expected in [
        (1, won, [-1.0 / 7] * 3),
        (2, won, [-1.0 / 7] * 3),
        (1, lost, [0.5 / 7] * 3),
        (2, lost, [0.0, 0.0, 0.5 / 5]),
    ]:
        _, (of_logprobs, of_entropy) = gradient([probe(reward, scale), *others])
        n = 5 if expected[0] == 0 else 7
        assert of_logprobs[0] == pytest.approx(expected)
        assert of_logprobs[1] == pytest.approx([-0.5 / n] * 2)
        assert of_entropy[0] == pytest.approx([0.0 if x == 0 else -0.1 / n for x in expected])


OPENING = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": ['


@pytest.fixture(scope="module")
def mute(speaker, tmp_path_factory):
    """The speaker, after it has learned not to zoom: the opening has a probability below 1e-5."""
    vlm = VLM.from_pretrained(speaker)
    env: Any = gymnasium.make(ENV.id, **ENV.kwargs)
    rows = [first_turn(vlm, env, f"train-{k}", OPENING) for k in range(32)]
    optimizer = torch.optim.AdamW(vlm.model.parameters(), lr=3e-4)
    for _ in range(200):
        said = opening_logprobs(vlm, rows)
        if said.max() < -13:
            break
        optimizer.zero_grad()
        said.clamp(min=-16).mean().backward()
        optimizer.step()
    assert said.max() < -12
    path = tmp_path_factory.mktemp("mute") / "model"
    vlm.save(path)
    return path


def first_turn(vlm, env, sample_id, text):
    """Tokens of a conversation whose first turn begins with `text`."""
    from pxr_agents.chat import Conversation

    observation, info = env.reset(options={"sample_id": sample_id})
    conversation = Conversation()
    vlm.chat.prompt(conversation, info["system_prompt"], observation)
    conversation.append_turn(vlm.chat.encode_text(text), train=True)
    return conversation.tokens()


def opening_logprobs(vlm, rows):
    """(n,) log-probability of what the first turn of each row begins with; all begin alike."""
    ids, logprobs, _ = token_distributions(vlm, collate(rows))
    return logprobs.gather(1, ids[:, None])[:, 0].view(len(rows), -1).sum(1)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
class TestTrainer:
    @pytest.fixture
    def probing(self, make_recipe, mute):
        """A function that makes a recipe of 4 groups of 4 with one probe each, once 64 episodes were counted."""

        def make(**changes):
            probes = ProbesRecipe(enabled=True, window=8)
            return make_recipe(**({"model": str(mute), "iterations": 8, "lr": 1e-4, "probes": probes} | changes))

        return make

    @staticmethod
    def plans(algorithm):
        return [episode.probe for episode in algorithm.last_episodes]

    @staticmethod
    def count_enough(algorithm, task=TASK):
        algorithm.books.probes.count(played(64, task=task), 0)

    def test_what_nobody_does_is_probed_and_the_rates_stay_the_policys(self, build, probing):
        algorithm = build(probing(env=uneven(ENV)))
        # 16 more are enough.
        algorithm.books.probes.count(played(48, task=UNEVEN), 0)
        algorithm.train()
        assert algorithm.last_iteration["usage_rate"] == algorithm.last_iteration["probe_rate"] == 0
        algorithm.train()
        assert self.plans(algorithm) == ["zoom_in", None, None, None] * 4
        metrics = algorithm.last_iteration
        assert metrics["probe_rate"] == 0.25
        assert metrics["probes/zoom_in"] == 1.0
        assert metrics["n_episodes"] == 16
        assert metrics["usage_rate"] == metrics["usage/zoom_in"] == metrics["reward/curiosity"] == 0
        assert metrics["learner/logprob_gap_max"] < 1e-4
        assert metrics["learner/ratio_max"] == pytest.approx(1, abs=1e-4)
        assert algorithm.books.probes.rates.episodes(UNEVEN) == 64 + 12
        assert algorithm.books.probes.rates.probes(UNEVEN) == 4

    def test_a_winning_probe_raises_the_probability_of_its_opening(self, build, probing, mute):
        from training.rllib.weights import learner_weights

        algorithm = build(probing(lr=3e-4))
        self.count_enough(algorithm)
        groups = algorithm.sampler.sample(["train-1", "train-2", "train-3", "train-4"])
        for group in groups:
            for episode in group.group.episodes:
                episode.steps[-1] = replace(episode.steps[-1], reward=float(episode.probe is not None))
        algorithm._learn(groups)
        before, after = VLM.from_pretrained(mute), VLM.from_pretrained(mute)
        after.model.load_state_dict(learner_weights(algorithm.learner_group))
        env = gymnasium.make(ENV.id, **ENV.kwargs)
        rows = [first_turn(before, env, f"train-{k}", OPENING) for k in range(1, 5)]
        with torch.no_grad():
            gain = opening_logprobs(after, rows) - opening_logprobs(before, rows)
        assert (gain > 0.01).all()

    def test_every_layout_of_processes_decides_and_learns_alike(self, build, probing):
        """Two runs of the same groups; with a budget of tokens, replay and two learners in one of them."""
        from training.rllib.weights import learner_weights

        results = []
        for layout in (
            {},
            {"num_learners": 2, "minibatch_tokens": 1_000_000, "uniform_groups": "replay", "num_minibatches": 4},
        ):
            algorithm = build(probing(max_grad_norm=1e4, normalize_std=True, env=uneven(ENV), **layout))
            self.count_enough(algorithm, UNEVEN)
            algorithm.train()
            results.append((algorithm, learner_weights(algorithm.learner_group)))
        (one, weights), (two, weights_of_two) = results
        assert self.plans(one) == self.plans(two) == ["zoom_in", None, None, None] * 4
        assert [e.steps for e in one.last_episodes] == [e.steps for e in two.last_episodes]
        assert two.last_iteration["learner/loss"] == pytest.approx(one.last_iteration["learner/loss"], abs=1e-5)
        gaps = [np.abs(np.asarray(weights[name]) - np.asarray(weights_of_two[name])) for name in weights]
        # Adam's first step is lr * sign(gradient): where the gradient is rounding noise, so is the sign.
        assert np.mean(np.concatenate([gap.ravel() for gap in gaps]) > 1e-6) < 0.01

    def test_a_resumed_run_decides_as_an_uninterrupted_one(self, build, probing, tmp_path):
        straight = build(probing())
        self.count_enough(straight)
        straight.train()
        saved = straight.save_to_path(str(tmp_path / "checkpoint"))
        straight.train()
        resumed = build(probing())
        resumed.restore_from_path(saved)
        resumed.train()
        assert self.plans(resumed) == self.plans(straight)
        assert "zoom_in" in self.plans(straight)
        assert [e.steps for e in resumed.last_episodes] == [e.steps for e in straight.last_episodes]
        assert resumed.books.probes.rates == straight.books.probes.rates

    def test_a_policy_that_uses_its_operations_is_left_alone_to_the_last_bit(self, build, probing, speaker):
        from training.rllib.weights import learner_weights

        weights = []
        for probes in (ProbesRecipe(), ProbesRecipe(enabled=True, window=8)):
            algorithm = build(probing(model=str(speaker), probes=probes))
            algorithm.books.probes.count(played(64, used=64), 0)
            algorithm.train()
            assert algorithm.last_iteration["usage_rate"] > 0.05
            weights.append(learner_weights(algorithm.learner_group))
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
