"""Why training cannot go on. Every message says what happened, what was saved and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RESUME = "Start the same command again to resume."


class TrainingError(ValueError):
    """Training cannot go on: the message says why, and what was saved."""


class LostProcessError(TrainingError):
    """Processes that the run cannot do without died, or do not answer. What they knew is in the newest checkpoint, so a
    run goes on from there by itself, as often as its `max_restarts` allows."""


class NonFiniteError(TrainingError):
    """Something that would be learned from is no finite number; the weights are as they were before.

    Args:
        message: what is wrong, where.
        batches: what was to be learned from, as it is written to OUT/failed_batch.json.
    """

    def __init__(self, message: str, batches: Sequence[Mapping[str, Any]] = ()) -> None:
        # All of it in `args`, or it would get lost between processes.
        super().__init__(message, list(batches))
        self.batches = [dict(batch) for batch in batches]

    def __str__(self) -> str:
        return str(self.args[0])
