"""An environment that kills the process it is in, once: where it shows the sample `deadly`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium

import pxr_env  # noqa: F401  (registers the tasks)


class Deadly(gymnasium.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gymnasium.Env[Any, Any], deadly: str, marker: Path) -> None:
        super().__init__(env)
        self._deadly, self._marker = deadly, marker

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if (options or {}).get("sample_id") == self._deadly and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.env.reset(seed=seed, options=options)


def make(deadly: str, marker: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    env = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", disable_env_checker=True, **kwargs).unwrapped
    return Deadly(env, deadly, Path(marker))


if "Deadly-v0" not in gymnasium.registry:
    gymnasium.register("Deadly-v0", entry_point="tests.training.deadly:make", disable_env_checker=True)
