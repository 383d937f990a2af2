"""RLlib's torch learner with a data plane of whole episodes: no connectors, no SingleAgentEpisode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from torch import Tensor

from training.batch import Bucket, Group, TrainingRow, buckets, gae_row, group_rows, minibatches
from training.loss import ppo_loss, value_loss
from training.rllib.module import ENTROPY, LOGPROBS, VALUES


class Buckets(list[Bucket]):
    """The buckets of one minibatch, with what RLlib asks of a batch."""

    normalizer: float = 1.0
    """Action ids a rank's loss is divided by (the mean over ranks)."""

    @property
    def n_actions(self) -> int:
        return sum(len(bucket.advantages) for bucket in self)

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
    """

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        parameters = self.get_parameters(self._module[module_id])
        ppo = self.config.ppo
        optimizer = torch.optim.AdamW(
            parameters, lr=ppo.lr, betas=tuple(ppo.adam_betas), weight_decay=ppo.weight_decay
        )
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=ppo.lr)

    def _create_iterator_if_necessary(
        self, *, training_data: TrainingData, iteration: int = 0, **kwargs: Any
    ) -> Iterator[Minibatch]:
        ppo = self.config.ppo
        self._set_lr(ppo.lr * lr_factor(iteration, ppo.iterations, ppo.lr_warmup_iterations, ppo.lr_decay_fraction))
        groups: list[Group] = training_data.episodes
        rows = [self._rows(group) for group in groups]
        rng = np.random.default_rng([ppo.seed, 4, iteration])
        for k, part in enumerate(
            minibatches(rows, n_minibatches=ppo.num_minibatches, n_epochs=ppo.num_epochs, rng=rng)
        ):
            batch = Buckets(bucket.to(self._device) for bucket in buckets(part))
            batch.normalizer = self._mean_over_ranks(batch.n_actions)
            self._first_minibatch = k == 0
            yield Minibatch({DEFAULT_MODULE_ID: batch}, sum(len(row.tokens.turn_ends) for row in part))

    def _rows(self, group: Group) -> list[TrainingRow]:
        ppo = self.config.ppo
        if ppo.advantage == "group":
            return group_rows(group, normalize_std=ppo.normalize_std)
        base = group_rows(group, normalize_std=False)
        with torch.no_grad():
            # One row a time keeps the order of values that of the episodes.
            values = [self._values(row) for row in base]
        return [
            gae_row(episode, value, gamma=ppo.gamma, gae_lambda=ppo.gae_lambda)
            for episode, value in zip(group.episodes, values, strict=True)
        ]

    def _values(self, row: TrainingRow) -> np.ndarray:
        module = self.module[DEFAULT_MODULE_ID].unwrapped()
        out = module.forward_train([bucket.to(self._device) for bucket in buckets([row])])
        return np.asarray(out[VALUES].float().cpu().numpy())

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: Buckets, fwd_out: dict[str, Tensor]
    ) -> Tensor:
        ppo = self.config.ppo

        def flat(name: str) -> Tensor:
            return torch.cat([getattr(bucket, name) for bucket in batch])

        loss, metrics = ppo_loss(
            fwd_out[LOGPROBS],
            flat("old_logprobs"),
            flat("advantages"),
            fwd_out[ENTROPY],
            clip_coef=ppo.clip_coef,
            clip_coef_high=ppo.clip_coef_high,
            ent_coef=ppo.ent_coef,
            normalizer=batch.normalizer,
        )
        if ppo.advantage == "gae":
            critic = value_loss(
                fwd_out[VALUES], flat("old_values"), flat("returns"), clip_coef=ppo.clip_coef, normalizer=batch.normalizer
            )
            metrics["value_loss"] = float(critic.detach())
            loss = loss + ppo.vf_coef * critic
        if self._first_minibatch:
            # Before the first step the weights are those that sampled: any gap is the engine's and the learner's.
            gap = (fwd_out[LOGPROBS].detach() - flat("old_logprobs")).abs()
            metrics["logprob_gap_max"], metrics["logprob_gap_mean"] = float(gap.max()), float(gap.mean())
        self.metrics.log_dict(metrics, key=module_id, window=1)
        return loss

    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> Any:
        """Parameters that took no part (the vision tower, in a minibatch without images) get zeros, not None."""
        gradients = super().compute_gradients(loss_per_module, **kwargs)
        return {
            ref: torch.zeros_like(self._params[ref]) if gradient is None else gradient
            for ref, gradient in gradients.items()
        }

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """The learning rate is set from the iteration; RLlib's schedules over time steps are not used."""

    def _mean_over_ranks(self, n: int) -> float:
        if self.config.num_learners < 2:
            return float(max(n, 1))
        total = torch.tensor(float(n), device=self._device)
        torch.distributed.all_reduce(total)
        # DDP averages gradients over ranks, so dividing by the mean count yields the mean over all ids.
        return max(float(total) / self.config.num_learners, 1.0)

    def _set_lr(self, lr: float) -> None:
        for _, optimizer in self.get_optimizers_for_module(DEFAULT_MODULE_ID):
            self._set_optimizer_lr(optimizer, lr)
        self.metrics.log_value((DEFAULT_MODULE_ID, "lr"), lr, window=1)


def lr_factor(iteration: int, iterations: int, warmup: int, decay_fraction: float) -> float:
    """Linear warm-up over `warmup` iterations and linear decay to 0 over the last share of them (0-based iteration)."""
    up = min(1.0, (iteration + 1) / max(warmup, 1))
    decay = decay_fraction * iterations
    return up * (min(1.0, (iterations - iteration) / decay) if decay >= 1 else 1.0)
