"""The curiosity reward of single episodes by hand, and probes in real environments."""

import functools

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from pxr_env.curiosity import CuriosityReward, ProbeOperations, UsageRates, curiosity_formula, followed_probe

TASK = "pxr_env:pxr/SyntheticSearch-v0"
NAME = "pxr/SyntheticSearch-v0"
ZOOM = '<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 0.5, 0.5], "target_image": 1}}</tool_call>'
ANSWER = "\\boxed{A}"


def counted(episodes):
    rates = UsageRates()
    for episode in episodes:
        rates.record(*episode)
    return rates


class ScriptedEnv(gymnasium.Env):
    """Speaks the info of a pixel environment. Actions: 0 answers (right), 1 executes an operation, 2 fails one,
    3 does both."""

    observation_space = gymnasium.spaces.Discrete(1)
    action_space = gymnasium.spaces.Discrete(4)

    def __init__(self, keys=("sample_id", "usage", "failures", "reward_terms"), probe=None):
        self.keys = keys
        self.probe = {} if probe is None else {"probe": probe}

    def _info(self, terms):
        info = {"sample_id": self.sample_id, "reward_terms": terms}
        info.update(usage={"zoom_in": self.usage}, failures={"zoom_in": self.failures})
        self.last_info = {key: info[key] for key in self.keys} | self.probe
        return self.last_info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sample_id = (options or {}).get("sample_id", "1")
        self.usage = self.failures = 0
        return 0, self._info({})

    def step(self, action):
        self.usage += action in (1, 3)
        self.failures += action in (2, 3)
        done = action == 0
        return 0, float(done), done, False, self._info({"correct": 1.0} if done else {})


def play(env, actions, sample_id="1"):
    env.reset(options={"sample_id": sample_id})
    for action in actions:
        _, reward, terminated, _, info = env.step(action)
    assert terminated
    return reward, info


class TestCuriosityReward:
    def test_running_rates_by_hand(self):
        env = CuriosityReward(ScriptedEnv())
        # Nothing is known, rate 0: .5 * .3 = .15; second operation: .05 * (1 - 2) = -.05; 1 + .15 - .05 = 1.1
        reward, info = play(env, [1, 1, 0])
        assert reward == pytest.approx(1.1)
        assert info["reward_terms"] == pytest.approx({"correct": 1.0, "curiosity": 0.15, "penalty": -0.05})
        # This sample was always seen with an operation, rate 1: no bonus
        assert play(env, [1, 0])[0] == 1.0
        # A new sample: the task's rate, 2/2 so far, and after three more without operation 2/5: no bonus either
        for _ in range(3):
            assert play(env, [0], "2")[0] == 1.0
        assert play(env, [1, 0], "3")[0] == 1.0
        # Sample 2 was seen without operation only: rate 0, the full bonus; afterwards 1/4: .5 * (.3 - .25) = .025
        assert play(env, [1, 0], "2")[0] == pytest.approx(1.15)
        assert play(env, [1, 0], "2")[0] == pytest.approx(1.025)
        assert env.rates.rate("ScriptedEnv", "2") == 2 / 5
        assert env.rates.rate("ScriptedEnv") == 5 / 8

    def test_only_the_last_step_pays_and_the_inner_info_stays(self):
        env = CuriosityReward(ScriptedEnv())
        env.reset()
        _, reward, _, _, info = env.step(1)
        assert reward == 0.0
        assert info["reward_terms"] == {}
        env.step(0)
        assert env.unwrapped.last_info["reward_terms"] == {"correct": 1.0}

    def test_an_abandoned_episode_is_not_counted(self):
        env = CuriosityReward(ScriptedEnv())
        env.reset()
        env.step(1)
        play(env, [0])
        assert env.rates.episodes("ScriptedEnv") == 1
        assert env.rates.rate("ScriptedEnv") == 0.0

    def test_released_code_stays_finite_and_voids_unrepaired_answers(self):
        env = CuriosityReward(ScriptedEnv(), preset="released-code")
        # Rate 0 counts as 1/8: (.3 - .125) / 2 / .125 * .25 = .175
        reward, info = play(env, [1, 2, 0])
        assert info["reward_terms"] == pytest.approx({"correct": 0.0, "curiosity": 0.175, "penalty": 0.0})
        assert reward == pytest.approx(0.175)
        # Repaired before the answer; and a failure of the episode before does not count
        assert play(env, [2, 1, 0])[0] == 1.0
        assert play(env, [1, 2, 0])[0] == 0.0
        assert play(env, [1, 3, 0])[1]["reward_terms"]["correct"] == 0.0
        assert play(env, [0])[0] == 1.0

    def test_rates_may_be_replaced(self):
        env = CuriosityReward(ScriptedEnv())
        env.rates = counted([("ScriptedEnv", "1", {"zoom_in": i == 0}) for i in range(4)]).merge(env.rates)
        # 1 of 4: .5 * (.3 - .25) = .025
        assert play(env, [1, 0])[0] == pytest.approx(1.025)

    def test_a_followed_probe_is_neither_paid_nor_counted_as_usage(self):
        env = CuriosityReward(ScriptedEnv(probe={"operation": "zoom_in", "opening": "", "followed": True}))
        reward, info = play(env, [1, 1, 0])
        assert info["reward_terms"] == pytest.approx({"correct": 1.0, "curiosity": 0.0, "penalty": -0.05})
        assert reward == pytest.approx(0.95)
        assert env.rates.rate("ScriptedEnv") is None
        assert env.rates.probes("ScriptedEnv", operation="zoom_in") == 1

    def test_a_probe_that_was_not_followed_is_an_episode_like_others(self):
        env = CuriosityReward(ScriptedEnv(probe={"operation": "zoom_in", "opening": "", "followed": False}))
        assert play(env, [1, 0])[0] == pytest.approx(1.15)
        assert env.rates.rate("ScriptedEnv") == 1.0

    def test_the_spec_survives_json(self):
        gymnasium.register("Scripted-v0", entry_point=f"{__name__}:ScriptedEnv")
        try:
            env = CuriosityReward(gymnasium.make("Scripted-v0"), preset="paper", alpha=1.0, N=3)
            again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
        finally:
            del gymnasium.registry["Scripted-v0"]
        assert isinstance(again, CuriosityReward)
        assert again.formula == curiosity_formula("paper", alpha=1.0, N=3)
        assert play(again, [1, 0])[0] == pytest.approx(1.3)  # 1 + 1 * .3
        assert again.task == "Scripted-v0"

    def test_mistakes(self):
        with pytest.raises(TypeError, match='Did you mean "alpha"'):
            CuriosityReward(ScriptedEnv(), alhpa=1.0)
        with pytest.raises(ValueError, match="already hold"):
            play(CuriosityReward(CuriosityReward(ScriptedEnv())), [0])
        with pytest.raises(KeyError, match='no "usage"'):
            play(CuriosityReward(ScriptedEnv(keys=("sample_id", "reward_terms"))), [0])


def make_env():
    return CuriosityReward(gymnasium.make(TASK))


# One episode per row, and the turns of the three environments: every environment answers in the same step.
EPISODES = [
    [(ZOOM, ANSWER), (ZOOM, ANSWER), ("hm", ANSWER)],
    [("hm", ANSWER), ("hm", ANSWER), ("hm", ANSWER)],
    [(ZOOM, ANSWER), ("hm", ANSWER), ("hm", ANSWER)],
]


def test_three_processes_count_like_one():
    envs = AsyncVectorEnv([make_env] * 3, shared_memory=False, autoreset_mode=AutoresetMode.DISABLED)
    alone = make_env()
    try:
        for number, episode in enumerate(EPISODES):
            seeds = [100 * number + who for who in range(3)]
            envs.reset(seed=seeds)
            for turns in zip(*episode, strict=True):
                _, _, terminated, _, _ = envs.step(turns)
            assert terminated.all()
            for seed, turns in zip(seeds, episode, strict=True):
                alone.reset(seed=seed)
                for turn in turns:
                    alone.step(turn)
        together = functools.reduce(UsageRates.merge, envs.get_attr("rates"))
    finally:
        envs.close()
    assert together == alone.rates
    assert together.episodes(NAME) == 9
    assert together.rate(NAME) == together.rate(NAME, operation="zoom_in") == 3 / 9


def turns_of(env):
    """A turn that calls zoom_in as asked, one that thinks first, and an answer."""
    call = env.unwrapped.dialect.call_opening("zoom_in") + '0, 0, 0.5, 0.5], "target_image": 1}}\n</tool_call>'
    return call, f"Hm. {call}", ANSWER


@pytest.fixture
def env():
    return CuriosityReward(ProbeOperations(gymnasium.make(TASK, operations=["zoom_in", "flip"])))


class TestProbeOperations:
    def test_the_opening_is_that_of_the_dialect(self, env):
        _, info = env.reset(seed=0, options={"probe": "zoom_in"})
        assert info["probe"] == {"operation": "zoom_in", "opening": env.unwrapped.dialect.call_opening("zoom_in")}

    def test_a_followed_probe_is_no_usage_and_gets_no_bonus(self, env):
        call, _, answer = turns_of(env)
        env.reset(seed=0, options={"probe": "zoom_in"})
        _, _, _, _, info = env.step(call)
        assert info["probe"]["followed"] is True
        assert info["usage"] == {"zoom_in": 1, "flip": 0}
        _, _, terminated, _, info = env.step(answer)
        assert terminated
        assert followed_probe(info) == "zoom_in"
        assert (info["reward_terms"]["curiosity"], info["reward_terms"]["penalty"]) == (0.0, 0.0)
        assert (env.rates.episodes(NAME), env.rates.probes(NAME, operation="zoom_in")) == (0, 1)

    def test_a_probe_that_is_not_followed_is_the_policys_own(self, env):
        _, later, answer = turns_of(env)
        env.reset(seed=0, options={"probe": "zoom_in"})
        assert env.step(later)[-1]["probe"]["followed"] is False
        info = env.step(answer)[-1]
        assert followed_probe(info) is None
        assert info["reward_terms"]["curiosity"] == pytest.approx(0.15)  # .5 * .3
        assert (env.rates.episodes(NAME), env.rates.probes(NAME)) == (1, 0)
        assert env.rates.rate(NAME, operation="zoom_in") == 1.0

    def test_blanks_at_the_end_of_the_opening_are_not_asked_for(self):
        env = ProbeOperations(gymnasium.make("pxr_env:pxr/SyntheticVideo-v0"))
        _, info = env.reset(seed=0, options={"probe": "seek"})
        opening = info["probe"]["opening"]
        assert opening.endswith('"start": ')
        _, _, _, _, info = env.step(opening.rstrip() + '0, "end": 1}}\n</tool_call>')
        assert info["probe"]["followed"] is True
        assert info["usage"]["seek"] == 1

    @pytest.mark.parametrize("options", [None, {"probe": None}])
    def test_other_episodes_have_no_probe(self, env, options):
        env.reset(seed=0, options={"probe": "flip"})
        assert "probe" not in env.reset(seed=0, options=options)[1]
        assert "probe" not in env.step(ANSWER)[-1]

    def test_an_operation_that_there_is_not(self, env):
        with pytest.raises(ValueError, match=r'got a probe of "zoom_on"; expected .*Did you mean "zoom_in"'):
            env.reset(options={"probe": "zoom_on"})

    def test_the_spec_survives_json(self, env):
        again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
        assert isinstance(again.env, ProbeOperations)
        assert again.reset(options={"probe": "flip"})[1]["probe"]["operation"] == "flip"
