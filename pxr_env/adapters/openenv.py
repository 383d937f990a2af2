"""A task as an OpenEnv server: sessions side by side, and observations that are chat messages with images.

>>> app = build_app("pxr_env:pxr/SyntheticSearch-v0", max_concurrent_envs=8)    # in server.py: uvicorn server:app
>>> with PixelClient(base_url="http://localhost:8000").sync() as client:    # in another process
...     messages = client.reset(seed=0).observation.messages
...     result = client.step(PixelAction(content=model(messages)))
...     messages += result.observation.messages
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from openenv.core.client_types import StepResult
from openenv.core.env_client import EnvClient
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from pydantic import Field

from pxr_env.session import ToolSession


class PixelAction(Action):
    """A message of the model: text with calls in it, in the dialect of the environment, or native tool calls."""

    content: str = Field(default="", description="What the model wrote.")
    tool_calls: list[dict[str, Any]] = Field(default_factory=list, description="Its calls, as OpenAI's API has them.")
    is_last: bool = Field(
        default=False, description="Whether the model stops here: the answer is scored, or the lack of one."
    )


class PixelObservation(Observation):
    """What follows. `messages` are for the model, `reward` and `reward_terms` for the trainer: 0 until the end, then
    those of the whole episode. `metadata` is `ToolSession.info`."""

    messages: list[dict[str, Any]] = Field(
        description="Chat messages of the user or of tools: texts, and images as PNG data URIs."
    )
    reward_terms: dict[str, float] = Field(default_factory=dict, description="They add up to the reward.")


class PixelEnvironment(Environment[PixelAction, PixelObservation, State]):
    """A session of a client.

    Args:
        task: the id of a task, or a session whose data it shares.
        native: whether the prompt is that for native tool calls, whose schemas stand in `metadata["tools"]`.
        kwargs: of its environment.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, task: str | ToolSession, *, native: bool = False, **kwargs: Any) -> None:
        super().__init__()
        self.session = ToolSession(task, images="png", **kwargs)
        self._native = native
        self._state = State()

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, sample_id: str | None = None
    ) -> PixelObservation:
        """Begins an episode; shows the system prompt and the question. Errors are those of the environment."""
        question = self.session.reset(sample_id=sample_id, seed=seed)
        self._state = State(episode_id=episode_id)
        prompt = self.session.native_prompt if self._native else self.session.system_prompt
        messages = [{"role": "system", "content": prompt}, {"role": "user", "content": question}]
        return PixelObservation(messages=messages, metadata=self.session.info)

    def step(self, action: PixelAction, timeout_s: float | None = None) -> PixelObservation:
        """Plays a message. ResetNeeded for a text after the end."""
        self._state.step_count += 1
        if action.is_last:
            self.session.end(action.content)
            messages = []
        else:
            messages = self.session.respond({"content": action.content, "tool_calls": action.tool_calls})
        outcome = self.session.outcome
        return PixelObservation(
            messages=messages,
            metadata=self.session.info,
            done=outcome is not None,
            reward=0.0 if outcome is None else outcome.reward,
            reward_terms={} if outcome is None else outcome.reward_terms,
        )

    @property
    def state(self) -> State:
        """The id that the client gave, and the messages it sent."""
        return self._state

    def close(self) -> None:
        """Closes the environment."""
        self.session.close()


def build_app(task: str, *, native: bool = False, max_concurrent_envs: int = 8, **kwargs: Any) -> FastAPI:
    """The server, with so many sessions at once; the rest is that of `PixelEnvironment`."""
    first = ToolSession(task, **kwargs)

    def make() -> PixelEnvironment:
        return PixelEnvironment(first, native=native)

    return create_fastapi_app(make, PixelAction, PixelObservation, max_concurrent_envs=max_concurrent_envs)


class PixelClient(EnvClient[PixelAction, PixelObservation, State]):
    """The client with the types above; `GenericEnvClient` gives the same as dicts."""

    def _step_payload(self, action: PixelAction) -> dict[str, Any]:
        return action.model_dump(exclude_defaults=True)

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[PixelObservation]:
        told = {name: payload.get(name) for name in ("reward", "done")}
        observation = PixelObservation(**payload["observation"], **told)
        return StepResult(observation=observation, **told)

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(**payload)
