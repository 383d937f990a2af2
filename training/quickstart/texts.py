"""The texts the tiny tokenizer is made for: what the task and the pre-training questions say."""

from __future__ import annotations

from typing import Any

import gymnasium

from pxr_env.synthetic import COLOURS, LETTERS
from training.traces import answer_turn, target_cell, zoom_turn

# What varies in the texts: colours, numbers that stand alone, and the letters asked for.
ATOM = rf"{'|'.join(COLOURS)}|0|28|56|84|\b\d+\b|(?<=\{{)[{LETTERS}](?=\}})"


def fixed_texts(env: gymnasium.Env[Any, Any]) -> list[str]:
    """The system prompt, and replies that are the same for every sample: to zooms, and to what beginners write."""
    texts = [str(env.reset(seed=0)[1]["system_prompt"])]
    base: Any = env.unwrapped
    zoom = zoom_turn(env, target_cell(base.sample)).text
    half = zoom.removesuffix("</tool_call>")
    for turns in (
        [zoom, zoom, zoom],
        ["?"],
        [half],
        ["\\boxed{"],
        ["</tool_call>"],
        ["\\boxed{}"],
        ["\\boxed{}</tool_call>"],
    ):
        env.reset(seed=0)
        for turn in turns:
            observation, _, _, truncated, _ = env.step(turn)
            if not truncated:
                texts.append(observation["text"])
    return texts


def task_texts(env: gymnasium.Env[Any, Any], n: int = 40) -> list[str]:
    """Questions and turns of `n` samples, and the pre-training questions and answers."""
    base: Any = env.unwrapped
    texts = []
    for sample_id in base.data.sample_ids()[:n]:
        observation, _ = env.reset(options={"sample_id": sample_id})
        sample = base.sample
        zoom, answer = zoom_turn(env, target_cell(sample)), answer_turn(env, sample.answers[0])
        colour = sample.metadata["boxes"][0]["colour"]
        texts += [observation["text"], zoom.text, answer.text]
        texts += ["Describe the image.", f"Where is the {colour} box?"]
        texts += [f"{colour}028\n", f"{colour}5684\n", "28, 0, 56, 84"]
    return texts
