"""How the model is held and trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.config.checks import above_zero, at_least, require


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerRecipe:
    """How the model is held and trained (see docs/learners.md).

    Attributes:
        kind: "ddp", every learner holds everything, or DeepSpeed's "zero2" (gradients and optimizer states are split
            over the learners) or "zero3" (the weights, too).
        dtype: of the weights that compute; with "bfloat16" float32 ones are kept beside them for the optimizer.
        micro_batch_tokens: ids that go through the model at once, padding included; a minibatch that holds more is
            computed in parts whose gradients are accumulated. Parts are whole episodes. ("zero2", "zero3")
        gradient_checkpointing: keep only the inputs of the layers, and compute what is between them a second time.
        offload_optimizer: keep optimizer states in the memory of the CPU, and step there. ("zero2", "zero3")
        offload_parameters: keep the weights there, too. ("zero3")
        lora_rank: inner width of low-rank adapters, which alone are trained; 0 trains all weights.
        lora_alpha: adapters count lora_alpha / lora_rank times.
        lora_targets: linear layers of the language model that get adapters.
    """

    kind: Literal["ddp", "zero2", "zero3"] = "ddp"
    dtype: Literal["float32", "bfloat16"] = "float32"
    micro_batch_tokens: int | None = None
    gradient_checkpointing: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        require(self.kind in ("ddp", "zero2", "zero3"), "kind", self.kind, "'ddp', 'zero2' or 'zero3'")
        require(self.dtype in ("float32", "bfloat16"), "dtype", self.dtype, "'float32' or 'bfloat16'")
        at_least(self, 0, "lora_rank")
        above_zero(self, "lora_alpha")
        require(not self.lora_rank or bool(self.lora_targets), "lora_targets", self.lora_targets, "names of layers")
        size, zero = self.micro_batch_tokens, self.kind != "ddp"
        require(size is None or size > 0, "micro_batch_tokens", size, "1 or more")
        require(zero or size is None, "micro_batch_tokens", size, "none where kind is 'ddp'; use 'zero2' or 'zero3'")
        require(zero or not self.offload_optimizer, "offload_optimizer", True, "false where kind is 'ddp'")
        require(
            self.kind == "zero3" or not self.offload_parameters,
            "offload_parameters", True, "false where kind is not 'zero3'",
        )  # fmt: skip
