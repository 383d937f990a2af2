"""PettingZoo's own test is content with two agents in one episode, and both are paid for its answer."""

import runpy
from pathlib import Path

import numpy as np
from pettingzoo.test import api_test

from tests.adapters.episodes import ENV_ID, EPISODES, assert_no_leak, equal_seen

EXAMPLE = Path(__file__).parents[2] / "examples" / "adapters" / "with_pettingzoo.py"
LookAndTell = runpy.run_path(str(EXAMPLE))["LookAndTell"]


def test_its_own_test():
    api_test(LookAndTell(), num_cycles=20)


def test_the_20_episodes_are_those_of_step():
    env = LookAndTell(ENV_ID)
    for episode in EPISODES:
        env.reset(options={"sample_id": episode.sample_id})
        turns, seen, paid, handed = iter(episode.turns), [], {"looker": 0.0, "teller": 0.0}, []
        for agent in env.agent_iter():
            observation, reward, terminated, truncated, info = env.last()
            paid[agent] += reward
            turn = None if terminated or truncated else next(turns, None)
            if turn is None and not (terminated or truncated):
                break  # the script is cut off here
            if turn is not None:
                seen.append((observation["text"], list(observation["images"])))
                handed.append({name: value for name, value in info.items() if name != "answer"})
            env.step(None if turn is None else turn.written())
        assert equal_seen(seen, episode.seen)
        assert_no_leak(handed)
        if env.session.is_over:
            assert list(paid.values()) == [episode.reward] * 2
        assert all(isinstance(image, np.ndarray) for _, images in seen for image in images)
