"""The model as RLlib knows it: a checkpoint, and a value head if there is a critic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from pxr_agents.vlm import VLM, token_distributions
from training.batch import Bucket
from training.config import LearnerRecipe
from training.lora import add_adapters, has_adapters, plain_weights
from training.objective import ENTROPY, LOGPROBS, VALUES


class VLMModule(TorchRLModule):
    """A VLM loaded from `model_config["path"]`; `model_config["critic"]` adds a linear value head.

    `forward_train` takes a list of buckets and returns one flat tensor per quantity, in the buckets' order.
    """

    vlm: VLM

    def setup(self) -> None:
        self.vlm = VLM.from_pretrained(self.model_config["path"])
        # Registers the parameters; the VLM itself is no torch module.
        self.model = self.vlm.model
        self.temperature = float(self.model_config.get("temperature", 1.0))
        self.value_head = None
        if self.model_config.get("critic") and not self.inference_only:
            self.value_head = torch.nn.Linear(self.model.config.text_config.hidden_size, 1)
            torch.nn.init.zeros_(self.value_head.weight)
            torch.nn.init.zeros_(self.value_head.bias)
        self._autocast = False
        learner = self.model_config.get("learner")
        if learner is not None and not self.inference_only:
            self._prepare(learner)

    def _prepare(self, learner: LearnerRecipe) -> None:
        if learner.lora_rank:
            add_adapters(self.model, learner, seed=self.model_config["seed"])
        if learner.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # DeepSpeed has bfloat16 weights and float32 ones beside them; DDP has float32 ones and rounds as it computes.
        self._autocast = learner.kind == "ddp" and learner.dtype == "bfloat16"

    def get_state(self, *args: Any, inference_only: bool = False, **kwargs: Any) -> Any:
        state = super().get_state(*args, inference_only=inference_only, **kwargs)
        if inference_only:
            if has_adapters(self.model):
                return {f"model.{name}": tensor.cpu().numpy() for name, tensor in plain_weights(self.model)}
            state = {name: value for name, value in state.items() if not name.startswith("value_head.")}
        return state

    def _forward_train(self, batch: list[Bucket], **kwargs: Any) -> dict[str, Tensor]:
        with torch.autocast(self.vlm.device.type, torch.bfloat16, enabled=self._autocast):
            return self._says(batch)

    def _says(self, batch: Sequence[Bucket]) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {LOGPROBS: [], ENTROPY: [], VALUES: []}
        for bucket in batch:
            ids, logprobs, hidden = token_distributions(self.vlm, bucket.tokens, self.temperature)
            chosen = logprobs.gather(1, ids[:, None])[:, 0]
            if not bucket.tokens.images:
                chosen = chosen + vision_zero(self.vlm)
            parts[LOGPROBS].append(chosen)
            # Banned ids have log-probability -inf and probability 0: their product counts as 0.
            parts[ENTROPY].append(-(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1))
            if self.value_head is not None:
                parts[VALUES].append(self.value_head(hidden.float())[:, 0])
        return {name: torch.cat(tensors) for name, tensors in parts.items() if tensors}

    def _forward(self, batch: list[Bucket], **kwargs: Any) -> dict[str, Tensor]:
        return self._forward_train(batch)


def vision_zero(vlm: VLM) -> Tensor:
    """0, computed by the vision tower from an image of one token.

    Rows without images would leave the tower out of a learner's graph, and the others, which wait for its gradients
    (DDP) or for its part of the weights (ZeRO-3), would wait forever.
    """
    side = vlm.chat.image_unit
    encoded = vlm.encode_images([np.zeros((side, side, 3), np.uint8)])
    layers = [encoded.pooler_output, *(encoded.get("deepstack_features") or [])]
    return 0.0 * sum(features.float().sum() for layer in layers for features in layer)


class Reference:
    """The frozen policy that a KL penalty holds the trained one near: the checkpoint that the run started from.

    It costs the memory of the weights once more on every learner (4 bytes a parameter in float32), without gradients
    and optimizer state.

    Args:
        path: the checkpoint.
        temperature: of sampling, as the trained policy has it.
        device: where it computes.
    """

    def __init__(self, path: str, *, temperature: float, device: torch.device) -> None:
        self._vlm = VLM.from_pretrained(path, device=str(device))
        self._vlm.model.requires_grad_(False)
        self._temperature = temperature

    @torch.no_grad()
    def logprobs(self, batch: Sequence[Bucket]) -> Tensor:
        """(T,) log-probabilities of the action ids, in the buckets' order."""
        parts = []
        for bucket in batch:
            ids, logprobs, _ = token_distributions(self._vlm, bucket.tokens, self._temperature)
            parts.append(logprobs.gather(1, ids[:, None])[:, 0])
        return torch.cat(parts)
