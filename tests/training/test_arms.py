"""Arms of a group in the trainer: who is what, what is counted, what is learned, on every layout of processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from pxr_agents.groups import Group
from pxr_agents.types import Episode, Step
from pxr_agents.vlm import VLM, collate
from pxr_env.curiosity import Attempts, ProbeOperations
from tests.distributions import token_distributions
from tests.training.conftest import ENV
from tests.training.rows import make_episode
from tests.training.uneven import uneven
from training.advantages import group_advantages
from training.arms import ArmPlanner, GroupPlan
from training.batch import group_rows, make_bucket, replay_weight
from training.config import CuriosityRecipe, PPORecipe, ProbesRecipe, SelectiveRecipe
from training.environments import make_env
from training.loss import ENTROPY, LOGPROBS, objective

TASK, UNEVEN = "pxr/SyntheticSearch-v0", "uneven/Any-v0"
PPO = PPORecipe(model="m", env=ENV, group_size=8, probes=ProbesRecipe(enabled=True, window=3))


def arms(planner, sample_ids, iteration):
    """What every rollout of these groups is made to do."""
    return {sample_id: list(plan.arms) for sample_id, plan in planner.plan(sample_ids, iteration).items()}


def played(n, *, used=0, probes=0, task=TASK):
    """`n` episodes of the policy of which `used` zoomed in, and `probes`."""
    own = [Episode(task=task, sample_id=f"s{k}", usage={"zoom_in": int(k < used)}) for k in range(n)]
    return own + [Episode(task=task, sample_id="s0", usage={"zoom_in": 1}, probe="zoom_in") for _ in range(probes)]


class TestPlanner:
    @pytest.fixture
    def planner(self):
        return ArmPlanner(PPO, make_env(ENV, arms=True))

    def test_nothing_is_probed_before_enough_was_counted(self, planner):
        planner.count(played(63), 0)
        assert arms(planner, ["a"], 1) == {"a": [None] * 8}
        assert planner.metrics() == {"probe_rate": 0.0, "probes/zoom_in": 0.0}

    def test_the_first_quarter_of_each_group_begins_with_a_dead_operation(self, planner):
        planner.count(played(64), 0)
        assert arms(planner, ["a", "b"], 1) == dict.fromkeys("ab", ["zoom_in"] * 2 + [None] * 6)
        assert planner.metrics()["probes/zoom_in"] == 1.0

    def test_the_rarer_it_is_the_more_probes(self, planner):
        planner.count(played(100, used=2), 0)
        # (.05 - .02) / .05
        assert planner.metrics()["probes/zoom_in"] == pytest.approx(0.6)
        decided = [d for sample in arms(planner, [f"s{k}" for k in range(500)], 1).values() for d in sample[:2]]
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
        other = ArmPlanner(PPO, make_env(ENV, arms=True))
        other.load_state_dict(planner.state_dict())
        assert arms(other, samples[20:], 1) == {s: arms(planner, samples, 1)[s] for s in samples[20:]}
        assert arms(planner, samples, 2) != arms(planner, samples, 1)
        reseeded = ArmPlanner(replace(PPO, seed=1), make_env(ENV, arms=True))
        reseeded.rates = planner.rates
        assert arms(reseeded, samples, 1) != arms(planner, samples, 1)

    def test_what_is_decided_stays_so_until_it_was_played(self, planner):
        """As where an iteration is sampled while the one before it is still trained on."""
        planner.count(played(64), 0)
        dead = arms(planner, ["a"], 2)
        planner.count(played(640, used=640), 1)
        resumed = ArmPlanner(PPO, make_env(ENV, arms=True))
        resumed.load_state_dict(planner.state_dict())
        for each in (planner, resumed):
            assert arms(each, ["a"], 2) == dead == {"a": ["zoom_in"] * 2 + [None] * 6}
            assert arms(each, ["b"], 2) == {"b": [None] * 8}
            each.count(played(64), 2)
            assert each.state_dict()["planned"] == {}

    def test_off_by_default(self):
        planner = ArmPlanner(replace(PPO, probes=ProbesRecipe()), make_env(ENV, arms=False))
        planner.count(played(640), 0)
        assert planner.plan(["a"], 1) == {}
        assert planner.metrics() == {}


def rollouts(sample_id="s", *, once="", looked="", withdrawn="", forced="", needs=None):
    """A group of rollouts that were right (1) or wrong (0): at once, after looking, without operations, made to answer.

    Free rollouts come first.
    """

    def episode(right, *, turns=1, **facts):
        steps = [Step(turn="t", reply="", reward=0.0, reward_terms={})] * turns
        right = bool(int(right))
        return Episode(
            task=TASK, sample_id=sample_id, steps=steps, answer="A", correct=right, needs_operation=needs, **facts
        )

    return [
        *[episode(right) for right in once],
        *[episode(right, turns=2, usage={"zoom_in": 1}) for right in looked],
        *[episode(right, probe="answer") for right in forced],
        *[episode(right, withdrawn=True) for right in withdrawn],
    ]


SELECTIVE = replace(PPO, probes=ProbesRecipe(), selective=SelectiveRecipe(enabled=True, prior=0.0))


class TestSelective:
    @pytest.fixture
    def planner(self):
        return ArmPlanner(SELECTIVE, make_env(ENV, arms=True))

    def test_nothing_happens_before_operations_are_mastered(self, planner):
        planner.count(rollouts(once="1111", looked="1110", needs=True), 0)
        # (.75 - .7) / .3
        assert planner.metrics() == {"selective/gate": pytest.approx(1 / 6), "selective/solved": 1.0}
        planner.count(rollouts(looked="0"), 1)
        # .8 * .75 + .2 * 0 is below .7; nobody answered at once, so that mean stays.
        assert planner.metrics() == {"selective/gate": 0.0, "selective/solved": 1.0}
        assert planner.plan(["a"], 2) == {"a": GroupPlan(arms=(None,) * 8)}

    def test_then_the_last_rollouts_answer_at_once_and_do_without(self, planner):
        planner.count([*rollouts("a", once="10", looked="1"), *rollouts("b", once="1", looked="11")], 0)
        plan = planner.plan(["a"], 1)["a"]
        assert plan.arms == (None,) * 5 + ("answer", "withdrawn", "withdrawn")
        assert (plan.gate, plan.mean) == (1.0, 0.75)
        # Half of the two attempts at a, one of which was right, is left.
        assert plan.earlier == Attempts(1.0, 0.5)

    def test_state_goes_on(self, planner):
        planner.count([*rollouts("a", once="10", looked="1"), *rollouts("b", once="1", looked="11")], 0)
        planner.plan(["a"], 1)
        other = ArmPlanner(SELECTIVE, make_env(ENV, arms=True))
        other.load_state_dict(planner.state_dict())
        for each in (planner, other):
            each.count(rollouts("c", once="0", looked="1"), 1)
        assert other.metrics() == planner.metrics()
        assert other.plan(["a", "c", "d"], 2) == planner.plan(["a", "c", "d"], 2)

    def test_what_curiosity_asks_for_fades_where_samples_are_solved_at_once(self):
        plan = GroupPlan(arms=(None,), gate=0.5, mean=0.6, prior=1.0)
        members = rollouts(once="1", looked="1", withdrawn="10", forced="0")
        # At once: 2 of 4 right, and the mean counts for one more: 2.6 / 5 = .52.
        assert plan.solved(members) == pytest.approx(0.52)
        assert plan.faded(CuriosityRecipe(), members).overrides == {"H": pytest.approx(0.3 * (1 - 0.5 * 0.52))}
        assert plan.faded(CuriosityRecipe(preset="off"), members) == CuriosityRecipe(preset="off")
        assert replace(plan, gate=0.0).faded(CuriosityRecipe(), members) == CuriosityRecipe()

    def test_the_first_id_by_hand(self):
        plan = GroupPlan(arms=(None,), gate=0.5, mean=0.8, prior=0.0)
        members = rollouts(once="0", looked="111", withdrawn="11", forced="0")
        # At once: 2 of 4 right, so solved less often than others by .3; 3 of 4 free ones looked first.
        push = 8.0 * 0.5 * 0.3
        expected = [-0.75 * push, *[0.25 * push] * 3, -0.75 * push, 0.0, 0.0]
        assert plan.first_id(members, 8.0) == pytest.approx(tuple(expected))
        assert plan.first_id(members, 0.0) == replace(plan, gate=0.0).first_id(members, 8.0) == ()

    def test_a_broken_call_is_no_answer(self):
        [broken, answered] = rollouts(once="11")
        broken.answer = None
        assert GroupPlan(gate=1.0, mean=0.0).solved([broken, answered]) == pytest.approx(1 / 2)
        assert GroupPlan(gate=1.0, mean=0.0, prior=0.0).first_id([broken, answered], 1.0) == (-0.5, 0.5)

    def test_estimated_need_beside_the_certified(self, planner):
        planner.count([*rollouts("a", once="1", looked="1", needs=False)], 0)
        needy = rollouts("b", once="00", looked="1", needs=True), rollouts("c", once="10", looked="1", needs=True)
        easy = rollouts("d", once="11", looked="1", needs=False), rollouts("e", once="01", looked="1", needs=False)
        planner.count([each for group in (*needy, *easy) for each in group], 1)
        # Needs 1 and .5 beside 0 and .5: three pairs in order, one equal.
        assert planner.metrics()["need/auc"] == 3.5 / 4
        assert planner.metrics()["need/brier"] == (0 + 0.25 + 0 + 0.25) / 4

    def test_withdrawn_rollouts_are_no_evidence_of_usage(self):
        recipe = replace(SELECTIVE, probes=ProbesRecipe(enabled=True, window=3))
        planner = ArmPlanner(recipe, make_env(ENV, arms=True))
        planner.count(rollouts(once="1" * 64, withdrawn="1" * 36), 0)
        assert planner.rates.episodes(TASK) == 64


def test_recipes_leave_rollouts_alone():
    for selective, message in [
        (SelectiveRecipe(enabled=True, withdrawn=1), "selective.withdrawn"),
        (SelectiveRecipe(enabled=True, withdrawn=4, answer=3), "in place of 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(PPO, probes=ProbesRecipe(), selective=selective)


def test_an_episode_without_operations():
    env = make_env(ENV, arms=True)
    observation, info = env.reset(options={"sample_id": "train-0", "withdrawn": True, "probe": None})
    assert info["withdrawn"]
    assert "zoom_in" not in info["system_prompt"]
    *_, truncated, info = env.step('<tool_call>{"name": "zoom_in", "arguments": {}}</tool_call>')
    assert (truncated, info["truncated_by"], info["withdrawn"]) == (True, "max_turns", True)
    assert env.reset(options={"probe": "zoom_in"})[1]["probe"]["operation"] == "zoom_in"
    offered, info = env.reset(options={"sample_id": "train-0", "probe": "answer"})
    assert info["probe"] == {"operation": "answer", "opening": "\\boxed{"}
    assert "zoom_in" in info["system_prompt"]
    assert (offered["images"][0] == observation["images"][0]).all()


def test_advantages_of_each_arm_by_hand():
    """Two free rollouts, one made to answer, and two without operations, which are compared with each other."""
    rewards, probed = [1.0, 0.0, 1.0, 1.0, 0.0], [False, False, True, False, False]
    withdrawn = [False, False, False, True, True]
    assert group_advantages(rewards, np.array(probed), np.array(withdrawn)) == pytest.approx(
        [0.5, -0.5, 0.5, 0.5, -0.5]
    )
    normalized = group_advantages(rewards, np.array(probed), np.array(withdrawn), normalize_std=True)
    assert normalized == pytest.approx([1, -1, 1, 1, -1], abs=1e-3)


def test_first_ids_reach_the_learner():
    episodes = [make_episode([reward], turns=[2]) for reward in (1.0, 0.0)]
    rows = group_rows(Group(sample_id="s", episodes=episodes, first_id=(0.25, -1.0)), normalize_std=False)
    assert [row.advantages.tolist() for row in rows] == [[0.75, 0.5], [-1.5, -0.5]]
    # All did alike, and yet there is something to learn.
    alike = Group(sample_id="s", episodes=[episodes[0]] * 2, first_id=(0.25, -0.25))
    assert replay_weight(alike, PPO) == 0.5
    assert all(row.teaches for row in group_rows(alike, normalize_std=False))


def test_a_forced_answer_that_lost_and_had_no_chance_is_left_out():
    episode = make_episode([0.0], turns=[3], n_forced=2)
    # exp(-3 - 4) is .0009: dead for an answer, alive for a call.
    for probe, trained in (("answer", [False, False, True]), ("zoom_in", [True] * 3)):
        group = Group(sample_id="s", episodes=[replace(episode, probe=probe), *[make_episode([1.0])] * 2])
        assert group_rows(group, normalize_std=False)[0].mask.tolist() == trained


def replace_error(episode):
    episode.error = "judge: away"
    return episode


def test_environments_are_wrapped_only_when_asked_for():
    assert not isinstance(make_env(ENV, arms=False), ProbeOperations)
    env = make_env(ENV, arms=True)
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
        algorithm.books.arms.count(played(64, task=task), 0)

    def test_what_nobody_does_is_probed_and_the_rates_stay_the_policys(self, build, probing):
        algorithm = build(probing(env=uneven(ENV)))
        # 16 more are enough.
        algorithm.books.arms.count(played(48, task=UNEVEN), 0)
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
        assert algorithm.books.arms.rates.episodes(UNEVEN) == 64 + 12
        assert algorithm.books.arms.rates.probes(UNEVEN) == 4

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
        assert resumed.books.arms.rates == straight.books.arms.rates

    def test_a_policy_that_uses_its_operations_is_left_alone_to_the_last_bit(self, build, probing, speaker):
        from training.rllib.weights import learner_weights

        weights = []
        for probes in (ProbesRecipe(), ProbesRecipe(enabled=True, window=8)):
            algorithm = build(probing(model=str(speaker), probes=probes))
            algorithm.books.arms.count(played(64, used=64), 0)
            algorithm.train()
            assert algorithm.last_iteration["usage_rate"] > 0.05
            weights.append(learner_weights(algorithm.learner_group))
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    def test_arms_resume_bit_for_bit(self, build, make_recipe, speaker, tmp_path):
        from training.rllib.weights import learner_weights

        def make():
            selective = SelectiveRecipe(enabled=True, gate=0.0, answer=1, withdrawn=2)
            recipe = make_recipe(
                model=str(speaker), iterations=8, group_size=6, env=uneven(ENV), selective=selective, lr=1e-4
            )
            return build(recipe)

        straight = make()
        # Whoever uses an operation is right: the gate is open.
        straight.books.arms.count(rollouts("z", once="10", looked="11"), 0)
        straight.train()
        saved = straight.save_to_path(str(tmp_path / "checkpoint"))
        straight.train()
        kinds = [(episode.probe, episode.withdrawn) for episode in straight.last_episodes]
        assert kinds == [*[(None, False)] * 3, ("answer", False), *[(None, True)] * 2] * (len(kinds) // 6)
        metrics = straight.last_iteration
        assert metrics["arm/answer/rate"] == pytest.approx(1 / 6)
        assert metrics["arm/withdrawn/rate"] == pytest.approx(2 / 6)
        assert metrics["learner/logprob_gap_max"] < 1e-4
        resumed = make()
        resumed.restore_from_path(saved)
        resumed.train()
        assert [e.steps for e in resumed.last_episodes] == [e.steps for e in straight.last_episodes]
        ours, theirs = (learner_weights(each.learner_group) for each in (straight, resumed))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
