"""The agent's seat: one environment, the conversation as a model would see it, and the images of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
import numpy as np

from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import DataError, did_you_mean, quote
from pxr_env.types import OperationCall

#: Facts of the sample that would help to answer: told at the end.
_SECRETS = ("needs_operation", "evidence_box", "evidence_time", "category")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of the conversation.

    Args:
        role: "system", "user" (the environment) or "assistant" (who sits here).
        text: exactly what a model would read or write.
        images: the numbers of the images that come before the text.
    """

    role: str
    text: str
    images: tuple[int, ...] = ()


class Seat:
    """Plays episodes of an environment, and keeps the messages and the images of the present one.

    Every turn goes through the environment's dialect and its `step`, as a model's would.

    Args:
        env: the environment, with wrappers of its own if it has any.

    Attributes:
        env: the environment below its wrappers.
        messages: the conversation so far.
        images: the images so far, uint8 HxWx3, image number n at n - 1.
        info: what the environment said last.
        reward: of the episode once it is over, the sum over its turns, else None.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        self._wrapped = env
        self.env = cast(VisualReasoningEnv, env.unwrapped)
        self.messages: list[Message] = []
        self.images: list[np.ndarray] = []
        self.info: dict[str, Any] = {}
        self.reward: float | None = None
        # What the turns so far were paid, in all and by term.
        self._paid: dict[str, float] = {}
        self._return = 0.0

    @property
    def is_over(self) -> bool:
        """Whether no episode is running."""
        return self.reward is not None or not self.messages

    def start(self, *, seed: int | None = None, sample_id: str | None = None) -> Message:
        """Begins an episode and returns its first message; without arguments the sample is drawn.

        Raises:
            ValueError: a negative seed; the running episode goes on.
            DataError: an unknown sample id, likewise, or a sample that cannot be shown.
            MediaError: an image or a video that cannot be read.
        """
        if seed is not None and seed < 0:
            raise ValueError(f"got the seed {seed}, expected an integer of at least 0.")
        ids = self.env.data.sample_ids()
        if sample_id is not None and sample_id not in ids:
            raise DataError(
                f'got the sample "{quote(sample_id)}", expected one of {len(ids)} ids, "{ids[0]}" to "{ids[-1]}".'
                f"{did_you_mean(sample_id, ids)}"
            )
        self.messages, self.images, self.info, self.reward = [], [], {}, None
        self._paid, self._return = {}, 0.0
        observation, info = self._wrapped.reset(
            seed=seed, options=None if sample_id is None else {"sample_id": sample_id}
        )
        self.info = info
        self.messages.append(Message(role="system", text=info["system_prompt"]))
        return self._show(observation)

    def call(self, operation: str, arguments: Mapping[str, Any]) -> Message:
        """Calls an operation and returns the reply.

        Raises:
            ValueError: the dialect cannot express the call, or the episode is over.
        """
        return self.send(self.env.dialect.render_call(OperationCall(name=operation, arguments=arguments)))

    def answer(self, text: str) -> Message:
        """Gives the final answer and returns the reply, which is empty.

        Raises:
            ValueError: the dialect cannot express the answer, or the episode is over.
        """
        return self.send(self.env.dialect.render_answer(text))

    def send(self, turn: str) -> Message:
        """Sends a turn exactly as a model would write it, and returns the reply.

        Raises:
            ValueError: the episode is over.
        """
        if self.is_over:
            raise ValueError("got a turn after the end of the episode, expected a new episode first.")
        observation, reward, terminated, truncated, self.info = self._wrapped.step(turn)
        self.messages.append(Message(role="assistant", text=turn))
        self._return += float(reward)
        for name, value in self.info["reward_terms"].items():
            self._paid[name] = self._paid.get(name, 0.0) + value
        if terminated or truncated:
            self.reward = self._return
        return self._show(observation)

    def outcome(self) -> list[str]:
        """Returns how the episode ended, and what could not be told before, line by line."""
        info = self.info
        limit = info.get("truncated_by")
        given = "no answer" if info["answer"] is None else f'"{info["answer"]}"'
        terms = " ".join(f"{name} {value:+g}" for name, value in self._paid.items())
        lines = [f"over, truncated by {limit}" if limit else "over"]
        lines.append(f'answer {given}, target "{info["target"]}": {"correct" if info["correct"] else "not correct"}')
        lines.append(f"reward {self.reward:g} = {terms}")
        if info["failures"]:
            lines.append("refused: " + ", ".join(f"{name} {count}" for name, count in info["failures"].items()))
        return lines + [f"{name} {info[name]}" for name in _SECRETS if name in info]

    def overview(self) -> np.ndarray | None:
        """Returns the sources with the boxes of all images, uint8 HxWx3; None without a render mode."""
        return self.env.render()

    def _show(self, observation: Mapping[str, Any]) -> Message:
        first = len(self.images) + 1
        self.images += observation["images"]
        message = Message(
            role="user", text=observation["text"], images=tuple(range(first, first + len(observation["images"])))
        )
        if message.text or message.images:
            self.messages.append(message)
        return message
