"""Agents that tests name as `tests.eval.scripted:factory`."""

from __future__ import annotations

from typing import Any

import gymnasium

from pxr_agents.agents import EachEpisode, Oracle
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


#: The process is stopped when this episode begins (counted from 1), None: never.
interrupt_at: int | None = None


def hostile() -> Agent:
    return EachEpisode(_Hostile)


def interrupted() -> Agent:
    """The oracle, until `interrupt_at`."""
    n_started = 0

    def player(env: gymnasium.Env) -> Oracle:
        nonlocal n_started
        n_started += 1
        if n_started == interrupt_at:
            raise KeyboardInterrupt
        return Oracle(env)

    return EachEpisode(player)


def no_agent() -> dict[str, str]:
    return {"act": "nothing"}
