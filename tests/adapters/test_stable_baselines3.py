"""The checker of Stable-Baselines3 is content, and its PPO learns from the pixels."""

import re
import runpy
from pathlib import Path

import gymnasium
from stable_baselines3.common.env_checker import check_env

from pxr_env.adapters.grid import GridZoom

EXAMPLES = Path(__file__).parents[2] / "examples" / "adapters"


def test_its_checker_is_content_and_its_ppo_takes_steps(recwarn):
    check_env(GridZoom(gymnasium.make("pxr_env:pxr/SyntheticSearch-v0"), answers="ABC"))
    assert [str(warning.message) for warning in recwarn if "stable_baselines3" in warning.filename] == []
    example = EXAMPLES / "with_stable_baselines3.py"
    [block] = re.findall(r"```python\n(.*?)```", (EXAMPLES.parents[1] / "docs/adapters/grid.md").read_text(), re.DOTALL)
    assert example.read_text().endswith(block)
    model = runpy.run_path(str(example))["model"]
    assert (model.num_timesteps, model._n_updates) == (64, 1)
    assert 0 <= sum(episode["r"] for episode in model.ep_info_buffer) <= len(model.ep_info_buffer)
