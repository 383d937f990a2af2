"""Which samples come next: every sample once per epoch, in an order that only depends on the seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class SampleCursor:
    """Walks through shuffled sample ids, epoch after epoch. Its whole state is one number."""

    def __init__(self, sample_ids: Sequence[str], *, seed: int) -> None:
        if not len(sample_ids):
            raise ValueError("The data has no samples; expected at least one to train on")
        self._ids, self._seed, self._taken = sample_ids, seed, 0
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def take(self, n: int) -> list[str]:
        """The next `n` ids, all different.

        Raises:
            ValueError: if the data has fewer than n samples.
        """
        if n > len(self._ids):
            raise ValueError(
                f"got data of {len(self._ids)} samples, expected {n} different ones at a time; set "
                f"groups_per_iteration (or batch_size) to at most {len(self._ids)}"
            )
        taken: list[str] = []
        while len(taken) < n:
            sample_id = str(self._ids[self._index()])
            self._taken += 1
            # At the seam of two epochs an id could come twice; its second turn is skipped.
            if sample_id not in taken:
                taken.append(sample_id)
        return taken

    def _index(self) -> int:
        epoch, place = divmod(self._taken, len(self._ids))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, 5, epoch]).permutation(len(self._ids))
        return int(self._order[place])

    def state_dict(self) -> dict[str, int]:
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._taken = state["taken"]
