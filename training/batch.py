"""From groups to the rows a learner trains on. Plain functions: no Ray, no logging.

What is no finite number is noticed in a row before the first step of an iteration; `training.rewards` looks at rewards,
`training.update` at losses and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from heapq import heapreplace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pxr_agents.groups import Group
from pxr_agents.types import CONTEXT, Episode, Tokens
from pxr_agents.vlm import TokenBatch, collate, split_by_length
from pxr_env.curiosity import ANSWER
from .advantages import DEAD_ANSWER_BELOW, DEAD_BELOW, Floats, credit_tokens, gae, group_advantages
from .config import PPORecipe
from .run_directory import NonFiniteError, samples_named

# Advantages up to this are rounding.
NO_ADVANTAGE = 1e-8
# Ids that go through the model at once.
BUCKET_TOKENS = 65536
# What stands for an episode that had no room for a turn: an id that the model did not write, and so without a loss.
_NO_TURN = Tokens(
    ids=np.zeros(1, np.int32), action=np.zeros(1, bool), logprobs=np.zeros(1, np.float32),
    positions=np.zeros((3, 1), np.int32), images=(), turn_ends=(),
)  # fmt: skip


def failed_batch_error(problem: str, batches: Sequence[Mapping[str, Any]]) -> NonFiniteError:
    """The error of learners that stopped before a step.

    Args:
        problem: what is no number, and in which iteration.
        batches: `{"learner": number, "problem": what was wrong there or None, "episodes": rows}` of every learner.
    """
    guilty = [batch for batch in batches if batch["problem"]] or list(batches)
    learners = ", ".join(str(batch["learner"]) for batch in guilty)
    episodes = [row for batch in guilty for row in batch["episodes"]]
    named = [row["sample_id"] for row in episodes if row["problem"]] or [row["sample_id"] for row in episodes]
    word = "learner" if len(guilty) == 1 else "learners"
    return NonFiniteError(f"{problem}, on {word} {learners}, with {samples_named(named)}", batches)


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

    @property
    def problem(self) -> str | None:
        """What of it is no finite number, or None."""
        columns = {
            "log-probabilities of the engine": self.engine_logprobs,
            "advantages": self.advantages,
            "log-probabilities of the learner": self.old_logprobs,
            "log-probabilities of the reference": self.ref_logprobs,
            "values of the critic": self.old_values,
        }
        bad = [name for name, column in columns.items() if column is not None and not np.isfinite(column).all()]
        return ", ".join(bad) or None

    def described(self, sample_id: str, text: str) -> dict[str, Any]:
        """What OUT/failed_batch.json says of it; `text` is its action ids as text."""
        ranges = {
            name: [float(column.min()), float(column.max())] if len(column) else []
            for name, column in (("advantages", self.advantages), ("engine_logprobs", self.engine_logprobs))
        }
        return {
            "sample_id": sample_id,
            "problem": self.problem,
            "ids": len(self.tokens.ids),
            "action_ids": self.n_actions,
            "images": [list(image.shape[:2]) for image in self.tokens.images],
            **ranges,
            "text": text,
        }


def _tokens(episode: Episode) -> Tokens:
    if not episode.steps and episode.truncated_by == CONTEXT:
        return _NO_TURN
    if episode.tokens is None:
        raise ValueError(f"An episode of sample {episode.sample_id!r} has no tokens; only a VLM agent's can be trained")
    return episode.tokens


def _episode_advantages(group: Group, *, normalize_std: bool) -> Floats:
    """(n,) how much better each episode of a group did than those that it is compared with."""
    probed = [episode.probe is not None for episode in group.episodes]
    withdrawn = [episode.withdrawn for episode in group.episodes]
    rewards = [episode.reward for episode in group.episodes]
    return group_advantages(rewards, probed, withdrawn, normalize_std=normalize_std)


def _first_id(group: Group) -> Floats:
    return np.array(group.first_id or [0.0] * len(group.episodes), np.float64)


def is_masked(episode: Episode, mask_truncated: Literal["never", "turns", "all"]) -> bool:
    """Whether an episode carries no loss because a limit ended it: "turns", that of its turns, "all", any.

    It stays in its group's mean and standard deviation, and out of all that the loss is a mean over: the over-turn
    masking of Mini-o3 (arXiv 2509.07969; "all" is what its code masks: turns, images and context), as DAPO's overlong
    filtering (arXiv 2503.14476) with one turn.
    """
    # Without operations an episode has one turn, and a call in place of its answer is a mistake.
    limit = None if episode.withdrawn else episode.truncated_by
    return limit is not None and (mask_truncated == "all" or (mask_truncated == "turns" and limit == "max_turns"))


def replay_weight(group: Group, recipe: PPORecipe) -> float:
    """What the probability to replay a group is proportional to: sum(|advantage| ** replay_alpha) of its episodes that
    carry a loss; 0 if all score alike. That is how often one of its episodes would be drawn if episodes were, with
    probability proportional to |advantage| ** replay_alpha, as in SSR (VL-Rethinker, arXiv 2504.08837)."""
    magnitudes = np.abs(_episode_advantages(group, normalize_std=recipe.normalize_std)) + np.abs(_first_id(group))
    magnitudes[[is_masked(episode, recipe.mask_truncated) for episode in group.episodes]] = 0.0
    # 0 ** 0 is 1: an episode without an advantage would count.
    return float((magnitudes[magnitudes > NO_ADVANTAGE] ** recipe.replay_alpha).sum())


def group_rows(group: Group, *, normalize_std: bool) -> list[TrainingRow]:
    """Rows with the group-relative advantage: one number per episode, the same for each of its action ids, but for what
    `Group.first_id` adds to the first.

    Of a probe that did no better than the others the ids it was made to begin with may carry no loss
    (`training.advantages.credit_tokens`).
    """
    rows = []
    advantages = _episode_advantages(group, normalize_std=normalize_std)
    for episode, advantage, first_id in zip(group.episodes, advantages, _first_id(group), strict=True):
        tokens = _tokens(episode)
        forced = np.zeros(len(tokens.ids), bool)
        if episode.probe is not None and tokens.forced is not None:
            forced = tokens.forced
        earned, trained = credit_tokens(
            tokens.logprobs[tokens.action],
            forced[tokens.action],
            advantage,
            first_id=first_id,
            dead_below=DEAD_ANSWER_BELOW if episode.probe == ANSWER else DEAD_BELOW,
        )
        mask = None if trained.all() else trained
        rows.append(TrainingRow(tokens=tokens, advantages=earned.astype(np.float32), trained=mask))
    return rows


def gae_row(episode: Episode, values: np.ndarray, *, gamma: float, gae_lambda: float) -> TrainingRow:
    """A row with generalized advantages on its T action ids; `values` (T,) are the critic's where each was chosen. The
    reward of a turn arrives at its last action id."""
    tokens = _tokens(episode)
    rewards = np.zeros(len(tokens.ids))
    rewards[list(tokens.turn_ends)] = [step.reward for step in episode.steps]
    advantages, returns = gae(rewards[tokens.action], values, gamma=gamma, gae_lambda=gae_lambda)
    return TrainingRow(
        tokens=tokens,
        advantages=advantages.astype(np.float32),
        returns=returns.astype(np.float32),
        old_values=np.asarray(values, np.float32),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """Rows of similar length as tensors: `tokens` padded, and the columns of `TrainingRow` as (T,) over the T action
    ids of all rows. `old_logprobs` are what the ratio is taken to, and what is None is not needed by the loss."""

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
        def moved(column: Any) -> Any:
            return None if column is None else column.to(device)

        return Bucket(**{field.name: moved(getattr(self, field.name)) for field in fields(self)})


def make_bucket(rows: Sequence[TrainingRow]) -> Bucket:
    def column(of: Callable[[TrainingRow], np.ndarray | None]) -> Any:
        arrays = [array for row in rows if (array := of(row)) is not None]
        return torch.from_numpy(np.concatenate(arrays)) if arrays else None

    return Bucket(
        tokens=collate([row.tokens for row in rows]),
        engine_logprobs=column(lambda row: row.engine_logprobs),
        old_logprobs=column(lambda row: row.engine_logprobs if row.old_logprobs is None else row.old_logprobs),
        advantages=column(lambda row: row.advantages),
        mask=column(lambda row: row.mask),
        fresh=column(lambda row: np.full(row.n_actions, row.fresh)),
        weights=column(lambda row: np.full(row.n_actions, row.weight, np.float32)),
        returns=column(lambda row: row.returns),
        old_values=column(lambda row: row.old_values),
        ref_logprobs=column(lambda row: row.ref_logprobs),
    )


def with_blank_image(bucket: Bucket, image_id: int, side: int) -> Bucket:
    """A bucket whose rows show no image, with one more row, which shows a black one and has no action ids.

    DeepSpeed adds gradients up over the learners in the order in which they come, whichever parameters they belong to.
    Where one learner's rows show images and another's do not, the vision tower has to come at the same place in both.

    A bucket with an image is returned as it is; `image_id` stands for a vision token, and `side` is that of an image of
    one vision token, in pixels.
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
    """Minibatches of whole episodes that hold at most `minibatch_tokens` ids each, padding not counted (see `pack`);
    the same number of them on every learner, and in every epoch.

    Rows that teach nothing are left out; a learner with fewer rows than minibatches fills up with idle ones.
    `max_over_ranks` says the largest of the numbers that all learners call it with.
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

        token     sum_t l_t / number of tokens (DAPO, arXiv 2503.14476)
        sequence  mean over episodes of the mean over the episode's tokens (GRPO, arXiv 2402.03300)
        group     mean over groups of the mean over the tokens of the group in this minibatch
        constant  mean over episodes of sum_t l_t / constant (Dr. GRPO, arXiv 2503.20783)

    All are `sum_t factor * l_t / units`. Only rows that teach count, and of them the ids that carry a loss.

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
