"""Episodes and token rows made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

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


def trained_logprobs(vlm, row):
    """(id, log-probabilities) of every trained id: one row a time, allowed ids only, by transformers' own forward."""
    ids = torch.from_numpy(row.ids.astype(np.int64))[None]
    positions = torch.from_numpy(row.positions.astype(np.int64))[:, None]
    logits = vlm.model.lm_head(vlm.hidden_states(ids, positions, row.images)[0]).double()
    banned = torch.zeros(logits.shape[-1], dtype=torch.bool)
    banned[list(vlm.chat.banned_ids)] = True
    banned[len(vlm.chat.tokenizer) :] = True
    logprobs = logits.masked_fill(banned, -torch.inf).log_softmax(-1)
    return [(int(row.ids[t]), logprobs[t - 1]) for t in np.flatnonzero(row.action)]


def trained_texts(chat, tokens):
    """The text of every run of trained ids; each of them has to end with the id that ends a turn."""
    ends = np.flatnonzero(np.diff([0, *tokens.action.astype(int), 0]))
    runs = [tokens.ids[start:stop].tolist() for start, stop in zip(ends[::2], ends[1::2], strict=True)]
    assert all(run[-1] == chat.stop_id for run in runs)
    return [chat.decode(run) for run in runs]
