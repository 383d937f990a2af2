"""skyrl-gym makes the environment by its name and plays the episodes, as its generator does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import skyrl_gym
from skyrl_gym.metrics import aggregate_for_environment

from pxr_env.adapters.skyrl_gym import register
from pxr_env.messages import read_observation
from tests.adapters.episodes import ENV_ID, EPISODES, assert_no_leak, equal_seen


def shown(message):
    observation, _ = read_observation(message)
    return observation["text"], list(observation["images"])


def test_20_episodes_are_those_of_step():
    register()
    register()
    metrics = []
    for episode in EPISODES:
        turns = episode.turns
        row = {"sample_id": episode.sample_id, "max_turns": len(turns), "data_source": "any"}
        env = skyrl_gym.make("pxr", env_config={"task": ENV_ID}, extras=row)
        handed, metadata = env.init([{"role": "user", "content": "of the row"}])
        seen, rewards = [shown(handed[1])], []
        for number, turn in enumerate(turns, start=1):
            step = env.step(turn.written())
            rewards.append(step["reward"])
            assert step["done"] == (number == len(turns))
            handed += step["observations"]
            seen += [shown(message) for message in step["observations"]]
        assert equal_seen(seen, episode.seen)
        assert rewards == [0.0] * (len(turns) - 1) + [episode.reward]
        metrics.append(env.get_metrics())
        used = {f"used_{name}": count for name, count in episode.info["usage"].items()}
        assert metrics[-1] == step["metadata"] == {**episode.info["reward_terms"], **used, "turns": len(turns)}
        assert_no_leak([handed, metadata])
        env.close()
    mean = aggregate_for_environment("pxr", metrics)
    assert mean["correct"] == np.mean([episode.info["reward_terms"]["correct"] for episode in EPISODES])


def test_the_example_is_that_of_the_page():
    example = Path("examples/adapters/with_skyrl_gym.py")
    assert f"```python\n{example.read_text()}```" in Path("docs/adapters/skyrl_gym.md").read_text()
    printed = subprocess.run([sys.executable, example], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "1.0 {'correct': 1.0, 'used_zoom_in': 1, 'turns': 2}"
