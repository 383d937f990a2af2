"""How the model is held and trained."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from training.config.base import RECIPE, require


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class LearnerRecipe:
    """How the model is held and trained (see docs/learners.md)."""

    kind: Literal["ddp", "zero2", "zero3"] = "ddp"
    """With "ddp" every learner holds everything; DeepSpeed's "zero2" splits gradients and optimizer states over the
    learners, "zero3" the weights, too."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights that compute; with "bfloat16" float32 ones are kept beside them for the optimizer."""
    micro_batch_tokens: PositiveInt | None = None
    """Ids that go through the model at once, padding included; a minibatch that holds more is computed in parts whose
    gradients are accumulated. Parts are whole episodes. ("zero2", "zero3")"""
    gradient_checkpointing: bool = False
    """Keep only the inputs of the layers, and compute what is between them a second time."""
    offload_optimizer: bool = False
    """Keep optimizer states in the memory of the CPU, and step there. ("zero2", "zero3")"""
    offload_parameters: bool = False
    """Keep the weights in the memory of the CPU, too. ("zero3")"""
    lora_rank: NonNegativeInt = 0
    """Inner width of low-rank adapters, which alone are trained; 0 trains all weights."""
    lora_alpha: PositiveFloat = 32.0
    """Adapters count lora_alpha / lora_rank times."""
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear layers of the language model that get adapters."""

    def __post_init__(self) -> None:
        require(not self.lora_rank or bool(self.lora_targets), "lora_targets", self.lora_targets, "names of layers")
        size, zero = self.micro_batch_tokens, self.kind != "ddp"
        require(zero or size is None, "micro_batch_tokens", size, "none where kind is 'ddp'; use 'zero2' or 'zero3'")
        require(zero or not self.offload_optimizer, "offload_optimizer", True, "false where kind is 'ddp'")
        require(
            self.kind == "zero3" or not self.offload_parameters,
            "offload_parameters", True, "false where kind is not 'zero3'",
        )  # fmt: skip
