"""RLlib's torch learner with a data plane of whole episodes: no connectors, no SingleAgentEpisode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from torch import Tensor

from training.batch import Bucket, Group, TrainingRow, buckets, gae_row, group_rows, minibatches, split_by_row
from training.logs import combine_metrics
from training.loss import logprob_gap, ppo_loss, value_loss
from training.rllib.module import ENTROPY, LOGPROBS, VALUES
from training.schedule import lr_factor


class Buckets(list[Bucket]):
    """The buckets of one minibatch, with what RLlib asks of a batch.

    Attributes:
        normalizer: action ids a rank's loss is divided by: the mean over ranks, since DDP averages gradients. 0 if
            there is nothing to learn on any rank.
        teaches: whether the rows of this rank teach anything; if not, one of them takes part without weight.
        first: whether no optimizer step lies between the sampling and this minibatch.
    """

    normalizer: float = 1.0
    teaches: bool = True
    first: bool = False

    def flat(self, name: str) -> Tensor:
        """(T,) the numbers `name` of all buckets."""
        return torch.cat([getattr(bucket, name) for bucket in self])

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

    `update` gets references to groups and the keyword `iteration`; the order of minibatches and the learning rate
    follow from it and the seed alone, so a resumed run goes on exactly as it would have.

    Attributes:
        last_update: metrics of the latest `update` on this learner, means over its minibatches, unsmoothed.
    """

    last_update: dict[str, float]

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        parameters = self.get_parameters(self._module[module_id])
        ppo = self.config.ppo
        optimizer = torch.optim.AdamW(parameters, lr=ppo.lr, betas=tuple(ppo.adam_betas), weight_decay=ppo.weight_decay)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=ppo.lr)

    def _create_iterator_if_necessary(
        self, *, training_data: TrainingData, iteration: int = 0, **kwargs: Any
    ) -> Iterator[Minibatch]:
        ppo = self.config.ppo
        factor = lr_factor(
            iteration, ppo.iterations, warmup=ppo.lr_warmup_iterations, decay_fraction=ppo.lr_decay_fraction
        )
        for _, optimizer in self.get_optimizers_for_module(DEFAULT_MODULE_ID):
            self._set_optimizer_lr(optimizer, ppo.lr * factor)
        self._lr = ppo.lr * factor
        self._minibatch_metrics: list[dict[str, float]] = []
        rows = [self._rows(group) for group in training_data.episodes]
        rng = np.random.default_rng([ppo.seed, 4, iteration])
        for k, part in enumerate(
            minibatches(rows, n_minibatches=ppo.num_minibatches, n_epochs=ppo.num_epochs, rng=rng)
        ):
            yield Minibatch({DEFAULT_MODULE_ID: self._batch(part, first=k == 0)}, sum(_n_turns(row) for row in part))

    def _batch(self, rows: Sequence[TrainingRow], *, first: bool) -> Buckets:
        batch = Buckets(bucket.to(self._device) for bucket in buckets(rows))
        batch.normalizer = self._mean_over_ranks(sum(row.n_actions for row in rows if row.teaches))
        batch.teaches, batch.first = any(row.teaches for row in rows), first
        return batch

    def _rows(self, group: Group) -> list[TrainingRow]:
        ppo = self.config.ppo
        if ppo.advantage == "group":
            return group_rows(group, normalize_std=ppo.normalize_std)
        return [
            gae_row(episode, values, gamma=ppo.gamma, gae_lambda=ppo.gae_lambda)
            for episode, values in zip(group.episodes, self._values(group), strict=True)
        ]

    @torch.no_grad()
    def _values(self, group: Group) -> list[np.ndarray]:
        """What the critic says of each episode, (T,) on its action ids."""
        rows = group_rows(group, normalize_std=False)
        module = self.module[DEFAULT_MODULE_ID].unwrapped()
        out = module.forward_train([bucket.to(self._device) for bucket in buckets(rows)])
        return split_by_row(np.asarray(out[VALUES].float().cpu().numpy()), rows)

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: Buckets, fwd_out: dict[str, Tensor]
    ) -> Tensor:
        ppo = self.config.ppo
        logprobs, old_logprobs = fwd_out[LOGPROBS], batch.flat("old_logprobs")
        mask = torch.full_like(logprobs, batch.teaches, dtype=torch.bool)
        normalizer = batch.normalizer or 1.0
        loss, metrics = ppo_loss(
            logprobs,
            old_logprobs,
            batch.flat("advantages"),
            fwd_out[ENTROPY],
            clip_coef=ppo.clip_coef,
            clip_coef_high=ppo.clip_coef_high,
            ent_coef=ppo.ent_coef,
            normalizer=normalizer,
            mask=mask,
        )
        if ppo.advantage == "gae":
            critic = value_loss(
                fwd_out[VALUES],
                batch.flat("old_values"),
                batch.flat("returns"),
                clip_coef=ppo.clip_coef,
                normalizer=normalizer,
                mask=mask,
            )
            metrics["value_loss"] = float(critic.detach())
            loss = loss + ppo.vf_coef * critic
        metrics["loss"] = float(loss.detach())
        if not batch.normalizer:
            metrics = {}
        if batch.first:
            # Before the first step the weights are those that sampled: any gap is the engine's and the learner's.
            metrics |= logprob_gap(logprobs, old_logprobs)
        self._minibatch_metrics.append(metrics)
        return loss

    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> Any:
        """Parameters that took no part (the vision tower, in a minibatch without images) get zeros, not None."""
        gradients = super().compute_gradients(loss_per_module, **kwargs)
        return {
            ref: torch.zeros_like(self._params[ref]) if gradient is None else gradient
            for ref, gradient in gradients.items()
        }

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Sum the update up. RLlib's schedules over time steps are not used: the rate is set from the iteration."""
        grad_norm = float(self.metrics.peek((DEFAULT_MODULE_ID, f"gradients_{self._optimizer_name}_global_norm")))
        self.last_update = combine_metrics(self._minibatch_metrics) | {"lr": self._lr, "grad_norm": grad_norm}
        self.metrics.log_dict(self.last_update, key=DEFAULT_MODULE_ID, window=1)

    @property
    def _optimizer_name(self) -> str:
        [(name, _)] = self.get_optimizers_for_module(DEFAULT_MODULE_ID)
        return str(name)

    def _mean_over_ranks(self, n: int) -> float:
        if self.config.num_learners < 2:
            return float(n)
        total = torch.tensor(float(n), device=self._device)
        torch.distributed.all_reduce(total)
        return float(total) / self.config.num_learners


def _n_turns(row: TrainingRow) -> int:
    return len(row.tokens.turn_ends)
