"""Episodes and token rows made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pxr_agents.types import Episode, Step, Tokens


def make_tokens(turns, gap=2, prompt=3):
    """Tokens of `turns` (lengths): a prompt, turns of action ids, and `gap` observation ids between them."""
    action = [False] * prompt
    ends = []
    for k, length in enumerate(turns):
        action += [False] * (gap if k else 0) + [True] * length
        ends.append(len(action) - 1)
    n = len(action)
    return Tokens(
        ids=np.arange(1, n + 1, dtype=np.int32),
        action=np.array(action),
        logprobs=np.where(action, -np.arange(n, dtype=np.float32), 0).astype(np.float32),
        positions=np.tile(np.arange(n, dtype=np.int32), (3, 1)),
        images=(),
        turn_ends=tuple(ends),
    )


def make_episode(rewards, *, usage=0, unrepaired=False, turns=None, sample_id="s", n_forced=0):
    """An episode whose turn k earned `rewards[k]` of the term "correct"; a probe if ids were forced."""
    steps = [Step(turn="t", reply="r", reward=r, reward_terms={"correct": r}) for r in rewards]
    tokens = make_tokens(turns or [2] * len(rewards))
    if n_forced:
        forced = np.zeros(len(tokens.ids), bool)
        forced[np.flatnonzero(tokens.action)[:n_forced]] = True
        tokens = replace(tokens, forced=forced)
    return Episode(
        task="task",
        sample_id=sample_id,
        steps=steps,
        usage={"zoom_in": usage},
        unrepaired=unrepaired,
        probe="zoom_in" if n_forced else None,
        tokens=tokens,
    )
