"""What can go wrong with an engine that runs in processes of its own."""

from __future__ import annotations


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
