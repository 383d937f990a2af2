"""A task whose environment takes its time, as one does that asks a service: `benchmarks.slow_env:SlowSearch-v0`."""

from __future__ import annotations

import time
from typing import Any

import gymnasium

import pxr_env  # noqa: F401  (registers the tasks)


class Slow(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Waits before every step, without using the processor.

    Args:
        env: the environment.
        seconds: how long.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], seconds: float) -> None:
        super().__init__(env)
        self._seconds = seconds

    def step(self, action: Any) -> Any:
        time.sleep(self._seconds)
        return super().step(action)


def slow_search(seconds: float, search: dict[str, Any]) -> Slow:
    """`pxr/SyntheticSearch-v0` with the arguments in `search`."""
    return Slow(gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", **search), seconds)


gymnasium.register("SlowSearch-v0", entry_point=slow_search)
