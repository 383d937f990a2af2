"""Two agents of PettingZoo share one episode, one looks and one tells: pip install pxr-gym pettingzoo"""

from gymnasium.spaces import Dict
from pettingzoo import AECEnv
from pettingzoo.utils import AgentSelector

from pxr_env import ToolSession
from pxr_env.messages import read_observation
from pxr_env.spaces import ImagesSpace, TextSpace


class LookAndTell(AECEnv):
    """The looker writes calls, the teller the answer; both see the last reply, and both are paid for the answer."""

    def __init__(self, env_id="pxr_env:pxr/SyntheticSearch-v0", **kwargs):
        super().__init__()
        self.metadata = {"name": "look_and_tell_v0", "is_parallelizable": False}
        seen = Dict({"images": ImagesSpace(), "text": TextSpace()})
        self.observation_spaces = {"looker": seen, "teller": seen}
        self.session = ToolSession(env_id, images="array", **kwargs)
        self.possible_agents = ["looker", "teller"]
        self.render_mode = None

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.session.env.action_space

    def reset(self, seed=None, options=None):
        sample_id = (options or {}).get("sample_id")
        self.seen = read_observation({"content": self.session.reset(seed=seed, sample_id=sample_id)})[0]
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict(self.rewards)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self._order = AgentSelector(self.agents)
        self.agent_selection = self._order.reset()

    def observe(self, agent):
        return self.seen

    def step(self, action):
        if self.terminations[self.agent_selection] or self.truncations[self.agent_selection]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[self.agent_selection] = 0.0
        self.seen = read_observation({"content": self.session.say(action)})[0]
        outcome = self.session.outcome
        if outcome is not None:
            self.rewards = dict.fromkeys(self.agents, outcome.reward)
            ends = self.truncations if "truncated_by" in outcome.info else self.terminations
            ends.update(dict.fromkeys(self.agents, True))
        self.infos = dict.fromkeys(self.agents, self.session.info)
        self.agent_selection = self._order.next()
        self._accumulate_rewards()


if __name__ == "__main__":
    env = LookAndTell()
    env.reset(seed=0)
    for agent in env.agent_iter():
        observation, reward, terminated, truncated, info = env.last()
        env.step(None if terminated or truncated else env.action_space(agent).sample())
    print(env.session.outcome.reward)
