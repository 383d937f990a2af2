"""Where sampling noise comes from: the run's seed, the sample, the repeat and the turn, and nothing else.

So an episode's noise is the same on every engine, in whatever order episodes run, however many at once, and after
whatever interruption.
"""

from __future__ import annotations

import hashlib


def episode_seed(seed: int | tuple[int, ...], sample_id: str, repeat: int = 0) -> int:
    """Seed of one episode, for `Job.seed`.

    Args:
        seed: of the run, or numbers that name a part of it (such as an iteration).
        sample_id: the sample.
        repeat: which episode of the sample it is, from 0.
    """
    return _seed("episode", seed, repeat, sample_id)


def turn_seed(seed: int, turn: int) -> int:
    """Seed of one turn (from 0) of an episode with this seed."""
    return _seed("turn", seed, turn)


def _seed(*parts: object) -> int:
    """31 bits: servers take no more."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:4], "big") >> 1
