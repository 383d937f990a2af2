"""An operation, a scorer, a reward, an environment and an agent of your own, from one file.

cd examples
pxr eval run my_parts:my/Search-v0 --agent my_parts:UpperHalf --limit 8 --out ../runs/mine
pxr train ppo ppo_tiny model=MODEL env.id=my_parts:my/Search-v0 --plain
"""

import gymnasium

from pxr_env import register_operation
from pxr_env.operations import TARGET_IMAGE
from pxr_env.scoring import register_scorer


@register_operation("upper_half", "Show the upper half of an image again, larger.", {"target_image": TARGET_IMAGE})
def upper_half(context, target_image):
    return context.view(target_image).only_region().part((0, 0, 1, 0.5), (1, 1))


@register_scorer("any_case", source="ours: letters of either case")
def any_case(answer, sample):
    return float(answer.strip().upper() in {accepted.upper() for accepted in sample.answers})


class CostOfWords(gymnasium.Wrapper):
    """Takes a little for every character of a turn; `info["reward_terms"]` says how much."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        cost = -1e-4 * len(action)
        info["reward_terms"] = {**info["reward_terms"], "words": cost}
        return observation, reward + cost, terminated, truncated, info


def make(**kwargs):
    arguments = {"operations": ["zoom_in", "upper_half"], "scorer": "any_case", **kwargs}
    return CostOfWords(gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", **arguments))


gymnasium.register("my/Search-v0", entry_point="my_parts:make")


class UpperHalf:
    """Looks at the upper half once, then answers A."""

    def __init__(self):
        self.looked = False

    def act(self, observation):
        if self.looked:
            return r"\boxed{A}"
        self.looked = True
        return '<tool_call>{"name": "upper_half", "arguments": {"target_image": 1}}</tool_call>'
