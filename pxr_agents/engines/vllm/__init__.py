"""Generation with vLLM: in this process (`VLLMEngine`), or in Ray actors (`training/rllib/engines.py`).

`core.py` is the only module that imports vLLM; the others can be imported without it.
"""

import os

# What a command writes to standard output is its result. Read when vLLM is imported, also in its own processes.
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")

from pxr_agents.engines.vllm.arguments import DeadEngineError, EngineError, StaleWeightsError, StartArguments
from pxr_agents.engines.vllm.engine import VLLMEngine

__all__ = ["DeadEngineError", "EngineError", "StaleWeightsError", "StartArguments", "VLLMEngine"]
