"""Where a turn ends."""

from __future__ import annotations

from collections.abc import Sequence

from pxr_agents.chat import ChatFormat
from pxr_agents.types import Sampling


class TurnEnd:
    """Whether the newest id ends a turn: the stop id does, and one that completes a stop string.

    Args:
        chat: whose ids they are.
        sampling: with the stop strings, and the ids that are forced, in which none is looked for.
    """

    def __init__(self, chat: ChatFormat, sampling: Sampling) -> None:
        self._chat, self._strings, self._n_forced = chat, sampling.stop, len(sampling.forced)
        # An id stands for one byte at least.
        self._window = max((len(string.encode()) for string in sampling.stop), default=0)

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether the turn is over.

        Args:
            ids: of the turn so far; it was not over before the last of them.
        """
        if ids[-1] == self._chat.stop_id:
            return True
        if not self._strings:
            return False
        tail = self._chat.decode(ids[max(self._n_forced, len(ids) - self._window) :])
        return any(string in tail for string in self._strings)
