"""From groups of episodes to the rows a learner trains on. Plain functions: no Ray, no logging."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from heapq import heapreplace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pxr_agents.groups import Group
from pxr_agents.types import Episode, Tokens
from pxr_agents.vlm import TokenBatch, collate, split_by_length
from training.advantages import Floats, credit_tokens, gae, group_advantages

# Advantages up to this are rounding.
NO_ADVANTAGE = 1e-8
# Ids that go through the model at once.
BUCKET_TOKENS = 65536


def group_bytes(group: Group) -> int:
    """Bytes of the arrays of a group (its text is small beside them); images that rollouts share count once."""
    tokens = [_tokens(episode) for episode in group.episodes]
    images = {id(image): image.nbytes for row in tokens for image in row.images}
    arrays = sum(row.ids.nbytes + row.action.nbytes + row.logprobs.nbytes + row.positions.nbytes for row in tokens)
    return arrays + sum(images.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRow:
    """One episode for the learner: L ids, and for its T action ids what the losses need. Arrays are (T,) float32.

    Attributes:
        tokens: the episode as the model saw it.
        advantages: of each action id.
        trained: (T,) bool, which action ids carry a loss; None for all.
        returns, old_values: the critic's targets and what it said, with a critic.
        old_logprobs: what the learner says before its first step; None for the engine's log-probabilities.
        ref_logprobs: what the reference says, with a KL penalty.
        group: number of the group it belongs to, among those of this learner.
        fresh: whether the weights that the learner starts from sampled it (a replayed one comes from older weights).
        weight: factor of the loss of its tokens (see `loss_weights`).
        idle: takes part in a step without weight, so that every learner has something to compute.
    """

    tokens: Tokens
    advantages: np.ndarray
    trained: np.ndarray | None = None
    returns: np.ndarray | None = None
    old_values: np.ndarray | None = None
    old_logprobs: np.ndarray | None = None
    ref_logprobs: np.ndarray | None = None
    group: int = 0
    fresh: bool = True
    weight: float = 1.0
    idle: bool = False

    @property
    def n_actions(self) -> int:
        return len(self.advantages)

    @property
    def engine_logprobs(self) -> np.ndarray:
        return self.tokens.logprobs[self.tokens.action]

    @property
    def mask(self) -> np.ndarray:
        """(T,) bool, which action ids carry a loss in a step."""
        if self.idle or self.trained is None:
            return np.full(self.n_actions, not self.idle)
        return self.trained

    @property
    def n_trained(self) -> int:
        return int(self.mask.sum())

    @property
    def teaches(self) -> bool:
        """Whether there is anything to learn from it: rollouts that all did alike have no advantage."""
        mask = self.mask
        if self.returns is not None:
            return bool(mask.any())
        return bool(np.abs(self.advantages[mask]).max(initial=0.0) > NO_ADVANTAGE)


def _tokens(episode: Episode) -> Tokens:
    if episode.tokens is None:
        raise ValueError(f"An episode of sample {episode.sample_id!r} has no tokens; only a VLM agent's can be trained")
    return episode.tokens


def episode_advantages(episodes: Sequence[Episode], *, normalize_std: bool) -> Floats:
    """(n,) how much better each episode of a group did than the mean of those that are no probes."""
    probed = [episode.probe is not None for episode in episodes]
    return group_advantages([episode.reward for episode in episodes], probed, normalize_std=normalize_std)


def group_rows(group: Group, *, normalize_std: bool) -> list[TrainingRow]:
    """Rows with the group-relative advantage: one number per episode, the same for each of its action ids.

    Of a probe that did no better than the others the ids it was made to begin with may carry no loss
    (`training.advantages.credit_tokens`).
    """
    advantages = episode_advantages(group.episodes, normalize_std=normalize_std)
    return [_credited(episode, advantage) for episode, advantage in zip(group.episodes, advantages, strict=True)]


def _credited(episode: Episode, advantage: float) -> TrainingRow:
    tokens = _tokens(episode)
    if episode.probe is None or tokens.forced is None:
        return TrainingRow(tokens=tokens, advantages=np.full(int(tokens.action.sum()), advantage, np.float32))
    credit = credit_tokens(tokens.logprobs[tokens.action], tokens.forced[tokens.action], advantage)
    return TrainingRow(tokens=tokens, advantages=credit.advantages.astype(np.float32), trained=credit.trained)


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
    """Rows of similar length as tensors; T action ids in row-major order. What is None is not needed by the loss.

    Attributes:
        tokens: the rows, padded.
        engine_logprobs: (T,) what the engine said when it sampled.
        old_logprobs: (T,) what the ratio is taken to: the engine's, or the learner's own before its first step.
        advantages: (T,)
        mask: (T,) bool, which action ids carry a loss.
        fresh: (T,) bool, which were sampled by the weights that the learner starts from.
        weights: (T,) factor of each one's loss.
        returns, old_values, ref_logprobs: (T,) as in `TrainingRow`.
    """

    tokens: TokenBatch
    engine_logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    mask: Tensor
    fresh: Tensor
    weights: Tensor
    returns: Tensor | None = None
    old_values: Tensor | None = None
    ref_logprobs: Tensor | None = None

    def to(self, device: torch.device) -> Bucket:
        columns: dict[str, Any] = {
            field.name: None if (column := getattr(self, field.name)) is None else column.to(device)
            for field in fields(self)
        }
        return Bucket(**columns)


def make_bucket(rows: Sequence[TrainingRow]) -> Bucket:
    def flat(arrays: Iterable[np.ndarray | None]) -> Tensor | None:
        present = [array for array in arrays if array is not None]
        return torch.from_numpy(np.concatenate(present)) if present else None

    def column(arrays: Iterable[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(list(arrays)))

    return Bucket(
        tokens=collate([row.tokens for row in rows]),
        engine_logprobs=column(row.engine_logprobs for row in rows),
        old_logprobs=column(row.engine_logprobs if row.old_logprobs is None else row.old_logprobs for row in rows),
        advantages=column(row.advantages for row in rows),
        mask=column(row.mask for row in rows),
        fresh=column(np.full(row.n_actions, row.fresh) for row in rows),
        weights=column(np.full(row.n_actions, row.weight, np.float32) for row in rows),
        returns=flat(row.returns for row in rows),
        old_values=flat(row.old_values for row in rows),
        ref_logprobs=flat(row.ref_logprobs for row in rows),
    )


def with_blank_image(bucket: Bucket, image_id: int, side: int) -> Bucket:
    """A bucket whose rows show no image, with one more row, which shows a black one and has no action ids.

    DeepSpeed adds gradients up over the learners in the order in which they come, whichever parameters they belong to.
    Where one learner's rows show images and another's do not, the vision tower has to come at the same place in both.

    Args:
        bucket: returned as it is if it has an image.
        image_id: the id that stands for a vision token.
        side: of an image of one vision token, in pixels.
    """
    tokens = bucket.tokens
    if tokens.images:
        return bucket
    ids, positions, target = (torch.zeros_like(x[..., :1, :]) for x in (tokens.ids, tokens.positions, tokens.target))
    ids[0, 0] = image_id
    return replace(
        bucket,
        tokens=TokenBatch(
            ids=torch.cat([tokens.ids, ids]),
            positions=torch.cat([tokens.positions, positions], 1),
            target=torch.cat([tokens.target, target]),
            images=(np.zeros((side, side, 3), np.uint8),),
        ),
    )


def buckets(rows: Sequence[TrainingRow], *, max_tokens: int = BUCKET_TOKENS) -> list[Bucket]:
    """Split rows into padded batches of similar length, so that direct answers do not pay for long episodes.

    Each holds at most `max_tokens` ids, padding included; a longer episode gets one of its own.
    """
    return [make_bucket([rows[k] for k in part]) for part in _parts(rows, max_tokens)]


def split_by_row(flat: np.ndarray, rows: Sequence[TrainingRow], *, max_tokens: int = BUCKET_TOKENS) -> list[np.ndarray]:
    """One array (T of the row,) per row, out of numbers (sum of T,) in the order of `buckets(rows)`."""
    order = [k for part in _parts(rows, max_tokens) for k in part]
    pieces = np.split(flat, np.cumsum([rows[k].n_actions for k in order])[:-1])
    by_row = dict(zip(order, pieces, strict=True))
    return [by_row[k] for k in range(len(rows))]


def _parts(rows: Sequence[TrainingRow], max_tokens: int) -> list[list[int]]:
    return split_by_length([len(row.tokens.ids) for row in rows], max_tokens=max_tokens)


def minibatches(
    groups: Sequence[Sequence[TrainingRow]], *, n_minibatches: int, n_epochs: int, rng: np.random.Generator
) -> Iterator[list[TrainingRow]]:
    """Exactly `n_minibatches * n_epochs` minibatches of whole groups, in a new order each epoch.

    Rows that teach nothing are left out. A minibatch that would be empty keeps one of them, idle: every learner has
    to take part in every step.

    Raises:
        ValueError: there are fewer groups than minibatches.
    """
    if len(groups) < n_minibatches:
        raise ValueError(f"{len(groups)} groups came for {n_minibatches} minibatches; expected at least one for each")
    for _ in range(n_epochs):
        order = rng.permutation(len(groups))
        for part in np.array_split(order, n_minibatches):
            rows = [row for g in part for row in groups[g]]
            yield [row for row in rows if row.teaches] or _idle(rows)


def token_minibatches(
    groups: Sequence[Sequence[TrainingRow]],
    *,
    minibatch_tokens: int,
    n_epochs: int,
    rng: np.random.Generator,
    max_over_ranks: Callable[[int], int] = int,
) -> Iterator[list[TrainingRow]]:
    """Minibatches of whole episodes that hold at most `minibatch_tokens` ids each (see `pack`); the same number of them
    on every learner, and in every epoch.

    Rows that teach nothing are left out; a learner with fewer rows than minibatches fills up with idle ones.

    Args:
        groups: rows of each group; at least one row in all.
        minibatch_tokens: ids, padding not counted (buckets hold at most a quarter more); one longer episode gets a
            minibatch of its own.
        n_epochs: passes over the rows.
        rng: decides the order of minibatches, and which of equally long episodes come together.
        max_over_ranks: the largest of the numbers that all learners call it with.
    """
    everything = [row for group in groups for row in group]
    rows = [row for row in everything if row.teaches]
    lengths = [len(row.tokens.ids) for row in rows]
    n_minibatches = max_over_ranks(len(pack(lengths, minibatch_tokens)))
    for _ in range(n_epochs):
        order = rng.permutation(len(rows))
        parts = pack([lengths[k] for k in order], minibatch_tokens, at_least=n_minibatches)
        for p in rng.permutation(n_minibatches):
            yield [rows[order[k]] for k in parts[p]] or _idle(everything)


def _idle(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    return [replace(rows[0], idle=True)]


def balanced(sizes: Sequence[float], n: int) -> list[list[int]]:
    """Indices in `n` parts of similar total size: the largest first, each into the part that is smallest so far.

    Two parts differ by at most the largest size (the larger one was the smaller when it got its last member), and the
    largest part is at most 4/3 of the best possible one (Graham, "Bounds on Multiprocessing Timing Anomalies", 1969).
    """
    parts: list[list[int]] = [[] for _ in range(n)]
    heap = [(0.0, p) for p in range(n)]
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        load, p = heap[0]
        parts[p].append(k)
        heapreplace(heap, (load + sizes[k], p))
    return parts


def pack(lengths: Sequence[int], limit: int, *, at_least: int = 1) -> list[list[int]]:
    """Indices in as few balanced parts as hold at most `limit` in all; one that is longer gets a part of its own.

    With more parts the largest never grows, so any `at_least` that is no smaller than the number of parts found
    without it gives exactly that number (of which some may be empty).
    """
    sizes = [min(length, limit) for length in lengths]
    n = max(at_least, -(-sum(sizes) // limit))
    while True:
        parts = balanced(sizes, n)
        if all(sum(sizes[k] for k in part) <= limit for part in parts):
            return parts
        n += 1


def loss_weights(
    rows: Sequence[TrainingRow],
    normalization: Literal["token", "sequence", "group", "constant"],
    *,
    constant: int = 1,
) -> tuple[list[float], float]:
    """Returns a factor per row and the number of units (tokens, episodes, groups) that the loss is the mean over.

    With l_t the loss of token t, of the trained rows of one optimizer step (all learners together):

        token     sum_t l_t / number of tokens: long episodes count more (DAPO, arXiv 2503.14476)
        sequence  mean over episodes of the mean over the episode's tokens (GRPO, arXiv 2402.03300)
        group     mean over groups of the mean over the tokens of the group in this minibatch: easy samples with
                  short answers count as much as hard ones with long ones
        constant  mean over episodes of sum_t l_t / constant: no length changes what a token counts (Dr. GRPO,
                  arXiv 2503.20783)

    All are `sum_t factor * l_t / units`. Only rows that teach count, and of them the ids that carry a loss.

    Args:
        rows: the minibatch of this learner.
        normalization: one of these names.
        constant: for "constant".

    Raises:
        ValueError: there is no such normalization.
    """
    trained = [row for row in rows if row.teaches]
    if normalization == "token":
        return [1.0] * len(rows), float(sum(row.n_trained for row in trained))
    if normalization == "constant":
        return [1.0 / constant] * len(rows), float(len(trained))
    if normalization == "sequence":
        return [1.0 / max(row.n_trained, 1) for row in rows], float(len(trained))
    if normalization != "group":
        raise ValueError(f"normalization is {normalization!r}; expected 'token', 'sequence', 'group' or 'constant'")
    per_group: dict[int, int] = {}
    for row in trained:
        per_group[row.group] = per_group.get(row.group, 0) + row.n_trained
    return [1.0 / per_group.get(row.group, 1) for row in rows], float(len(per_group))
