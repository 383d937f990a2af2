"""How a vLLM engine is started, and what can go wrong with it. Importing this needs no vLLM, so that recipes can be
checked anywhere.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(use_attribute_docstrings=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, slots=True, config=_STRICT)
class StartArguments:
    """Start arguments of a vLLM engine (see https://docs.vllm.ai, "Engine Arguments")."""

    tensor_parallel_size: PositiveInt = 1
    """GPUs of one node that share the model."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the device's memory (on a CPU: of this machine's) that the engine may take; lower it where a learner
    lives on the same device."""
    max_model_len: NonNegativeInt = 0
    """Longest conversation in ids, vision tokens included; 0 for what the checkpoint allows."""
    images_per_prompt: PositiveInt = 16
    """Most images in one conversation."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of weights and cache; "auto" is the learner's in a training, else vLLM's choice: the checkpoint's, but half
    precision for one in float32."""
    enforce_eager: bool = False
    """No compilation and no CUDA graphs: starts faster, runs slower."""
    max_num_seqs: PositiveInt = 256
    """Conversations that are generated for at the same time."""
    max_num_batched_tokens: NonNegativeInt = 0
    """Ids processed in one step; 0 for vLLM's default."""
    block_size: NonNegativeInt = 0
    """Ids in a block of the cache, of which only whole ones are shared between turns and rollouts; 0 for vLLM's default
    (128 on a CPU, where 32 is the smallest)."""
    kv_cache_memory_bytes: NonNegativeInt = 0
    """Size of the cache; 0 for what `gpu_memory_utilization` leaves."""
    seed: NonNegativeInt = 0
    """Seed of vLLM's own random numbers; sampling does not depend on it."""
    weight_transfer: Literal["none", "nccl", "ipc"] = "none"
    """How new weights come: "nccl" or "ipc" from GPU to GPU (see docs/engines.md), "none" through files."""


class EngineError(RuntimeError):
    """An engine died, hung, or answered something else than was asked. The message names what was lost."""


class DeadEngineError(EngineError):
    """vLLM's process is gone; nothing that was asked of it will come back."""


class StaleWeightsError(EngineError):
    """An engine has other weights than the request asked for. Nothing was sampled."""


#: What is wrong with training a mixture of experts with vLLM on CPUs: log-probabilities are off by up to 3 nats.
NO_NEW_EXPERTS = (
    "vLLM 0.32 loads new weights of a mixture of experts wrongly on CPUs, and says nothing. Train it with "
    'engine.kind="transformers", or with engines on GPUs.'
)
