"""The model as RLlib knows it: a checkpoint, and a value head if there is a critic."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from pxr_agents.vlm import VLM, token_distributions
from training.batch import Bucket

LOGPROBS, ENTROPY, VALUES = "logprobs", "entropy", "values"


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

    def get_state(self, *args: Any, inference_only: bool = False, **kwargs: Any) -> Any:
        state = super().get_state(*args, inference_only=inference_only, **kwargs)
        if inference_only:
            state = {name: value for name, value in state.items() if not name.startswith("value_head.")}
        return state

    def _forward_train(self, batch: list[Bucket], **kwargs: Any) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {LOGPROBS: [], ENTROPY: [], VALUES: []}
        for bucket in batch:
            ids, logprobs, hidden = token_distributions(self.vlm, bucket.tokens, self.temperature)
            parts[LOGPROBS].append(logprobs.gather(1, ids[:, None])[:, 0])
            # Banned ids have log-probability -inf and probability 0: their product counts as 0.
            parts[ENTROPY].append(-(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1))
            if self.value_head is not None:
                parts[VALUES].append(self.value_head(hidden.float())[:, 0])
        return {name: torch.cat(tensors) for name, tensors in parts.items() if tensors}

    def _forward(self, batch: list[Bucket], **kwargs: Any) -> dict[str, Tensor]:
        return self._forward_train(batch)
