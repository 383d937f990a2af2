"""PPO on learners that share the memory of one model: DeepSpeed's ZeRO-2 and ZeRO-3 inside RLlib's learner group.

Only the step differs from `TokenPPOLearner`: each bucket of a minibatch goes forward and backward by itself, and
DeepSpeed averages the gradients over the learners, clips them and steps. Batches, losses and the learning rate are the
same, and so are the numbers, up to rounding.

RLlib asks its first learner alone for weights and for the state of the optimizer. Here it has but a part of them: they
are gathered by all learners together (`training.rllib.weights`), and checkpoints are written by all of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from ray.rllib.core import COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from torch import Tensor

from training.batch import Bucket
from training.deepspeed_engine import TAG, start_engine
from training.objective import objective
from training.rllib.learner import TokenPPOLearner
from training.update import Minibatch, Update


class DeepSpeedPPOLearner(TokenPPOLearner):
    """`TokenPPOLearner` whose optimizer states and gradients (ZeRO-2) and weights (ZeRO-3) are split over the learners.

    Attributes:
        engine: DeepSpeed's, around the module.
    """

    engine: Any = None

    def build(self) -> None:
        # DeepSpeed asks for what `torchrun` would have set. A learner sees its own GPU only, which is number 0.
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0", "LOCAL_SIZE": str(world)}
        super().build()

    def _make_update(self) -> Update:
        return Update(self.config.ppo, self._policy, ranks=self._ranks, forward=self._forward_by_bucket, in_step=True)

    def _forward_by_bucket(self, batch: Sequence[Bucket]) -> Mapping[str, Tensor]:
        # DeepSpeed follows which weights come when, pass by pass, from the outermost call.
        return _joined([self.engine([bucket]) for bucket in batch])

    def _map_module_to_device(self, module: Any) -> None:
        """The model stays in the memory of the CPU; DeepSpeed moves what belongs on this learner's GPU."""

    def _make_modules_ddp_if_necessary(self) -> None:
        module = self._module[DEFAULT_MODULE_ID]
        if module.value_head is not None:
            module.value_head.register_forward_pre_hook(_cast_to_weight)
        [(_, optimizer)] = self.get_optimizers_for_module(DEFAULT_MODULE_ID)
        self.engine = start_engine(module, optimizer, self.config.ppo)

    def _uncompiled_update(self, batch: dict[str, Minibatch], **kwargs: Any) -> tuple[Any, Any, Any]:
        """One optimizer step on a minibatch: a pass for each bucket, whose gradients add up."""
        buckets, parts = batch[DEFAULT_MODULE_ID], []
        total = 0.0
        for bucket in buckets:
            out = self.engine([bucket])
            loss, _ = objective(self.config.ppo, [bucket], out, normalizer=buckets.normalizer or 1.0)
            total += float(loss.detach())
            self.engine.backward(loss)
            parts.append({name: tensor.detach() for name, tensor in out.items()})
        self.ppo.check_loss(total)
        # DeepSpeed leaves a step out by itself where the norm is no number.
        self.engine.step()
        self.ppo.takes_step(float(self.engine.get_global_grad_norm()))
        whole = {DEFAULT_MODULE_ID: _joined(parts)}
        # The loss of the whole minibatch once more, for its metrics.
        return whole, self.compute_losses(fwd_out=whole, batch=batch), {}

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Without weights and optimizer: this learner has but a part of them (see `save_shard`)."""
        others = [not_components] if isinstance(not_components, str) else not_components or []
        without = sorted({COMPONENT_RL_MODULE, COMPONENT_OPTIMIZER, *others})
        state: dict[str, Any] = super().get_state(components, not_components=without, **kwargs)
        return state

    def get_checkpointable_components(self) -> list[Any]:
        return []

    def save_shard(self, path: Path) -> None:
        """Write this learner's part of the weights and of the optimizer. All learners have to, together."""
        self.engine.save_checkpoint(str(path), tag=TAG, save_latest=False)

    def load_shard(self, path: Path) -> None:
        """Read what `save_shard` wrote. All learners have to, together; there must be as many as then."""
        self.engine.load_checkpoint(str(path), tag=TAG)


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _cast_to_weight(module: torch.nn.Linear, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].to(module.weight.dtype),)
