"""TRL's GRPOTrainer on our environment: what `benchmarks/trl.py` starts for the other side.

TRL calls an operation as a tool, and shows it images in messages of the role "tool". The template of our checkpoints
writes these as our dialect has it: users' messages, so that the checkpoint reads what it was taught.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

import gymnasium

ENV_ID, GROUP = "pxr_env:pxr/SyntheticSearch-v0", 8
ENV_KWARGS = {"coordinates": "pixel", "max_turns": 3, "max_operations": 2, "duplicates": "execute"}


class Meter:
    """What every iteration of this process takes.

    Attributes:
        rows: an iteration each: "seconds" and "cpu" (user and system, of all threads), "mb" (most resident so far), and
            what it did.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._start()

    def _start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def iteration(self, **did: float) -> None:
        took = {"seconds": time.perf_counter() - self._wall, "cpu": time.process_time() - self._cpu}
        mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.rows.append({**took, "mb": mb, **did})
        self._start()


def train(model: str, groups: int, iterations: int) -> list[dict[str, float]]:
    """One optimizer step an iteration on `groups` groups of 8 rollouts; returns what each iteration took."""
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLProcessor, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from pxr_env.adapters.trl import GRPOTask, score

    # Its video processor would need torchvision, and there are no videos.
    Qwen3VLProcessor.get_attributes = classmethod(lambda cls: ["image_processor", "tokenizer"])
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessorPil.from_pretrained(model), tokenizer, chat_template=tokenizer.chat_template
    )
    # A vision token that a policy happens to sample ends TRL's run; ours cannot sample it.
    never = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special and i != tokenizer.eos_token_id]
    _, info = gymnasium.make(ENV_ID, **ENV_KWARGS).reset(seed=0)
    prompt = [{"role": "system", "content": info["system_prompt"]}, {"role": "user", "content": ""}]
    rows = [{"prompt": prompt, "sample_id": f"train-{k}"} for k in range(groups * iterations)]
    arguments = GRPOConfig(
        output_dir="build/trl_output", max_steps=iterations, per_device_train_batch_size=groups * GROUP,
        num_generations=GROUP, max_completion_length=128, temperature=1.0, top_k=0,
        max_tool_calling_iterations=2, generation_kwargs={"max_new_tokens": 16, "suppress_tokens": never},
        learning_rate=1e-9, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, shuffle_dataset=False,
    )  # fmt: skip
    meter = Meter()

    class Rows(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.iteration(episodes=groups * GROUP, tokens=generated[-1], turns=turns[-1])

    trainer = GRPOTrainer(
        model, score, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=processor,
        environment_factory=GRPOTask(ENV_ID, **ENV_KWARGS), callbacks=[Rows()],
    )  # fmt: skip
    generated: list[int] = []
    turns: list[int] = []
    loop = trainer._tool_call_loop

    def counted(*args: Any) -> Any:
        result = loop(*args)
        generated.append(sum(map(sum, result[0])))
        turns.append(sum(message["role"] == "assistant" for completion in result[1] for message in completion))
        return result

    trainer._tool_call_loop = counted
    trainer.train()
    return meter.rows


if __name__ == "__main__":
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    print(json.dumps(train(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
