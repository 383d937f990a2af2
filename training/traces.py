"""Demonstrations for the warm start: real episodes of an environment, played by somebody who knows the answer.

Three kinds (arXiv 2505.15966, section 4): *direct* (answer at once), *single pass* (the right operation, then
the answer) and *error-induced self-correction* (a wrong operation first, then the right ones). The tokens of
the deliberately wrong operation are context, never target.

Every observation in a trace comes from the environment itself, so a trace is exactly what the policy will see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from pydantic.dataclasses import dataclass

from pxr_agents.chat import ChatFormat, Conversation
from pxr_agents.types import Tokens
from pxr_env.env import VisualReasoningEnv
from pxr_env.env import oracle_turns as base_oracle_turns
from pxr_env.media import Box
from pxr_env.synthetic import LETTERS, cell_box
from pxr_env.types import OperationCall, Sample
from training.config import RECIPE, Share
from training.mistakes import wrong_call


@dataclass(frozen=True, kw_only=True, slots=True)
class ScriptedTurn:
    """A demonstrated turn; `train=False` keeps it as context without loss."""

    text: str
    train: bool = True


def demonstrate(
    env: gymnasium.Env[Any, Any], chat: ChatFormat, sample_id: str, turns: Sequence[ScriptedTurn]
) -> Tokens:
    """Play scripted turns in the environment and record them token for token.

    Raises:
        ValueError: if the environment ends the episode before the last turn, or answers a turn with an error.
    """
    observation, info = env.reset(options={"sample_id": sample_id})
    conversation = Conversation()
    chat.prompt(conversation, info["system_prompt"], observation, info.get("image_places"))
    for k, turn in enumerate(turns):
        conversation.append_turn((*chat.encode_text(turn.text), chat.stop_id), train=turn.train)
        observation, _, terminated, truncated, info = env.step(turn.text)
        if any(info["failures"].values()):
            raise ValueError(f"Turn {k + 1} of a trace of sample {sample_id!r} failed: {observation['text']}")
        last = k == len(turns) - 1
        if (terminated or truncated) and not last:
            raise ValueError(
                f"The episode of sample {sample_id!r} ended after turn {k + 1} of {len(turns)}: {turn.text!r}; "
                f"expected only the last turn of a trace to answer (and max_turns to be large enough)"
            )
        if not last:
            chat.reply(conversation, observation, info.get("image_places"))
    return conversation.tokens()


def zoom_turn(env: gymnasium.Env[Any, Any], box: Sequence[float], *, train: bool = True) -> ScriptedTurn:
    """A zoom into a box given in source pixels, written in the environment's dialect and frame."""
    base: Any = env.unwrapped
    call = OperationCall(
        name="zoom_in", arguments={"bbox_2d": base.frame.from_source(tuple(box), base.views[0]), "target_image": 1}
    )
    return ScriptedTurn(text=base.dialect.render_call(call), train=train)


def answer_turn(env: gymnasium.Env[Any, Any], answer: str, *, train: bool = True) -> ScriptedTurn:
    base: Any = env.unwrapped
    return ScriptedTurn(text=base.dialect.render_answer(answer), train=train)


def oracle_turns(env: gymnasium.Env[Any, Any], kind: str, rng: np.random.Generator) -> list[ScriptedTurn]:
    """The turns of a demonstration of the sample that `env` was reset to. It is played, and reset to that sample again.

    Args:
        env: an environment of `VisualReasoningEnv`, whose samples know what the kind needs.
        kind: "direct" (the answer), "single-pass" (the operations of `pxr_env.env`, then the answer) or
            "self-correction" (the same after a wrong operation, which carries no loss; see `training.mistakes`).
        rng: draws what is wrong.

    Raises:
        NoMistakeError: nothing of the sample could be shown by mistake (self-correction).
        ValueError: the kind is unknown, or needs what the sample, its environment or its limits do not have.
    """
    base: Any = env.unwrapped
    sample: Sample = base.sample
    if kind == "direct":
        return [answer_turn(env, sample.answers[0])]
    if kind not in ("single-pass", "self-correction"):
        raise ValueError(f"got kind={kind!r}, expected 'direct', 'single-pass' or 'self-correction'")
    turns = []
    if kind == "self-correction":
        call = wrong_call(base, first_call(base), rng)
        turns.append(ScriptedTurn(text=base.dialect.render_call(call), train=False))
        _play(env, turns[0])
    else:
        first_call(base)
    for text in base_oracle_turns(base):
        turns.append(ScriptedTurn(text=text))
        _play(env, turns[-1])
    env.reset(options={"sample_id": sample.sample_id})
    return turns


def first_call(env: VisualReasoningEnv) -> OperationCall:
    """The operation that an oracle begins with.

    Raises:
        ValueError: it would answer at once.
    """
    call = next(iter(env.dialect.parse(next(base_oracle_turns(env))).calls), None)
    if not isinstance(call, OperationCall):
        raise ValueError(
            f"Sample {env.sample.sample_id!r} has no evidence box, time or call that an operation of its environment "
            f"shows; expected a task whose samples have one, or demonstrations without operations (zoom=0)"
        )
    return call


def _play(env: gymnasium.Env[Any, Any], turn: ScriptedTurn) -> None:
    observation, *_, info = env.step(turn.text)
    if any(info["failures"].values()):
        raise ValueError(
            f"The oracle's turn {turn.text!r} on sample {info['sample_id']!r} failed: {observation['text']} "
            f"A correction takes one operation and one turn more: raise max_operations and max_turns, or set "
            f"correction=0."
        )


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class TraceRecipe:
    """What demonstrations look like, as shares in [0, 1]."""

    zoom: Share = 0.35
    """Demonstrations that use the operation at all. The same for samples that need it and samples that do not: when to
    zoom is left to reinforcement learning."""
    correction: Share = 0.2
    """Zooming demonstrations that begin with a wrong operation, which carries no loss."""
    miss: Share = 0.0
    """Zooming demonstrations whose (trained) operation misses the evidence."""
    answer_from_view: bool = False
    """After a miss, whether the answer that the missed view suggests is trained on (the letter it shows, or a guess);
    otherwise that answer carries no loss."""


def search_trace(
    env: gymnasium.Env[Any, Any], chat: ChatFormat, sample_id: str, recipe: TraceRecipe, rng: np.random.Generator
) -> Tokens:
    """One demonstration on `pxr/SyntheticSearch-v0`; zooms are windows of one cell."""
    base: Any = env.unwrapped
    sample: Sample = base.data.get(sample_id)
    env.reset(options={"sample_id": sample_id})
    turns: list[ScriptedTurn] = []
    answer, train_answer = sample.answers[0], True
    if rng.random() < recipe.zoom:
        if rng.random() < recipe.correction:
            turns.append(zoom_turn(env, miss_cell(sample, rng)[1], train=False))
        if rng.random() < recipe.miss:
            cell, box = miss_cell(sample, rng)
            if recipe.answer_from_view:
                shown = [b["letter"] for b in sample.metadata["boxes"] if tuple(b["cell"]) == cell]
                answer = shown[0] if shown else str(rng.choice(list(LETTERS)))
            else:
                train_answer = False
        else:
            box = target_cell(sample)
        turns.append(zoom_turn(env, box))
    turns.append(answer_turn(env, answer, train=train_answer))
    return demonstrate(env, chat, sample_id, turns)


def target_cell(sample: Sample) -> Box:
    """The cell of the box that is asked about, in source pixels."""
    return cell_box(sample, sample.metadata["boxes"][0]["cell"])


def miss_cell(sample: Sample, rng: np.random.Generator) -> tuple[tuple[int, int], Box]:
    """Another cell than the target's, drawn evenly: (column, row) and its box in source pixels."""
    column, row = sample.metadata["boxes"][0]["cell"]
    grid = sample.sources[0].size[0] // sample.metadata["cell_size"]
    k = (column + grid * row + int(rng.integers(1, grid * grid))) % (grid * grid)
    cell = (k % grid, k // grid)
    return cell, cell_box(sample, cell)
