"""The state of a running episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pxr_env.types import OperationCall, Sample
from pxr_env.views import View

#: Name under which turns and calls that could not be read are counted in `info["failures"]`.
MALFORMED = "malformed"


@dataclass(kw_only=True, slots=True)
class Episode:
    """What happened so far. Holds no pixels: views are rectangles of sources.

    Args:
        sample: what is asked.
        usage: operation -> executed calls.
        views: the images shown, in order.
        failures: operation, or "malformed" -> refused calls.
        calls: the executed calls with the numbers of the views they showed.
        n_duplicates: calls that had been executed before.
        n_clipped: executed calls of which a box or a point was cut off at the edge of its image.
        n_turns: messages of the model.
        ended: whether the episode is over.
    """

    sample: Sample
    usage: dict[str, int]
    views: list[View] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    calls: list[tuple[OperationCall, tuple[int, ...]]] = field(default_factory=list)
    n_duplicates: int = 0
    n_clipped: int = 0
    n_turns: int = 0
    ended: bool = False

    @property
    def n_operations(self) -> int:
        """Number of executed operations."""
        return sum(self.usage.values())

    def fail(self, name: str) -> None:
        """Counts a call that was refused."""
        self.failures[name] = self.failures.get(name, 0) + 1

    def executed(self, call: OperationCall, new: Sequence[View]) -> None:
        """Counts an executed call and shows its views."""
        self.usage[call.name] += 1
        self.calls.append((call, tuple(view.index for view in new)))
        self.views += new

    def numbered(self, numbers: Sequence[int]) -> list[View]:
        """Returns the views of these numbers, from 1."""
        return [self.views[number - 1] for number in numbers]
