"""Which losses a run survives by starting again from its newest checkpoint, and how long anybody waits for learners."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from pxr_agents.engines.vllm.errors import EngineError
from training.errors import LostProcessError, NonFiniteError, TrainingError
from training.faults import failed_batch_error
from training.run_directory import Interrupted

# Answers of living processes, and of dead ones, come at once.
_PING_TIMEOUT = 10.0
_LINE = 200
_LOST = (LostProcessError, EngineError, RayActorError, ObjectLostError, GetTimeoutError)


class LearnerWatch:
    """Ends the wait for learners that do not finish: RLlib would wait for ever for one that hangs in a collective.

    Args:
        learner_group: RLlib's.
        timeout: seconds.
    """

    def __init__(self, learner_group: Any, timeout: float) -> None:
        self._group, self._timeout, self._expired = learner_group, timeout, False
        remote = learner_group.is_remote
        self._actors = [result.get() for result in learner_group.foreach_learner(_itself)] if remote else []

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """What happens inside may take so long; then all learners are killed, which ends every wait for them.

        Raises:
            LostProcessError: it took longer, or a learner died meanwhile.
        """
        timer = threading.Timer(self._timeout, self._expire)
        timer.daemon = True
        if self._actors:
            timer.start()
        try:
            yield
        except (Interrupted, TrainingError):
            raise
        except Exception as error:
            why = self._why()
            if why is None:
                raise
            raise LostProcessError(f"{why} ({_first_line(error)})") from error
        finally:
            timer.cancel()

    def _why(self) -> str | None:
        if self._expired:
            return f"The learners did not finish within learner_timeout={self._timeout:g} s and were killed"
        dead = self._dead()
        if not dead:
            return None
        numbers = ", ".join(map(str, dead))
        return f"Learner {numbers} of {len(self._actors)} died" if len(dead) == 1 else f"Learners {numbers} died"

    def _dead(self) -> list[int]:
        """Numbers of the learners whose processes are gone."""
        calls = [actor.__ray_ready__.remote() for actor in self._actors]
        dead = []
        for number, call in enumerate(calls):
            try:
                ray.get(call, timeout=_PING_TIMEOUT)
            except RayActorError:
                dead.append(number)
            except (RayTaskError, GetTimeoutError):
                continue
        return dead

    def _expire(self) -> None:
        self._expired = True
        for actor in self._actors:
            ray.kill(actor)


def lost_process(error: Exception) -> LostProcessError | None:
    """The error as one that a run survives by starting again; None if it would come again."""
    if isinstance(error, LostProcessError):
        return error
    if isinstance(error, _LOST):
        return LostProcessError(_first_line(error))
    return None


def failed_batch(error: NonFiniteError, learner_group: Any) -> NonFiniteError:
    """The error with what every learner was about to learn from."""
    results = learner_group.foreach_learner(
        lambda learner: learner.failed_batch, healthy_only=False, timeout_seconds=_PING_TIMEOUT
    )
    batches = [batch for result in results if result.ok and (batch := result.get()) is not None]
    # From another process it comes with its traceback around it.
    return failed_batch_error(str(getattr(error, "cause", error)), batches)


def _first_line(error: BaseException) -> str:
    lines = str(getattr(error, "cause", None) or error).strip().splitlines() or [type(error).__name__]
    return lines[0][:_LINE].rstrip(".")


def _itself(learner: Any) -> Any:
    return ray.get_runtime_context().current_actor
