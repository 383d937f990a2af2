"""What a learner does in an update of PPO, from groups to the loss of every minibatch.

    update = Update(recipe, policy)
    for minibatch in update.minibatches(groups, iteration=0):
        update.loss(minibatch, update.backward(minibatch))
        if update.takes_step(clip_grad_norm_(parameters, recipe.max_grad_norm)):
            optimizer.step()
        optimizer.zero_grad()
    update.metrics()

`training.loop` runs this in one process; the learners of `training.rllib.learner` run it side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from pxr_agents.groups import Group
from pxr_agents.types import Episode
from .batch import (
    BUCKET_TOKENS,
    Bucket,
    TrainingRow,
    buckets,
    gae_row,
    group_rows,
    is_masked,
    loss_weights,
    make_bucket,
    minibatches,
    pack,
    split_by_row,
    token_minibatches,
    with_blank_image,
)
from .config import PPORecipe
from .learners import adapters_off, lr_factor, read_ahead
from .logs import combine_metrics
from .loss import LOGPROBS, VALUES, column, logprob_gap, objective
from .policy import Policy
from .run_directory import NonFiniteError

SKIPS = 3
"""So many optimizer steps in a row may not be left out: single gradients overflow in bfloat16, and cost one step."""

Forward = Callable[[Sequence[Bucket]], Mapping[str, Tensor]]
Says = Callable[[Sequence[Bucket]], Tensor]


@dataclass(frozen=True, slots=True)
class Ranks:
    """`n` learners side by side, this one on `device`: all of them call these methods together, in the same order."""

    n: int
    device: torch.device

    @property
    def rank(self) -> int:
        return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0

    def mean(self, *numbers: float) -> list[float]:
        if self.n < 2:
            return [float(number) for number in numbers]
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return [number / self.n for number in total.tolist()]

    def max(self, number: int) -> int:
        if self.n < 2:
            return number
        largest = torch.tensor(number, device=self.device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return int(largest)


class Minibatch(list[Bucket]):
    """The buckets of one optimizer step on one learner, with `n_turns` turns.

    Attributes:
        normalizer: action ids a learner's loss is divided by: the mean over learners, since DDP averages gradients. 0
            if there is nothing to learn on any of them.
        first: whether no optimizer step lies between the sampling and this minibatch.
    """

    normalizer: float = 1.0
    first: bool = False
    n_turns: int = 0

    def get(self, key: str, default: object = None) -> object:
        """RLlib looks for sequence lengths; there are none to slice by."""
        return default


class Update:
    """Token-level clipped PPO on whole episodes, with every option of a recipe.

    The order of minibatches and the learning rate follow from the iteration and the seed alone, so a resumed run goes
    on exactly as it would have.

    Args:
        recipe, policy: what is trained, and how.
        ranks: this learner and the others; by default it is alone.
        forward: a pass that is only looked at; by default the policy's.
        in_step: all learners have to run equally many passes, each with an image: where each of them gathers weights
            from the others (ZeRO-3), or adds gradients up in the order in which they come (ZeRO-2).

    Attributes:
        failed_batch: what this learner was about to learn from when something was no number.
    """

    def __init__(
        self,
        recipe: PPORecipe,
        policy: Policy,
        *,
        ranks: Ranks | None = None,
        forward: Forward | None = None,
        in_step: bool = False,
    ) -> None:
        self._recipe, self._policy, self._in_step = recipe, policy, in_step
        self._ranks = ranks or Ranks(1, policy.vlm.device)
        self._forward: Forward = forward or policy
        self._max_tokens = recipe.learner.micro_batch_tokens or BUCKET_TOKENS
        self._reference: Policy | None = None
        self._skipped_in_a_row = 0
        self.failed_batch: dict[str, Any] | None = None

    def lr(self, iteration: int) -> float:
        """The learning rate of an iteration, from 0."""
        recipe = self._recipe
        warmup, decay = recipe.lr_warmup_iterations, recipe.lr_decay_fraction
        return recipe.lr * lr_factor(iteration, recipe.iterations, warmup=warmup, decay_fraction=decay)

    def minibatches(
        self, groups: Sequence[Group], *, iteration: int, weights_version: int | None = None
    ) -> Iterator[Minibatch]:
        """What to learn from in each optimizer step of an iteration (from 0). `weights_version` is that of the weights
        that the policy has: older ones sampled some episodes.

        Raises:
            NonFiniteError: numbers to learn from are not finite, on any learner.
        """
        self._metrics: list[dict[str, float]] = []
        self._grad_norm, self._skipped, self._iteration = 0.0, 0, iteration
        self._policy.vlm.kept.clear()
        self._sample_ids = [group.sample_id for group in groups]
        scored = self._scored(self._rows(groups, weights_version))
        self._rows_at_hand = [row for rows in scored for row in rows]
        problems = [row.problem for row in self._rows_at_hand if row.problem]
        self._stop_if(problems[0] if problems else None, "Not all numbers to learn from are finite")
        for k, part in enumerate(self._parts(scored)):
            self._rows_at_hand = part
            yield self._minibatch(part, first=k == 0)
        self._policy.vlm.kept.clear()

    def backward(
        self,
        batch: Minibatch,
        forward: Forward | None = None,
        backward: Callable[[Tensor], object] = Tensor.backward,
        *,
        unsynced: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> dict[str, Tensor]:
        """Add up the gradients of a minibatch, `learner.micro_batch_tokens` ids at a time: the graph of more is never
        there. Returns what the policy says of it, without a graph.

        Args:
            forward: a pass that is trained; by default the policy's.
            backward: what takes the loss of each pass.
            unsynced: around all passes but the last, whose backward pass averages gradients over learners (DDP).
        """
        # In training mode layers are computed a second time, and cannot sample; there is no dropout.
        self._policy.vlm.model.train(self._recipe.learner.gradient_checkpointing)
        parts: list[dict[str, Tensor]] = []
        passes = [[bucket] for bucket in batch] if self._in_step else micro_batches(batch, self._max_tokens)
        for k, part in enumerate(self._prepared(passes), 1):
            with unsynced() if k < len(passes) else nullcontext():
                out = (forward or self._policy)(part)
                backward(objective(self._recipe, part, out, normalizer=batch.normalizer or 1.0)[0])
            parts.append({name: tensor.detach() for name, tensor in out.items()})
        self._policy.vlm.model.eval()
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def loss(self, batch: Minibatch, out: Mapping[str, Tensor]) -> Tensor:
        """The loss of a minibatch, of which the policy says `out`; its metrics are noted.

        Raises:
            NonFiniteError: the loss of a learner is no number.
        """
        loss, metrics = objective(self._recipe, batch, out, normalizer=batch.normalizer or 1.0)
        if not batch.normalizer:
            metrics = {}
        fresh = column(batch, "fresh")
        if batch.first and self._recipe.old_logprobs == "engine" and bool(fresh.any()):
            # Before the first step the weights are those that sampled: any gap is the engine's and the learner's.
            metrics |= logprob_gap(out[LOGPROBS][fresh], column(batch, "engine_logprobs")[fresh])
        self._metrics.append(metrics)
        is_number = math.isfinite(float(loss.detach()))
        self._stop_if(None if is_number else f"the loss is {float(loss)}", "The loss is not a finite number")
        return loss

    def takes_step(self, grad_norm: float) -> bool:
        """Whether to step with gradients of this norm, which is the same on all learners: not if it is no number.

        Raises:
            NonFiniteError: too many steps in a row were left out.
        """
        if math.isfinite(grad_norm):
            self._grad_norm, self._skipped_in_a_row = grad_norm, 0
            return True
        self._skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= SKIPS:
            headline = f"The norm of the gradients is {grad_norm} {SKIPS} times in a row"
            self._stop_if("the norm of the gradients", headline)
        return False

    def metrics(self) -> dict[str, float]:
        """Of the latest update on this learner: means over its minibatches, unsmoothed."""
        skipped = {"skipped_steps": float(self._skipped)} if self._skipped else {}
        summary = {"lr": self.lr(self._iteration), "grad_norm": self._grad_norm}
        return combine_metrics(self._metrics) | summary | skipped

    def _parts(self, groups: Sequence[Sequence[TrainingRow]]) -> Iterator[list[TrainingRow]]:
        recipe, n_epochs = self._recipe, self._recipe.num_epochs
        rng = np.random.default_rng([recipe.seed, 4, self._iteration])
        if recipe.minibatch_tokens is None:
            return minibatches(groups, n_minibatches=recipe.num_minibatches, n_epochs=n_epochs, rng=rng)
        limit, agree = recipe.minibatch_tokens, self._ranks.max
        return token_minibatches(groups, minibatch_tokens=limit, n_epochs=n_epochs, rng=rng, max_over_ranks=agree)

    def _minibatch(self, rows: Sequence[TrainingRow], *, first: bool) -> Minibatch:
        recipe = self._recipe
        factors, units = loss_weights(rows, recipe.loss_normalization, constant=recipe.max_tokens)
        tokens, units = self._ranks.mean(sum(row.n_trained for row in rows if row.teaches), units)
        # The loss is a sum divided by the tokens; with these weights it is the mean over the units instead.
        scale = tokens / units if units else 1.0
        weighed = [
            replace(row, weight=factor * scale, idle=not row.teaches) for row, factor in zip(rows, factors, strict=True)
        ]
        batch = Minibatch(self._buckets(weighed))
        batch.normalizer, batch.first = tokens, first
        batch.n_turns = sum(len(row.tokens.turn_ends) for row in rows)
        return batch

    def _buckets(self, rows: Sequence[TrainingRow]) -> list[Bucket]:
        """All that this learner passes through the model for these rows."""
        batch = buckets(rows, max_tokens=self._max_tokens)
        if self._in_step:
            missing = self._ranks.max(len(batch)) - len(batch)
            batch += [make_bucket([replace(rows[0], idle=True, fresh=False)])] * missing
            chat = self._policy.vlm.chat
            batch = [with_blank_image(bucket, chat.image_id, chat.image_unit) for bucket in batch]
        return [bucket.to(self._ranks.device) for bucket in batch]

    def _rows(self, groups: Sequence[Group], weights_version: int | None) -> list[list[TrainingRow]]:
        recipe = self._recipe
        rows = [group_rows(group, normalize_std=recipe.normalize_std) for group in groups]
        # Learners in step would have to encode equally often.
        if not self._policy.trains_vision and not self._in_step:
            self._keep_features(rows)
        if recipe.advantage == "gae":
            values = iter(self._score([row for members in rows for row in members], self._says(VALUES)))
            rates = {"gamma": recipe.gamma, "gae_lambda": recipe.gae_lambda}
            rows = [[gae_row(episode, next(values), **rates) for episode in group.episodes] for group in groups]

        def placed(row: TrainingRow, episode: Episode, k: int) -> TrainingRow:
            row = replace(row, group=k, fresh=_sampled_by(episode, weights_version))
            masked = is_masked(episode, recipe.mask_truncated)
            return replace(row, trained=np.zeros(row.n_actions, bool)) if masked else row

        return [
            [placed(row, episode, k) for row, episode in zip(members, group.episodes, strict=True)]
            for k, (members, group) in enumerate(zip(rows, groups, strict=True))
        ]

    @torch.no_grad()
    def _keep_features(self, groups: Sequence[Sequence[TrainingRow]]) -> None:
        """Encode the images of all rows that will meet the model once, unless that would take too much memory."""
        vlm, unit = self._policy.vlm, self._policy.vlm.chat.image_unit
        every = self._recipe.advantage == "gae"
        # The first row of a group may take part without teaching.
        rows = [row for members in groups for k, row in enumerate(members) if every or row.teaches or k == 0]
        images = list({id(image): image for row in rows for image in row.tokens.images}.values())
        sizes = [image.shape[0] * image.shape[1] // unit**2 for image in images]
        size = 2 if self._recipe.learner.dtype == "bfloat16" else 4
        if images and sum(sizes) * vlm.feature_width * size <= self._recipe.learner.feature_bytes:
            for part in pack(sizes, self._max_tokens):
                self._policy([], [images[k] for k in part])

    def _scored(self, groups: Sequence[Sequence[TrainingRow]]) -> list[list[TrainingRow]]:
        """Rows with what was asked for from before the first step: the learner's log-probabilities, the reference's."""
        rows = [row for group in groups for row in group]
        if self._recipe.old_logprobs == "learner":
            scores = self._score_teaching(rows, self._says(LOGPROBS))
            rows = [replace(row, old_logprobs=score) for row, score in zip(rows, scores, strict=True)]
            both = zip(rows, scores, strict=True)
            pairs = [(score, row.engine_logprobs) for row, score in both if row.teaches and row.fresh]
            if pairs:
                learner, engine = (torch.from_numpy(np.concatenate(side)) for side in zip(*pairs, strict=True))
                self._metrics.append(logprob_gap(learner, engine))
        if self._recipe.kl_coef:
            scores = self._score_teaching(rows, self._reference_says())
            rows = [replace(row, ref_logprobs=score) for row, score in zip(rows, scores, strict=True)]
        remaining = iter(rows)
        return [[next(remaining) for _ in group] for group in groups]

    def _score_teaching(self, rows: Sequence[TrainingRow], says: Says) -> list[np.ndarray]:
        """As `_score`; rows that teach nothing get any number, since they carry no loss."""
        scores = [row.engine_logprobs for row in rows]
        teaching = [k for k, row in enumerate(rows) if row.teaches] or [0]
        for k, score in zip(teaching, self._score([rows[k] for k in teaching], says), strict=True):
            scores[k] = score
        return scores

    @torch.no_grad()
    def _score(self, rows: Sequence[TrainingRow], says: Says) -> list[np.ndarray]:
        """(T,) numbers for each row's action ids, without gradients."""
        passes = [[bucket] for bucket in self._buckets(rows)]
        flat = torch.cat([says(part).float().cpu() for part in self._prepared(passes)]).numpy()
        return split_by_row(flat[: sum(row.n_actions for row in rows)], rows, max_tokens=self._max_tokens)

    def _prepared(self, passes: Sequence[Sequence[Bucket]]) -> Iterator[list[Bucket]]:
        """Passes with their images prepared, the next ones in a thread while one is computed (`learner.prefetch`)."""
        prepare = self._policy.vlm.prepare

        def of(bucket: Bucket) -> Bucket:
            tokens = bucket.tokens
            return replace(bucket, tokens=replace(tokens, images=prepare(tokens.images))) if tokens.images else bucket

        return read_ahead(([of(bucket) for bucket in part] for part in passes), self._recipe.learner.prefetch)

    def _says(self, name: str) -> Says:
        return lambda batch: self._forward(batch)[name]

    def _reference_says(self) -> Says:
        """Log-probabilities by the policy without its adapters, if it has some; else by a frozen copy of the checkpoint
        that the run started from, which costs the memory of the weights once more on every learner."""
        recipe = self._recipe
        if recipe.learner.lora_rank:
            return adapters_off(self._policy.vlm.model)(self._says(LOGPROBS))
        if self._reference is None:
            device = str(self._ranks.device)
            self._reference = Policy.load(recipe.model, temperature=recipe.temperature, device=device)
            self._reference.vlm.model.requires_grad_(False)
            self._reference.vlm.kept = self._policy.vlm.kept
        reference = self._reference
        return lambda batch: reference(batch)[LOGPROBS]

    def _stop_if(self, problem: str | None, headline: str) -> None:
        """Stop on all learners if one of them has a problem; `failed_batch` is then what this one had at hand."""
        if not self._ranks.max(int(problem is not None)):
            return
        chat = self._policy.vlm.chat
        rows = [
            row.described(self._sample_ids[row.group], chat.decode(row.tokens.ids[row.tokens.action].tolist()))
            for row in self._rows_at_hand
        ]
        self.failed_batch = {"learner": self._ranks.rank, "problem": problem, "episodes": rows}
        raise NonFiniteError(f"{headline} in iteration {self._iteration + 1}")


def micro_batches(batch: Sequence[Bucket], max_tokens: int) -> list[list[Bucket]]:
    """Neighbouring buckets that go forward and backward together: at most `max_tokens` ids, padding included."""
    parts: list[list[Bucket]] = []
    room = 0
    for bucket in batch:
        room -= bucket.tokens.ids.numel()
        if not parts or room < 0:
            parts.append([])
            room = max_tokens - bucket.tokens.ids.numel()
        parts[-1].append(bucket)
    return parts


def _sampled_by(episode: Episode, weights_version: int | None) -> bool:
    """Whether all turns come from these weights, as far as versions are known."""
    versions = {step.weights_version for step in episode.steps}
    return weights_version is None or versions <= {weights_version, None}
