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
from functools import partial
from typing import Any

import gymnasium
from PIL import Image

from pxr_env import OperationCall

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


class Session:
    """One of our environments as TRL's `environment_factory` wants it; public methods are tools."""

    def __init__(self) -> None:
        self._env = gymnasium.make(ENV_ID, **ENV_KWARGS)

    def reset(self, sample_id: str, **row: Any) -> list[dict[str, Any]]:
        observation, _ = self._env.reset(options={"sample_id": sample_id})
        self._reward, self._over = 0.0, False
        return self._parts(observation)

    def zoom_in(self, bbox_2d: list[float], target_image: int) -> list[dict[str, Any]]:
        """Show a part of an image again, larger.

        Args:
            bbox_2d: The box [x1, y1, x2, y2].
            target_image: The number of the image.
        """
        call = OperationCall(name="zoom_in", arguments={"bbox_2d": bbox_2d, "target_image": target_image})
        return self._step(self._env.unwrapped.dialect.render_call(call))

    def _step(self, turn: str) -> list[dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self._env.step(turn)
        self._reward, self._over = self._reward + float(reward), terminated or truncated
        return self._parts(observation)

    @staticmethod
    def _parts(observation: dict[str, Any]) -> list[dict[str, Any]]:
        images = [{"type": "image", "image": Image.fromarray(image)} for image in observation["images"]]
        return [*images, {"type": "text", "text": observation["text"]}]


def reward(completions: list[Any], environments: list[Session], **_: Any) -> list[float]:
    """What our environment paid. TRL shows it tool calls only: the last turn has to be told."""
    for completion, session in zip(completions, environments, strict=True):
        if not session._over:
            session._step(completion[-1].get("content") or "" if completion[-1]["role"] == "assistant" else "")
    return [session._reward for session in environments]


def train(model: str, groups: int, iterations: int) -> list[dict[str, float]]:
    """One optimizer step an iteration on `groups` groups of 8 rollouts; returns what each iteration took."""
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLProcessor, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

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
        model, reward, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=processor,
        environment_factory=partial(Session), callbacks=[Rows()],
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
