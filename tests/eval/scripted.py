"""Agents that tests name as `tests.eval.scripted:factory`."""

from __future__ import annotations

from typing import Any

import gymnasium

from pxr_agents.agents import EachEpisode
from pxr_agents.types import Agent, Observation

HOSTILE = '<script>alert("pwned")</script><img src=x onerror=alert(1)></pre></details>'


class _Hostile:
    """Writes markup wherever a model can write: prose, a call, an answer."""

    def __init__(self, env: Any) -> None:
        self._turns = iter(
            [
                f"{HOSTILE} \ud800",
                '<tool_call>{"name": "' + HOSTILE.replace('"', "'") + '", "arguments": {}}</tool_call>',
                f"<answer>{HOSTILE}</answer>",
            ]
        )

    def act(self, observation: Observation) -> str:
        return next(self._turns)


def hostile() -> Agent:
    return EachEpisode(_Hostile)


def no_agent() -> dict[str, str]:
    return {"act": "nothing"}


class _SecondSource:
    """Zooms into the second image, then into what it got, then answers."""

    def __init__(self, env: gymnasium.Env) -> None:
        calls = ["[250, 250, 750, 750], 2", "[500, 500, 1000, 1000], 3"]
        self._turns = iter([*(self._call(*call.rsplit(", ", 1)) for call in calls), "\\boxed{first}"])

    @staticmethod
    def _call(box: str, target: str) -> str:
        arguments = f'{{"bbox_2d": {box}, "target_image": {target}}}'
        return f'<tool_call>{{"name": "zoom_in", "arguments": {arguments}}}</tool_call>'

    def act(self, observation: Observation) -> str:
        return next(self._turns)


def second_source() -> Agent:
    return EachEpisode(_SecondSource)


#: What `answering` answers to each sample; None: nothing that could be scored.
answers: dict[str, str | None] = {}


class _Answering:
    """Gives the answer that is written down for the sample, at once."""

    def __init__(self, env: gymnasium.Env) -> None:
        self._env: Any = env.unwrapped

    def act(self, observation: Observation) -> str:
        answer = answers[self._env.sample.sample_id]
        return "I do not know." if answer is None else str(self._env.dialect.render_answer(answer))


def answering(env: gymnasium.Env) -> _Answering:
    return _Answering(env)


class _Polite:
    """An agent of somebody who knows nothing of environments: it sees observations, and answers."""

    def __init__(self) -> None:
        self._n = 0

    def act(self, observation: Observation) -> str:
        self._n += 1
        return "Let me think." if self._n == 1 else f"\\boxed{{{len(observation['images'])}{self._n}}}"


def polite() -> _Polite:
    return _Polite()
