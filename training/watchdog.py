"""Notices that an environment does not come back from `reset` or `step` (where its scorer runs), and ends the wait.

    watchdog = Watchdog(timeout=300)
    envs = [watchdog.watch(gymnasium.make(...))]
    with watchdog:
        rollout(envs, agent, jobs)          # raises StuckEnvironmentError

Python code that waits (for a lock, a file, an answer, a process) is interrupted in the main thread by a timer's signal.
Where that does not help, the process is ended: nobody may wait for ever. A sample that cannot be shown, because its
picture cannot be decoded, is named in the same way.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self, TypeVar

import gymnasium

from pxr_env.errors import DataError, MediaError
from .run_directory import RESUME

#: Exit status of a process that ended itself because an environment could not be interrupted.
STUCK_STATUS = 70

Returned = TypeVar("Returned")


class StuckEnvironmentError(RuntimeError):
    """An environment did not come back, or cannot show its sample: which call of which environment it is, for how long
    and where it waits, or why it cannot go on.

    Attributes:
        sample_id: the sample it is at.
        interrupted: it was stopped somewhere on its way, and nobody knows in what state it is.
    """

    def __init__(self, sample_id: str, message: str, *, interrupted: bool = True) -> None:
        super().__init__(sample_id, message)
        self.sample_id, self.interrupted = sample_id, interrupted

    def __str__(self) -> str:
        return str(self.args[1])


class Watchdog:
    """Watches the environments of one thread, which are called one after the other.

    Args:
        timeout: seconds a call may take.
        grace: seconds that an interrupted call gets to come back.
    """

    def __init__(self, timeout: float, *, grace: float = 10.0) -> None:
        self._timeout, self._grace = timeout, grace
        self._open = self._interrupts = self._interrupted = False
        self._call: tuple[Callable[[], str], str] | None = None
        self._handler: Any = None

    def watch(self, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        """The environment, whose calls are watched as long as this watchdog is open."""
        return _Watched(env, self)

    def __enter__(self) -> Self:
        self._open = True
        # Only the main thread gets signals, and only it may say what they do.
        self._interrupts = threading.current_thread() is threading.main_thread()
        if self._interrupts:
            self._handler = signal.signal(signal.SIGALRM, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        self._open = False
        if self._interrupts:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._handler)

    def call(self, what: Callable[[], str], sample_id: str, function: Callable[[], Returned]) -> Returned:
        """Call a method of an environment; `what` names both, once it is under way."""
        try:
            if not self._open:
                return function()
            return self._watched(what, sample_id, function)
        except (MediaError, DataError) as error:
            told = f"{what()} cannot show sample {sample_id}: {error}"
            # A decoder may have taken the interrupt for an error of its file.
            raise StuckEnvironmentError(sample_id, told, interrupted=self._interrupted) from error

    def _watched(self, what: Callable[[], str], sample_id: str, function: Callable[[], Returned]) -> Returned:
        # Where native code keeps the interpreter to itself no handler is called: then the C library ends the process,
        # and says in which frame of which thread it was.
        faulthandler.dump_traceback_later(self._timeout + 2 * self._grace, exit=True, file=2)
        self._call, self._interrupted = (what, sample_id), False
        if self._interrupts:
            signal.setitimer(signal.ITIMER_REAL, self._timeout, self._grace)
        try:
            return function()
        finally:
            self._call = None
            if self._interrupts:
                signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, after `timeout` seconds and then every `grace` seconds."""
        if self._call is None:
            return
        what, sample_id = self._call
        where = f" It waits in {frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})." if frame else ""
        told = f"{what()} has not come back for env_timeout={self._timeout:g} s with sample {sample_id}.{where}"
        if not self._interrupted:
            self._interrupted = True
            raise StuckEnvironmentError(sample_id, told)
        message = f"{told} It cannot be interrupted, so this process ends. {RESUME}"
        logging.getLogger(__name__).error("%s", message)
        print(message, file=sys.stderr, flush=True)
        os._exit(STUCK_STATUS)


class _Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gymnasium.Env[Any, Any], watchdog: Watchdog) -> None:
        super().__init__(env)
        self._watchdog, self._sample_id = watchdog, ""

    @property
    def _name(self) -> str:
        return self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._sample_id = str((options or {}).get("sample_id", ""))
        shown = self._watchdog.call(
            lambda: f"reset of {self._name}", self._sample_id, lambda: self.env.reset(seed=seed, options=options)
        )
        # Of several environments another one may have been chosen.
        self._cached_spec = self.env.spec
        return shown

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return self._watchdog.call(lambda: f"step of {self._name}", self._sample_id, lambda: self.env.step(action))
