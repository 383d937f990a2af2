"""Notices that an environment does not come back from `reset` or `step` (where its scorer runs), and ends the wait.

A sample that cannot be shown, because its picture cannot be decoded, is named in the same way.

    watchdog = Watchdog(timeout=300)
    envs = [watchdog.watch(gymnasium.make(...))]
    with watchdog:
        rollout(envs, agent, jobs)          # raises StuckEnvironmentError

Python code that waits (for a lock, a file, an answer, a process) is interrupted in the main thread by a signal. Where
that does not help, the process is ended: nobody may wait for ever.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple, Self

import gymnasium

from pxr_env.errors import DataError, MediaError
from training.run_directory import RESUME

# Nothing else here uses it.
_SIGNAL = signal.SIGALRM
#: Exit status of a process that ended itself because an environment could not be interrupted.
STUCK_STATUS = 70


class StuckEnvironmentError(RuntimeError):
    """An environment did not come back, or cannot show its sample: which call of which environment it is, for how long
    and where it waits, or why it cannot go on."""

    def __init__(self, sample_id: str, message: str) -> None:
        super().__init__(sample_id, message)
        self.sample_id = sample_id

    def __str__(self) -> str:
        return str(self.args[1])


class _Call(NamedTuple):
    """A call that is under way."""

    env: str
    name: str
    sample_id: str
    since: float
    thread: int


class Watchdog:
    """Watches the environments of one thread, which are called one after the other.

    Args:
        timeout: seconds a call may take.
        grace: seconds that an interrupted call gets to come back.
    """

    def __init__(self, timeout: float, *, grace: float = 10.0) -> None:
        self._timeout, self._grace = timeout, grace
        self._call: _Call | None = None
        self._stuck: StuckEnvironmentError | None = None
        self._stop = threading.Event()
        self._handler: Any = None

    def watch(self, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        """The environment, whose calls are watched as long as this watchdog is open."""
        return _Watched(env, self)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        # Only the main thread gets signals, and only it may say what they do.
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(_SIGNAL, self._interrupt)
        self._end_if_frozen()
        threading.Thread(target=self._look, args=(self._stop,), name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._handler is not None:
            signal.signal(_SIGNAL, self._handler)
            self._handler = None

    @contextlib.contextmanager
    def call(self, env: str, name: str, sample_id: str) -> Iterator[None]:
        """What happens inside is one call of an environment."""
        self._call = _Call(env, name, sample_id, time.monotonic(), threading.get_ident())
        try:
            yield
        except (MediaError, DataError) as error:
            message = f"{name} of {env} cannot show sample {sample_id}: {error}"
            raise StuckEnvironmentError(sample_id, message) from error
        finally:
            self._call = self._stuck = None

    def _look(self, stop: threading.Event) -> None:
        """Runs in a thread of its own."""
        tick = min(self._timeout / 4, 5.0)
        try:
            while not stop.wait(tick):
                call = self._call
                self._end_if_frozen()
                if call is not None and time.monotonic() - call.since > self._timeout:
                    self._end(call, stop)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _end_if_frozen(self) -> None:
        """Where native code keeps the interpreter to itself, no thread gets to call this again: then the process ends,
        and says in which frame of which thread it was."""
        faulthandler.dump_traceback_later(self._timeout + 2 * self._grace, exit=True, file=2)

    def _end(self, call: _Call, stop: threading.Event) -> None:
        error = StuckEnvironmentError(call.sample_id, _message(call, self._timeout))
        self._stuck = error
        if self._handler is not None and call.thread == threading.main_thread().ident:
            signal.pthread_kill(call.thread, _SIGNAL)
            if stop.wait(self._grace) or self._call is not call:
                return
        message = f"{error} It cannot be interrupted, so this process ends. {RESUME}"
        logging.getLogger("training").error("%s", message)
        print(message, file=sys.stderr, flush=True)
        os._exit(STUCK_STATUS)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """In the main thread. The call may have come back meanwhile."""
        if self._stuck is not None:
            raise self._stuck


class _Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gymnasium.Env[Any, Any], watchdog: Watchdog) -> None:
        super().__init__(env)
        self._watchdog, self._sample_id = watchdog, ""
        self._name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._sample_id = str((options or {}).get("sample_id", ""))
        with self._watchdog.call(self._name, "reset", self._sample_id):
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with self._watchdog.call(self._name, "step", self._sample_id):
            return self.env.step(action)


def _message(call: _Call, timeout: float) -> str:
    frame = sys._current_frames().get(call.thread)
    stack = traceback.extract_stack(frame) if frame is not None else []
    where = f" It waits in {stack[-1].filename}:{stack[-1].lineno} ({stack[-1].name})." if stack else ""
    call_and_time = f"{call.name} of {call.env} has not come back for env_timeout={timeout:g} s"
    return f"{call_and_time} with sample {call.sample_id}.{where}"
