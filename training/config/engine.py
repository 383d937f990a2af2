"""What generates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pxr_agents.engines.vllm.arguments import StartArguments
from training.config.checks import above_zero, at_least, require


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRecipe:
    """What generates (see docs/engines.md).

    Attributes:
        kind: "transformers", in every env runner, or "vllm", in Ray actors that all env runners share.
        num_engines: vLLM engines; conversations are spread over them.
        num_cpus_per_engine: what Ray reserves for each; may be a fraction.
        num_gpus_per_engine: what Ray reserves for each: vllm.tensor_parallel_size, or a fraction where an engine shares
            its GPU with a learner; 0 on a CPU.
        timeout: seconds after which an engine that does not start or take weights counts as lost.
        turn_timeout: seconds without a finished turn after which engines are looked at, and those that hang replaced.
        vllm: start arguments of each engine.
    """

    kind: Literal["transformers", "vllm"] = "transformers"
    num_engines: int = 1
    num_cpus_per_engine: float = 1.0
    num_gpus_per_engine: float = 0.0
    timeout: float = 600.0
    turn_timeout: float = 600.0
    vllm: StartArguments = field(default_factory=StartArguments)

    def __post_init__(self) -> None:
        require(self.kind in ("transformers", "vllm"), "kind", self.kind, "'transformers' or 'vllm'")
        at_least(self, 1, "num_engines")
        at_least(self, 0, "num_cpus_per_engine", "num_gpus_per_engine")
        above_zero(self, "timeout", "turn_timeout")
