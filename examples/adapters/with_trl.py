"""GRPO with TRL on a task of ours: `python examples/adapters/with_trl.py Qwen/Qwen3-VL-2B-Instruct`."""

import sys

from trl import GRPOConfig, GRPOTrainer

from pxr_env.adapters.trl import GRPOTask, score

task = GRPOTask("pxr_env:pxr/SyntheticSearch-v0", coordinates="permille", size_multiple=32, max_pixels=1_048_576)
config = GRPOConfig("runs/trl", max_completion_length=4096, max_tool_calling_iterations=6)
GRPOTrainer(sys.argv[1], score, config, task.dataset(512), environment_factory=task).train()
