"""What generates."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from pxr_agents.engines.vllm.arguments import StartArguments
from training.config.base import RECIPE


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class EngineRecipe:
    """What generates (see docs/engines.md)."""

    kind: Literal["transformers", "vllm"] = "transformers"
    """Either "transformers", in every env runner, or "vllm", in Ray actors that all env runners share."""
    num_engines: PositiveInt = 1
    """VLLM engines; conversations are spread over them."""
    num_cpus_per_engine: NonNegativeFloat = 1.0
    """What Ray reserves for each; may be a fraction."""
    num_gpus_per_engine: NonNegativeFloat = 0.0
    """What Ray reserves for each: vllm.tensor_parallel_size, or a fraction where an engine shares its GPU with a
    learner; 0 on a CPU."""
    timeout: PositiveFloat = 600.0
    """Seconds after which an engine that does not start or take weights counts as lost."""
    turn_timeout: PositiveFloat = 600.0
    """Seconds without a finished turn after which engines are looked at, and those that hang replaced."""
    vllm: StartArguments = field(default_factory=StartArguments)
    """Start arguments of each engine."""
