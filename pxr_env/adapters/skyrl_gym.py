"""A task as an environment of skyrl-gym: turns of text, and messages with images as `image_url` parts.

>>> register()
>>> env = skyrl_gym.make("pxr", env_config={"task": "pxr_env:pxr/SyntheticSearch-v0"}, extras={"seed": 0})
>>> messages, _ = env.init([])
>>> step = env.step(model(messages))
>>> messages += step["observations"]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import skyrl_gym
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

from pxr_env.session import shared_session


def register(name: str = "pxr") -> None:
    """Makes `PixelEnv` known to skyrl-gym, as the `env_class` of rows; does nothing where it is known already."""
    if name not in skyrl_gym.envs.registration.registry:
        skyrl_gym.register(id=name, entry_point="pxr_env.adapters.skyrl_gym:PixelEnv")


class PixelEnv(BaseTextEnv):
    """An episode in the environment's dialect.

    Args:
        env_config: `task`, the id of a task, and the arguments of its environment.
        extras: the row: `sample_id` or `seed` choose the sample, `max_turns` is the trainer's limit: the message that
            reaches it is the last one, and scored if it has an answer. Everything else is left alone.
    """

    def __init__(self, env_config: Mapping[str, Any], extras: Mapping[str, Any]) -> None:
        super().__init__()
        arguments = dict(env_config)
        self.session = shared_session(arguments.pop("task"), images="png", **arguments)
        self.max_turns = extras.get("max_turns")
        self._begin = {name: extras.get(name) for name in ("sample_id", "seed")}

    def init(self, prompt: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Begins the episode: system prompt and question take the place of the row's prompt, which may be anything.
        Errors are those of the environment's `reset`."""
        question = self.session.reset(**self._begin)
        self.turns = 0
        system = {"role": "system", "content": self.session.system_prompt}
        return [system, {"role": "user", "content": question}], {"sample_id": self.session.info["sample_id"]}

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Plays a message of the model. The reward of the whole episode comes at its end; `metadata` is not for the
        model. ResetNeeded if the episode is over."""
        self.turns += 1
        if self.turns == self.max_turns:
            self.session.end(action)
        reply = [] if self.session.is_over else self.session.say(action)
        outcome = self.session.outcome
        return BaseTextEnvStepOutput(
            observations=[{"role": "user", "content": reply}] if outcome is None else [],
            reward=0.0 if outcome is None else outcome.reward,
            done=outcome is not None,
            metadata={} if outcome is None else self.get_metrics(),
        )

    def get_metrics(self) -> dict[str, Any]:
        """Reward terms, executed calls by operation as `used_NAME`, and turns; skyrl-gym averages them."""
        outcome = self.session.outcome
        terms = {} if outcome is None else outcome.reward_terms
        used = {f"used_{name}": count for name, count in self.session.info.get("usage", {}).items()}
        return {**terms, **used, "turns": self.turns}

    def close(self) -> None:
        """Closes the environment."""
        self.session.close()
