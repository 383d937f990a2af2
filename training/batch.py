"""From groups of episodes to the rows a learner trains on. Plain functions: no Ray, no logging."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pxr_agents.lengths import split_by_length
from pxr_agents.statistics import term_returns
from pxr_agents.types import Episode, Tokens
from pxr_agents.vlm import TokenBatch, collate
from pxr_env.curiosity import settle_group
from training.advantages import gae, group_relative


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The episodes of one sample; the unit that travels, is settled, trained on, and resampled when lost."""

    sample_id: str
    episodes: list[Episode]


def settle(group: Group, *, preset: str, overrides: Mapping[str, float | str] | None = None) -> Group:
    """The group with its curiosity terms added: exact, since all of its rollouts are here (`settle_group`).

    What a settlement changes is known only when all episodes are over, so it is earned by each one's last turn.
    """
    episodes = group.episodes
    settled = settle_group(
        [episode.n_operations for episode in episodes],
        [term_returns(episode) for episode in episodes],
        unrepaired=[episode.unrepaired for episode in episodes],
        preset=preset,
        **(overrides or {}),
    )
    return Group(
        sample_id=group.sample_id,
        episodes=[_with_terms(episode, terms) for episode, terms in zip(episodes, settled, strict=True)],
    )


def _with_terms(episode: Episode, terms: Mapping[str, float]) -> Episode:
    """A copy whose last turn makes the episode's terms add up to `terms`."""
    *earlier, last = episode.steps
    before = term_returns(replace(episode, steps=earlier))
    own = {name: value - before.get(name, 0.0) for name, value in terms.items()}
    return replace(episode, steps=[*earlier, replace(last, reward_terms=own, reward=sum(own.values()))])


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRow:
    """One episode for the learner: L ids, and for its T action ids the advantages and (with a critic) returns."""

    tokens: Tokens
    advantages: np.ndarray  # (T,) float32
    returns: np.ndarray | None = None  # (T,) float32
    old_values: np.ndarray | None = None  # (T,) float32

    @property
    def n_actions(self) -> int:
        return len(self.advantages)

    @property
    def teaches(self) -> bool:
        """Whether there is anything to learn from it: rollouts that all did alike have no advantage."""
        return self.returns is not None or bool(np.abs(self.advantages).max(initial=0.0) > 1e-8)


def _tokens(episode: Episode) -> Tokens:
    if episode.tokens is None:
        raise ValueError(f"An episode of sample {episode.sample_id!r} has no tokens; only a VLM agent's can be trained")
    return episode.tokens


def group_rows(group: Group, *, normalize_std: bool) -> list[TrainingRow]:
    """Rows with the group-relative advantage: one number per episode, the same for each of its action ids."""
    advantages = group_relative([episode.reward for episode in group.episodes], normalize_std=normalize_std)
    rows = []
    for episode, advantage in zip(group.episodes, advantages, strict=True):
        tokens = _tokens(episode)
        rows.append(TrainingRow(tokens=tokens, advantages=np.full(int(tokens.action.sum()), advantage, np.float32)))
    return rows


def gae_row(episode: Episode, values: np.ndarray, *, gamma: float, gae_lambda: float) -> TrainingRow:
    """A row with generalized advantages on its action ids; `values` (T,) are the critic's where each was chosen."""
    tokens = _tokens(episode)
    rewards = [step.reward for step in episode.steps]
    full = np.zeros(len(tokens.ids), np.float32)
    full[tokens.action] = values
    advantages, returns = gae(rewards, tokens.turn_ends, tokens.action, full, gamma=gamma, gae_lambda=gae_lambda)
    return TrainingRow(
        tokens=tokens,
        advantages=np.asarray(advantages, np.float32)[tokens.action],
        returns=np.asarray(returns, np.float32)[tokens.action],
        old_values=np.asarray(values, np.float32),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Rows of similar length as tensors; T action ids in row-major order."""

    tokens: TokenBatch
    old_logprobs: Tensor  # (T,)
    advantages: Tensor  # (T,)
    returns: Tensor | None
    old_values: Tensor | None

    def to(self, device: torch.device) -> Bucket:
        return Bucket(
            tokens=self.tokens.to(device),
            old_logprobs=self.old_logprobs.to(device),
            advantages=self.advantages.to(device),
            returns=None if self.returns is None else self.returns.to(device),
            old_values=None if self.old_values is None else self.old_values.to(device),
        )


def make_bucket(rows: Sequence[TrainingRow]) -> Bucket:
    def flat(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays))

    returns = [row.returns for row in rows if row.returns is not None]
    old_values = [row.old_values for row in rows if row.old_values is not None]
    return Bucket(
        tokens=collate([row.tokens for row in rows]),
        old_logprobs=flat([row.tokens.logprobs[row.tokens.action] for row in rows]),
        advantages=flat([row.advantages for row in rows]),
        returns=flat(returns) if returns else None,
        old_values=flat(old_values) if old_values else None,
    )


def buckets(rows: Sequence[TrainingRow]) -> list[Bucket]:
    """Split rows into padded batches of similar length, so that direct answers do not pay for long episodes."""
    return [make_bucket([rows[k] for k in part]) for part in _parts(rows)]


def split_by_row(flat: np.ndarray, rows: Sequence[TrainingRow]) -> list[np.ndarray]:
    """One array (T of the row,) per row, out of numbers (sum of T,) in the order of `buckets(rows)`."""
    order = [k for part in _parts(rows) for k in part]
    pieces = np.split(flat, np.cumsum([rows[k].n_actions for k in order])[:-1])
    by_row = dict(zip(order, pieces, strict=True))
    return [by_row[k] for k in range(len(rows))]


def _parts(rows: Sequence[TrainingRow]) -> list[list[int]]:
    return split_by_length([len(row.tokens.ids) for row in rows])


def minibatches(
    groups: Sequence[Sequence[TrainingRow]], *, n_minibatches: int, n_epochs: int, rng: np.random.Generator
) -> Iterator[list[TrainingRow]]:
    """Exactly `n_minibatches * n_epochs` minibatches of whole groups, in a new order each epoch.

    Rows that teach nothing are left out. A minibatch that would be empty keeps one of them: every learner has to take
    part in every step, and gives that row no weight (see `TrainingRow.teaches`).

    Raises:
        ValueError: there are fewer groups than minibatches.
    """
    if len(groups) < n_minibatches:
        raise ValueError(f"{len(groups)} groups came for {n_minibatches} minibatches; expected at least one for each")
    for _ in range(n_epochs):
        order = rng.permutation(len(groups))
        for part in np.array_split(order, n_minibatches):
            rows = [row for g in part for row in groups[g]]
            yield [row for row in rows if row.teaches] or rows[:1]
