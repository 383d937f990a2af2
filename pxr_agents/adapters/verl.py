"""verl's agent loop on our environments: the ids that are trained on are those that its server sampled.

# agent_loops.yaml, for actor_rollout_ref.rollout.agent.agent_loop_config_path
- name: search
  _target_: pxr_agents.adapters.verl.PixelLoop
  env: pxr_env:pxr/SyntheticSearch-v0
  kwargs: {coordinates: permille, size_multiple: 32}

# rows of train.parquet
datasets.Dataset.from_list(rows("search", ["train-0", "train-1"])).to_parquet("train.parquet")
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import gymnasium
from omegaconf import OmegaConf
from PIL import Image
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput
from verl.utils.profiler import simple_timer
from verl.workers.rollout.replica import TokenOutput

from pxr_agents.chat import ChatFormat, Conversation
from pxr_agents.types import Completion
from pxr_env.types import NoTurn

#: Environments between two episodes, by what they were made of: verl makes a loop for each episode.
_IDLE: dict[str, list[gymnasium.Env]] = defaultdict(list)


def rows(name: str, sample_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of verl's data for the samples of those ids; `name` is that of the agent loop, whose environment writes the
    prompt."""
    unused = {"prompt": [{"role": "user", "content": ""}], "reward_model": {"style": "environment", "ground_truth": ""}}
    return [
        {**unused, "agent_name": name, "data_source": name, "sample_id": sample_id, "extra_info": {"index": number}}
        for number, sample_id in enumerate(sample_ids)
    ]


class PixelLoop(AgentLoopBase):
    """Plays an episode of an environment with verl's server; verl makes one for each rollout.

    Args:
        env: the id of a task.
        kwargs: of the environment; `size_multiple` has to fit the model (28 for Qwen2.5-VL, 32 for Qwen3-VL).
        max_tokens: of a turn; by default what is left of verl's `response_length`.
        verl: what verl gives to every agent loop.
    """

    def __init__(
        self, *, env: str, kwargs: Mapping[str, Any] | None = None, max_tokens: int | None = None, **verl: Any
    ) -> None:
        super().__init__(**verl)
        self._env, self._max_tokens = env, max_tokens
        self._kwargs: Any = OmegaConf.to_container(OmegaConf.create(dict(kwargs or {})))
        images = self.processor.image_processor
        self._chat = ChatFormat(self.tokenizer, patch_size=images.patch_size, merge_size=images.merge_size)

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """Plays the sample of a row's `sample_id`.

        Where `response_length` ends the episode there is no answer, and what was shown after the last turn is left out,
        with its images.

        Returns ids of prompt and response with all image tokens, the mask of the model's own ids, log-probabilities if
        the server gives some, images, reward, and as metrics "acc", "usage_rate" and "truncated_rate". ValueError: the
        prompt is longer than `prompt_length`, or an image has sides that do not fit the model.
        """
        idle = _IDLE[f"{self._env} {self._kwargs}"]
        env = idle.pop() if idle else await asyncio.to_thread(gymnasium.make, self._env, **self._kwargs)
        conversation, total, is_over = Conversation(), 0.0, False
        took: dict[str, float] = {}
        request = {"request_id": uuid4().hex, "sampling_params": sampling_params}
        observation, info = await asyncio.to_thread(env.reset, options={"sample_id": row["sample_id"]})
        self._chat.prompt(conversation, info["system_prompt"], observation, info.get("image_places"))
        n_prompt, output = len(conversation.ids), None
        if n_prompt > self.rollout_config.prompt_length:
            most = f"prompt_length={self.rollout_config.prompt_length}; raise it, or lower max_pixels"
            raise ValueError(f"got a prompt of {n_prompt} ids; expected at most {most}.")
        while not is_over:
            action: str | NoTurn = NoTurn("length")
            room = n_prompt + self.rollout_config.response_length - len(conversation.ids)
            if room > 0:
                with simple_timer("generate_sequences", took):
                    output = await self._turn(conversation, request, min(room, self._max_tokens or room))
                action = self._chat.decode(output.token_ids)
            else:
                conversation.end_with_last_turn()
            with simple_timer("tool_calls", took):
                observation, reward, terminated, truncated, info = await asyncio.to_thread(env.step, action)
            total, is_over = total + float(reward), terminated or truncated
            if not is_over:
                self._chat.reply(conversation, observation, info.get("image_places"))
        idle.append(env)
        used, cut = any(info["usage"].values()), "truncated_by" in info
        scored = {"acc": info["correct"], "usage_rate": used, "truncated_rate": cut}
        told = {"turn_scores": [], "tool_rewards": [], "reward_extra_info": {k: float(v) for k, v in scored.items()}}
        tokens = conversation.tokens()
        return AgentLoopOutput(
            prompt_ids=conversation.ids[:n_prompt],
            response_ids=conversation.ids[n_prompt:],
            response_mask=tokens.action[n_prompt:].astype(int).tolist(),
            response_logprobs=tokens.logprobs[n_prompt:].tolist() if output and output.log_probs else None,
            multi_modal_data={"images": _pictures(conversation)},
            reward_score=total,
            num_turns=2 * conversation.n_turns,
            metrics=AgentLoopMetrics.model_validate(took),
            extra_fields={**(output.extra_fields if output else {}), **told},
        )

    async def _turn(self, conversation: Conversation, request: Mapping[str, Any], most: int) -> TokenOutput:
        """Lets the server go on by at most so many ids, and appends them."""
        output: TokenOutput = await self.server_manager.generate(
            request_id=request["request_id"],
            prompt_ids=list(conversation.ids),
            sampling_params={**request["sampling_params"], "max_tokens": most},
            image_data=_pictures(conversation),
        )
        ids, logprobs = output.token_ids, output.log_probs or [0.0] * len(output.token_ids)
        reason: Any = "stop" if ids[-1:] == [self._chat.stop_id] else "length"
        conversation.append_completion(Completion(token_ids=tuple(ids), logprobs=tuple(logprobs), finish_reason=reason))
        return output


def _pictures(conversation: Conversation) -> list[Image.Image]:
    return [Image.fromarray(image) for image in conversation.images]
