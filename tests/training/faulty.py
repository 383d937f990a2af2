"""The search task with samples at which something goes wrong, really: processes die, calls never come back.

`faults` names for each such sample what happens in its first step, and how often; what has happened is counted in files
of `folder`, so that it is known in all processes.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium

from pxr_env.env import VisualReasoningEnv
from pxr_env.media import ImageSource

ID = "tests.training.faulty:faulty/Search-v0"
ALWAYS = 10**6


class Faulty(gymnasium.Wrapper):
    def __init__(self, env: gymnasium.Env, folder: str, faults: dict[str, list[Any]]) -> None:
        super().__init__(env)
        self._folder, self._faults, self._sample_id = Path(folder), faults, ""

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        self._sample_id = info["sample_id"]
        return observation, info

    def step(self, action):
        what = self._due()
        if what == "lost":
            (self._folder / "lost").touch()
        if what in ("sleep", "lost"):
            time.sleep(1000)
        if what == "native":
            # Waits for itself and keeps the interpreter, as careless extensions do: no signal gets through.
            mutex = ctypes.create_string_buffer(64)
            for _ in range(2):
                ctypes.PyDLL(None).pthread_mutex_lock(mutex)
        if what == "stubborn":
            sleep_whatever_comes(1000)
        if what == "unreadable":
            _ = ImageSource(path=Path(__file__)).image
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        observation, reward, terminated, truncated, info = self.env.step(action)
        if what == "nan":
            reward, info = math.nan, info | {"reward_terms": dict(info["reward_terms"]) | {"outcome": math.nan}}
        if what == "lock":
            info = info | {"answer": threading.Lock()}
        return observation, reward, terminated, truncated, info

    def _due(self) -> str | None:
        what, times = self._faults.get(self._sample_id, (None, 0))
        if what is None:
            return None
        self._folder.mkdir(exist_ok=True)
        counter = self._folder / self._sample_id
        if counter.exists() and counter.stat().st_size >= times:
            return None
        with counter.open("a") as file:
            file.write("x")
        return what


def sleep_whatever_comes(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(1)
        except Exception:
            continue


def make(folder: str, faults: dict[str, list[Any]], **arguments) -> gymnasium.Env:
    if (lost := Path(folder) / "lost").exists():
        raise FileNotFoundError(f"what {lost} stands for is not there any more")
    inner = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", **arguments).unwrapped
    assert isinstance(inner, VisualReasoningEnv)
    return Faulty(inner, folder, faults)


gymnasium.register("faulty/Search-v0", entry_point=make)
