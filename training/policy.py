"""The policy that is trained: a VLM with its adapters, and a value head if there is a critic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pxr_agents.vlm import VLM, score_tokens
from .batch import Bucket
from .config import LearnerRecipe, PPORecipe
from .learners import prepare
from .loss import ENTROPY, LOGPROBS, VALUES


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Called with the buckets of a minibatch, it returns what it says of their T action ids, in the buckets' order:
    LOGPROBS, ENTROPY and, with a critic, VALUES, each (T,). Images in `keep` are encoded once, for all passes to come
    (`VLM.keep`).

    The critic is a `value_head` on the last hidden state of each id. `autocast` computes in bfloat16 with float32
    weights. Without `train_entropy` the entropy is only looked at.
    """

    vlm: VLM
    value_head: torch.nn.Linear | None = None
    temperature: float = 1.0
    autocast: bool = False
    train_entropy: bool = True

    @classmethod
    def load(
        cls,
        path: str,
        *,
        critic: bool = False,
        train_entropy: bool = True,
        temperature: float = 1.0,
        learner: LearnerRecipe | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> Policy:
        """Load a checkpoint; `learner` says how it is trained, and `seed` draws its adapters."""
        learner = learner or LearnerRecipe()
        vlm = VLM.from_pretrained(path, device=device, attn_implementation=learner.attn_implementation)
        head = torch.nn.Linear(vlm.model.config.text_config.hidden_size, 1).to(device) if critic else None
        if head is not None:
            torch.nn.init.zeros_(head.weight)
            torch.nn.init.zeros_(head.bias)
        prepare(vlm.model, learner, seed=seed)
        # DeepSpeed has bfloat16 weights and float32 ones beside them; DDP has float32 ones and rounds as it computes.
        autocast = learner.kind == "ddp" and learner.dtype == "bfloat16"
        return cls(
            vlm=vlm, value_head=head, temperature=float(temperature), autocast=autocast, train_entropy=train_entropy
        )

    @property
    def trains_vision(self) -> bool:
        return any(parameter.requires_grad for parameter in self.vlm.model.model.visual.parameters())

    def __call__(self, batch: Sequence[Bucket], keep: Sequence[np.ndarray] = ()) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {LOGPROBS: [], ENTROPY: [], VALUES: []}
        with torch.autocast(self.vlm.device.type, torch.bfloat16, enabled=self.autocast):
            self.vlm.keep(keep)
            for bucket in batch:
                scores = score_tokens(self.vlm, bucket.tokens, self.temperature, train_entropy=self.train_entropy)
                blind = self.trains_vision and not bucket.tokens.images
                parts[LOGPROBS].append(scores.logprobs + self._vision_zero() if blind else scores.logprobs)
                parts[ENTROPY].append(scores.entropy)
                if self.value_head is not None:
                    parts[VALUES].append(self.value_head(scores.hidden.float())[:, 0])
        return {name: torch.cat(tensors) for name, tensors in parts.items() if tensors}

    def _vision_zero(self) -> Tensor:
        """0, computed by the vision tower from an image of one token.

        Rows without images would leave the tower out of a learner's graph, and the others, which wait for its
        gradients (DDP) or for its part of the weights (ZeRO-3), would wait forever.
        """
        side = self.vlm.chat.image_unit
        [features] = self.vlm.encode_images([np.zeros((side, side, 3), np.uint8)])
        return 0.0 * torch.stack([level.float().sum() for level in features]).sum()


def policy_arguments(recipe: PPORecipe) -> dict[str, Any]:
    """Arguments of `Policy.load` for the policy that a recipe trains."""
    return {
        "path": recipe.model,
        "critic": recipe.advantage == "gae",
        "train_entropy": recipe.ent_coef != 0,
        "temperature": recipe.temperature,
        "learner": recipe.learner,
        "seed": recipe.seed,
    }
