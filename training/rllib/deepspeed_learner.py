"""PPO on learners that share the memory of one model: DeepSpeed's ZeRO-2 and ZeRO-3 inside RLlib's learner group.

Only the step differs from `TokenPPOLearner`: each bucket of a minibatch goes forward and backward by itself, and
DeepSpeed averages the gradients over the learners, clips them and steps. Batches, losses and the learning rate are the
same, and so are the numbers, up to rounding.

RLlib asks its first learner alone for weights and for the state of the optimizer. Here it has but a part of them: they
are gathered by all learners together (`training.rllib.weights`), and checkpoints are written by all of them.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from ray.rllib.core import COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from torch import Tensor

from pxr_agents.vlm import TokenBatch
from training.batch import Bucket, TrainingRow
from training.deepspeed_engine import TAG, start_engine
from training.objective import objective
from training.rllib.learner import Buckets, Forward, TokenPPOLearner


class DeepSpeedLearner(TokenPPOLearner):
    """`TokenPPOLearner` whose optimizer states and gradients (ZeRO-2) and weights (ZeRO-3) are split over the learners.

    Attributes:
        engine: DeepSpeed's, around the module.
    """

    # A pass gathers weights from the others (ZeRO-3), and its gradients are reduced at once (both).
    equal_forwards = True
    engine: Any = None

    def build(self) -> None:
        # DeepSpeed asks for what `torchrun` would have set. A learner sees its own GPU only, which is number 0.
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0", "LOCAL_SIZE": str(world)}
        super().build()

    def _map_module_to_device(self, module: Any) -> None:
        """The model stays in the memory of the CPU; DeepSpeed moves what belongs on this learner's GPU."""

    def _make_modules_ddp_if_necessary(self) -> None:
        module = self._module[DEFAULT_MODULE_ID]
        if module.value_head is not None:
            module.value_head.register_forward_pre_hook(_cast_to_weight)
        [(_, optimizer)] = self.get_optimizers_for_module(DEFAULT_MODULE_ID)
        self.engine = start_engine(module, optimizer, self.config.ppo)

    def _uncompiled_update(self, batch: dict[str, Buckets], **kwargs: Any) -> tuple[Any, Any, Any]:
        """One optimizer step on a minibatch: a pass for each bucket, whose gradients add up."""
        buckets, parts = batch[DEFAULT_MODULE_ID], []
        total = 0.0
        for bucket in buckets:
            out = self.engine([bucket])
            loss, _ = objective(self.config.ppo, [bucket], out, normalizer=buckets.normalizer or 1.0)
            total += float(loss.detach())
            self.engine.backward(loss)
            parts.append({name: tensor.detach() for name, tensor in out.items()})
        self._stop_if(None if math.isfinite(total) else f"the loss is {total}", "The loss is not a finite number")
        # DeepSpeed leaves a step out by itself where the norm is no number.
        self.engine.step()
        self._takes_step(float(self.engine.get_global_grad_norm()))
        whole = {DEFAULT_MODULE_ID: {name: torch.cat([part[name] for part in parts]) for name in parts[0]}}
        # The loss of the whole minibatch once more, for its metrics.
        losses = self.compute_losses(fwd_out=whole, batch=batch)
        return whole, losses, {}

    def _padded(self, batch: list[Bucket], row: TrainingRow) -> list[Bucket]:
        chat = self.module[DEFAULT_MODULE_ID].unwrapped().vlm.chat
        return [
            bucket if bucket.tokens.images else with_blank_image(bucket, chat.image_id, chat.image_unit)
            for bucket in super()._padded(batch, row)
        ]

    def _policy(self, name: str) -> Forward:
        # DeepSpeed follows which weights come when, pass by pass, from the outermost call.
        return lambda batch: torch.cat([self.engine([bucket])[name] for bucket in batch])

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Without weights and optimizer: this learner has but a part of them (see `save_shard`)."""
        without = {COMPONENT_RL_MODULE, COMPONENT_OPTIMIZER} | set(_names(not_components))
        state: dict[str, Any] = super().get_state(components, not_components=sorted(without), **kwargs)
        return state

    def get_checkpointable_components(self) -> list[Any]:
        return []

    def save_shard(self, path: Path) -> None:
        """Write this learner's part of the weights and of the optimizer. All learners have to, together."""
        self.engine.save_checkpoint(str(path), tag=TAG, save_latest=False)

    def load_shard(self, path: Path) -> None:
        """Read what `save_shard` wrote. All learners have to, together; there must be as many as then."""
        self.engine.load_checkpoint(str(path), tag=TAG)


def with_blank_image(bucket: Bucket, image_id: int, side: int) -> Bucket:
    """The bucket with one more row, which shows a black image of one token and has no action ids.

    DeepSpeed adds gradients up over the learners in the order in which they come, whichever parameters they belong to.
    Where one learner's rows show images and another's do not, the vision tower has to come at the same place in both.

    Args:
        bucket: its rows show no images.
        image_id: the id that stands for a vision token.
        side: of an image of one vision token, in pixels.
    """
    tokens = bucket.tokens
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


def _names(components: Any) -> list[str]:
    if components is None:
        return []
    return [components] if isinstance(components, str) else list(components)


def _cast_to_weight(module: torch.nn.Linear, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].to(module.weight.dtype),)
