"""RLlib's torch learner with a data plane of whole episodes: no connectors, no SingleAgentEpisode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from torch import Tensor

from pxr_agents.types import Episode
from training.batch import (
    BUCKET_TOKENS,
    Bucket,
    Group,
    TrainingRow,
    buckets,
    gae_row,
    group_rows,
    loss_weights,
    make_bucket,
    minibatches,
    split_by_row,
    token_minibatches,
)
from training.errors import NonFiniteError
from training.faults import SKIPS, describe_row, row_problem
from training.logs import combine_metrics
from training.lora import adapters_off
from training.loss import logprob_gap
from training.objective import LOGPROBS, VALUES, column, objective
from training.rllib.failure import leave_group
from training.rllib.module import Reference
from training.schedule import lr_factor

Forward = Callable[[list[Bucket]], Tensor]


class Buckets(list[Bucket]):
    """The buckets of one minibatch, with what RLlib asks of a batch.

    Attributes:
        normalizer: action ids a rank's loss is divided by: the mean over ranks, since DDP averages gradients. 0 if
            there is nothing to learn on any rank.
        first: whether no optimizer step lies between the sampling and this minibatch.
    """

    normalizer: float = 1.0
    first: bool = False

    def get(self, key: str, default: object = None) -> object:
        """RLlib looks for sequence lengths; there are none to slice by."""
        return default


@dataclass(frozen=True, slots=True)
class Minibatch:
    """Stands where RLlib expects a MultiAgentBatch."""

    policy_batches: dict[str, Buckets]
    n_turns: int

    def env_steps(self) -> int:
        return self.n_turns


class TokenPPOLearner(TorchLearner):
    """Token-level clipped PPO on whole episodes.

    `update` gets references to groups and the keywords `iteration` and `weights_version` (of the weights the learner
    has, to know which episodes older ones sampled); the order of minibatches and the learning rate follow from the
    iteration and the seed alone, so a resumed run goes on exactly as it would have.

    Attributes:
        last_update: metrics of the latest `update` on this learner, means over its minibatches, unsmoothed.
        equal_forwards: whether all learners have to run equally many forward passes, as where each of them gathers
            weights from the others (ZeRO-3).
        failed_batch: what it was about to learn from when something was no number (see `training.faults`).
    """

    last_update: dict[str, float]
    equal_forwards: bool = False
    failed_batch: dict[str, Any] | None = None
    _reference: Reference | None = None
    _skipped_in_a_row: int = 0

    def get_parameters(self, module: Any) -> list[Tensor]:
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        parameters = self.get_parameters(self._module[module_id])
        ppo = self.config.ppo
        optimizer = torch.optim.AdamW(parameters, lr=ppo.lr, betas=tuple(ppo.adam_betas), weight_decay=ppo.weight_decay)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=ppo.lr)

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """As RLlib's. One of several learners that fails ends its process a little later: nobody waits for it."""
        try:
            return super().update(*args, **kwargs)
        except NonFiniteError:
            # All of them noticed, and stopped at the same place.
            raise
        except Exception:
            if self.config.num_learners > 1:
                leave_group()
            raise

    def _create_iterator_if_necessary(
        self,
        *,
        training_data: TrainingData,
        iteration: int = 0,
        weights_version: int | None = None,
        **kwargs: Any,
    ) -> Iterator[Minibatch]:
        ppo = self.config.ppo
        factor = lr_factor(
            iteration, ppo.iterations, warmup=ppo.lr_warmup_iterations, decay_fraction=ppo.lr_decay_fraction
        )
        for _, optimizer in self.get_optimizers_for_module(DEFAULT_MODULE_ID):
            self._set_optimizer_lr(optimizer, ppo.lr * factor)
        self._lr = ppo.lr * factor
        self._minibatch_metrics: list[dict[str, float]] = []
        self._grad_norm, self._skipped, self._iteration = 0.0, 0, iteration
        self._sample_ids = [group.sample_id for group in training_data.episodes]
        groups = self._scored(self._rows(training_data.episodes, weights_version))
        self._rows_at_hand = [row for group in groups for row in group]
        problems = [problem for row in self._rows_at_hand if (problem := row_problem(row))]
        self._stop_if(problems[0] if problems else None, "Not all numbers to learn from are finite")
        for k, part in enumerate(self._minibatches(groups, np.random.default_rng([ppo.seed, 4, iteration]))):
            self._rows_at_hand = part
            yield Minibatch({DEFAULT_MODULE_ID: self._batch(part, first=k == 0)}, sum(_n_turns(row) for row in part))

    def _minibatches(
        self, groups: Sequence[Sequence[TrainingRow]], rng: np.random.Generator
    ) -> Iterator[list[TrainingRow]]:
        ppo = self.config.ppo
        if ppo.minibatch_tokens is None:
            return minibatches(groups, n_minibatches=ppo.num_minibatches, n_epochs=ppo.num_epochs, rng=rng)
        return token_minibatches(
            groups,
            minibatch_tokens=ppo.minibatch_tokens,
            n_epochs=ppo.num_epochs,
            rng=rng,
            max_over_ranks=self._max_over_ranks,
        )

    def _batch(self, rows: Sequence[TrainingRow], *, first: bool) -> Buckets:
        ppo = self.config.ppo
        factors, units = loss_weights(rows, ppo.loss_normalization, constant=ppo.max_tokens)
        tokens, units = self._mean_over_ranks(sum(row.n_trained for row in rows if row.teaches), units)
        # The loss is a sum divided by the tokens; with these weights it is the mean over the units instead.
        scale = tokens / units if units else 1.0
        rows = [
            replace(row, weight=factor * scale, idle=not row.teaches) for row, factor in zip(rows, factors, strict=True)
        ]
        batch = Buckets(bucket.to(self._device) for bucket in self._padded(self._buckets(rows), rows[0]))
        batch.normalizer, batch.first = tokens, first
        return batch

    def _buckets(self, rows: Sequence[TrainingRow]) -> list[Bucket]:
        return buckets(rows, max_tokens=self._max_tokens)

    @property
    def _max_tokens(self) -> int:
        return self.config.ppo.learner.micro_batch_tokens or BUCKET_TOKENS

    def _padded(self, batch: list[Bucket], row: TrainingRow) -> list[Bucket]:
        if not self.equal_forwards:
            return batch
        missing = self._max_over_ranks(len(batch)) - len(batch)
        return batch + [make_bucket([replace(row, idle=True, fresh=False)])] * missing

    def _rows(self, groups: Sequence[Group], weights_version: int | None) -> list[list[TrainingRow]]:
        ppo = self.config.ppo
        rows = [group_rows(group, normalize_std=ppo.normalize_std) for group in groups]
        if ppo.advantage == "gae":
            values = iter(self._score([row for members in rows for row in members], self._policy(VALUES)))
            rows = [
                [gae_row(e, next(values), gamma=ppo.gamma, gae_lambda=ppo.gae_lambda) for e in group.episodes]
                for group in groups
            ]
        return [
            [
                replace(row, group=k, fresh=_sampled_by(episode, weights_version))
                for row, episode in zip(members, group.episodes, strict=True)
            ]
            for k, (members, group) in enumerate(zip(rows, groups, strict=True))
        ]

    def _scored(self, groups: Sequence[Sequence[TrainingRow]]) -> list[list[TrainingRow]]:
        """Rows with what was asked for from before the first step: the learner's log-probabilities, the reference's."""
        ppo = self.config.ppo
        rows = [row for group in groups for row in group]
        if ppo.old_logprobs == "learner":
            scores = self._score_teaching(rows, self._policy(LOGPROBS))
            rows = [replace(row, old_logprobs=score) for row, score in zip(rows, scores, strict=True)]
            self._log_gap([row for row in rows if row.teaches])
        if ppo.kl_coef:
            scores = self._score_teaching(rows, self._reference_logprobs())
            rows = [replace(row, ref_logprobs=score) for row, score in zip(rows, scores, strict=True)]
        remaining = iter(rows)
        return [[next(remaining) for _ in group] for group in groups]

    def _score_teaching(self, rows: Sequence[TrainingRow], forward: Forward) -> list[np.ndarray]:
        """As `_score`; rows that teach nothing get any number, since they carry no loss."""
        scores = [row.engine_logprobs for row in rows]
        teaching = [k for k, row in enumerate(rows) if row.teaches] or [0]
        for k, score in zip(teaching, self._score([rows[k] for k in teaching], forward), strict=True):
            scores[k] = score
        return scores

    def _log_gap(self, rows: Sequence[TrainingRow]) -> None:
        fresh = [row for row in rows if row.fresh]
        if fresh:
            bucket = make_bucket(fresh)
            self._minibatch_metrics.append(logprob_gap(bucket.old_logprobs, bucket.engine_logprobs))

    @torch.no_grad()
    def _score(self, rows: Sequence[TrainingRow], forward: Forward) -> list[np.ndarray]:
        """(T,) numbers for each row's action ids, without gradients."""
        batch = [bucket.to(self._device) for bucket in self._padded(self._buckets(rows), rows[0])]
        flat = np.asarray(forward(batch).float().cpu().numpy())
        return split_by_row(flat[: sum(row.n_actions for row in rows)], rows, max_tokens=self._max_tokens)

    def _policy(self, name: str) -> Forward:
        module = self.module[DEFAULT_MODULE_ID].unwrapped()
        return lambda batch: module.forward_train(batch)[name]

    def _reference_logprobs(self) -> Forward:
        """The policy without its adapters, if it has some; else a copy of the checkpoint that the run started from."""
        ppo = self.config.ppo
        if ppo.learner.lora_rank:
            model, policy = self.module[DEFAULT_MODULE_ID].unwrapped().model, self._policy(LOGPROBS)
            return adapters_off(model)(policy)
        if self._reference is None:
            self._reference = Reference(ppo.model, temperature=ppo.temperature, device=self._device)
        return self._reference.logprobs

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: Buckets, fwd_out: dict[str, Tensor]
    ) -> Tensor:
        loss, metrics = objective(self.config.ppo, batch, fwd_out, normalizer=batch.normalizer or 1.0)
        if not batch.normalizer:
            metrics = {}
        fresh = column(batch, "fresh")
        if batch.first and self.config.ppo.old_logprobs == "engine" and bool(fresh.any()):
            # Before the first step the weights are those that sampled: any gap is the engine's and the learner's.
            metrics |= logprob_gap(fwd_out[LOGPROBS][fresh], column(batch, "engine_logprobs")[fresh])
        self._minibatch_metrics.append(metrics)
        return loss

    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> Any:
        """Parameters that took no part get zeros, not None.

        Raises:
            NonFiniteError: the loss of a learner is no number.
        """
        loss = float(loss_per_module[DEFAULT_MODULE_ID].detach())
        self._stop_if(None if math.isfinite(loss) else f"the loss is {loss}", "The loss is not a finite number")
        gradients = {
            ref: torch.zeros_like(self._params[ref]) if gradient is None else gradient
            for ref, gradient in super().compute_gradients(loss_per_module, **kwargs).items()
        }
        # RLlib's own norm makes 0 of nan, and a large number of infinity.
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients.values()]
        self._norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        return gradients

    def apply_gradients(self, gradients_dict: dict[str, Tensor]) -> None:
        """Step, unless the norm of the gradients, which is the same on all learners, is no number."""
        if self._takes_step(self._norm):
            super().apply_gradients(gradients_dict)

    def _takes_step(self, grad_norm: float) -> bool:
        """Note a step with gradients of this norm, or one that is left out; too many of those in a row stop the run."""
        if math.isfinite(grad_norm):
            self._grad_norm, self._skipped_in_a_row = grad_norm, 0
            return True
        self._skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= SKIPS:
            self._stop_if(
                "the norm of the gradients", f"The norm of the gradients is {grad_norm} {SKIPS} times in a row"
            )
        return False

    def _stop_if(self, problem: str | None, headline: str) -> None:
        """Stop on all learners if one of them has a problem.

        Raises:
            NonFiniteError: one has; `failed_batch` is what this one had at hand.
        """
        if not self._max_over_ranks(int(problem is not None)):
            return
        chat = self.module[DEFAULT_MODULE_ID].unwrapped().vlm.chat
        rows = [
            describe_row(row, self._sample_ids[row.group], chat.decode(row.tokens.ids[row.tokens.action].tolist()))
            for row in self._rows_at_hand
        ]
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self.failed_batch = {"learner": rank, "problem": problem, "episodes": rows}
        raise NonFiniteError(f"{headline} in iteration {self._iteration + 1}")

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Sum the update up. RLlib's schedules over time steps are not used: the rate is set from the iteration."""
        self.last_update = combine_metrics(self._minibatch_metrics) | {"lr": self._lr, "grad_norm": self._grad_norm}
        if self._skipped:
            self.last_update["skipped_steps"] = float(self._skipped)
        self.metrics.log_dict(self.last_update, key=DEFAULT_MODULE_ID, window=1)

    def _mean_over_ranks(self, *numbers: float) -> list[float]:
        if self.config.num_learners < 2:
            return [float(number) for number in numbers]
        total = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(total)
        return [number / self.config.num_learners for number in total.tolist()]

    def _max_over_ranks(self, number: int) -> int:
        if self.config.num_learners < 2:
            return number
        largest = torch.tensor(number, device=self._device)
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        return int(largest)


def _n_turns(row: TrainingRow) -> int:
    return len(row.tokens.turn_ends)


def _sampled_by(episode: Episode, weights_version: int | None) -> bool:
    """Whether all turns come from these weights, as far as versions are known."""
    versions = {step.weights_version for step in episode.steps}
    return weights_version is None or versions <= {weights_version, None}
