"""Stage A: the "pre-trained base model" of the quick start, from random weights in a minute or two.

Users of real checkpoints never see this stage. It teaches what a base VLM can do before it has ever called an
operation: describe a scene, point at a box, read a letter it can see. It ends by measurement on held-out rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import gymnasium
import numpy as np

from pxr_agents.chat import Conversation
from pxr_agents.types import Observation, Tokens
from pxr_agents.vlm import VLM
from pxr_env.synthetic import COLOURS, LETTERS, cell_box
from pxr_env.types import Sample
from training.quickstart.recipe import PretrainRecipe
from training.sft import Optimizers, TokenWeights, cross_entropy, token_accuracy
from training.traces import answer_turn, demonstrate, target_cell, zoom_turn

Report = Callable[[int, int, dict[str, float]], None]
"""Progress: step, limit of steps, latest measurements."""

HELD_OUT = 1000
"""So many samples at the end of the training split only measure when a stage ends."""


def held_out_ids(env: gymnasium.Env[Any, Any]) -> Sequence[str]:
    """Samples that stages A and B never train on."""
    base: Any = env.unwrapped
    return cast(Sequence[str], base.data.sample_ids()[-HELD_OUT:])


class SceneRows:
    """Makes the training rows from an environment's samples: each kind is one question and its answer."""

    def __init__(
        self, env: gymnasium.Env[Any, Any], vlm: VLM, rng: np.random.Generator, *, held_out: bool = False
    ) -> None:
        self._env, self._chat, self._rng = env, vlm.chat, rng
        self._base = cast(Any, env.unwrapped)
        self._ids = held_out_ids(env) if held_out else self._base.data.sample_ids()[:-HELD_OUT]

    def sample_id(self, *, easy: bool = False) -> str:
        """A random training sample; easy ones can be answered at first sight."""
        while True:
            sample_id = str(self._ids[int(self._rng.integers(len(self._ids)))])
            if not easy or not self._base.data.get(sample_id).needs_operation:
                return sample_id

    def caption(self) -> Tokens:
        """Every box with its place, in random order, and its letter where it can be read."""
        sample, prompt, system = self._first_view(self.sample_id())
        lines = []
        for k in self._rng.permutation(len(sample.metadata["boxes"])):
            box = sample.metadata["boxes"][k]
            place = self._base.frame.from_source(cell_box(sample, box["cell"]), self._base.views[0])
            letter = "" if box["hard"] else box["letter"]
            # Nothing between colour and place: a step from one to the next token is what three layers learn first,
            # and with separators in between they stay colour-blind.
            lines.append(f"{box['colour']}{place[0]}{place[1]}{letter}\n")
        return self._row(system, {"text": "Describe the image.", "images": prompt["images"]}, "".join(lines))

    def where(self) -> Tokens:
        """A question for a place, answered with the box that a zoom would name."""
        sample, prompt, system = self._first_view(self.sample_id())
        box = self._base.frame.from_source(target_cell(sample), self._base.views[0])
        question = f"Where is the {sample.metadata['boxes'][0]['colour']} box?"
        return self._row(system, {"text": question, "images": prompt["images"]}, ", ".join(map(str, box)))

    def ask(self) -> Tokens:
        """The task's own question about a letter that is readable at first sight."""
        sample_id = self.sample_id(easy=True)
        answer = self._base.data.get(sample_id).answers[0]
        return demonstrate(self._env, self._chat, sample_id, [answer_turn(self._env, answer)])

    def view(self) -> Tokens:
        """The task's question with a zoomed view of its box: alone, or after the scene and the operation."""
        sample_id = self.sample_id()
        sample, prompt, system = self._first_view(sample_id)
        zoom = zoom_turn(self._env, target_cell(sample), train=False)
        answer = answer_turn(self._env, sample.answers[0])
        if self._rng.random() < 0.6:
            return demonstrate(self._env, self._chat, sample_id, [zoom, answer])
        observation = self._env.step(zoom.text)[0]
        return self._row(system, {"text": prompt["text"], "images": observation["images"]}, answer.text)

    def mixed(self) -> Tokens:
        """One row of the mixture stage A trains on."""
        u = self._rng.random()
        make = self.where if u < 0.1 else self.ask if u < 0.3 else self.view if u < 0.55 else self.caption
        return make()

    def _first_view(self, sample_id: str) -> tuple[Sample, Observation, str]:
        observation, info = self._env.reset(options={"sample_id": sample_id})
        return self._base.sample, observation, info["system_prompt"]

    def _row(self, system: str, observation: Observation, reply: str) -> Tokens:
        conversation = Conversation()
        self._chat.prompt(conversation, system, observation)
        conversation.append_turn((*self._chat.encode_text(reply), self._chat.stop_id), train=True)
        return conversation.tokens()


# What varies in the texts: colours, numbers that stand alone, and the letters asked for.
ATOM = rf"{'|'.join(COLOURS)}|0|28|56|84|\b\d+\b|(?<=\{{)[{LETTERS}](?=\}})"


def fixed_texts(env: gymnasium.Env[Any, Any]) -> list[str]:
    """The system prompt, and replies that are the same for every sample: to zooms, and to what beginners write."""
    texts = [str(env.reset(seed=0)[1]["system_prompt"])]
    base: Any = env.unwrapped
    zoom = zoom_turn(env, target_cell(base.sample)).text
    half = zoom.removesuffix("</tool_call>")
    beginners = ("?", half, "\\boxed{", "</tool_call>", "\\boxed{}", "\\boxed{}</tool_call>")
    for turns in ([zoom, zoom, zoom], *([turn] for turn in beginners)):
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


def coordinate_ids(env: gymnasium.Env[Any, Any], vlm: VLM) -> frozenset[int]:
    """Ids of the numbers that bound cells."""
    base: Any = env.unwrapped
    sample = base.data.get(base.data.sample_ids()[0])
    env.reset(options={"sample_id": sample.sample_id})
    grid = sample.sources[0].size[0] // sample.metadata["cell_size"]
    corners = [base.frame.from_source(cell_box(sample, (k, k)), base.views[0]) for k in range(grid)]
    numbers = {number for corner in corners for number in corner}
    return frozenset(_single_id(vlm, str(n)) for n in numbers)


def letter_ids(vlm: VLM) -> frozenset[int]:
    return frozenset(_single_id(vlm, letter) for letter in LETTERS)


def _single_id(vlm: VLM, text: str) -> int:
    ids = vlm.chat.encode_text(text)
    if len(ids) != 1:
        raise ValueError(f"{text!r} is {len(ids)} tokens of this tokenizer; the quick start needs it to be one")
    return ids[0]


def pretrain(
    vlm: VLM, env: gymnasium.Env[Any, Any], recipe: PretrainRecipe, *, seed: int, report: Report
) -> dict[str, float]:
    """Train until localization and reading pass on held-out rows, or `recipe.steps` are done.

    Returns:
        The last measurements, and `met` (1.0 or 0.0): whether the criteria were reached.
    """
    rng = np.random.default_rng([seed, 1])
    rows = SceneRows(env, vlm, rng)
    pool = [rows.mixed() for _ in range(recipe.pool)]
    held_out, n = SceneRows(env, vlm, rng, held_out=True), recipe.held_out
    mixed = [held_out.mixed() for _ in range(n)]
    ask, view = [held_out.ask() for _ in range(n // 2)], [held_out.view() for _ in range(n // 2)]
    coordinates, letters = coordinate_ids(env, vlm), letter_ids(vlm)
    pointing = TokenWeights(base=0.2, groups={"coordinates": (coordinates, 2.0), "letters": (letters, 0.5)})
    both = TokenWeights(base=0.2, groups={"coordinates": (coordinates, 1.0), "letters": (letters, 2.0)})
    weights = pointing
    optimizers = Optimizers(vlm, lr=recipe.lr, muon_lr=recipe.muon_lr)
    measured: dict[str, float] = {}
    order: list[int] = []
    step, end, reached = 0, recipe.steps, False
    while step < end:
        step += 1
        if len(order) < recipe.batch_size:
            order = rng.permutation(recipe.pool).tolist()
        batch = [pool[order.pop()] for _ in range(recipe.batch_size)]
        factor = min(1.0, step / recipe.warmup) * min(1.0, (end - step + 1) / recipe.decay)
        optimizers.step(cross_entropy(vlm, batch, weights), factor)
        if step % recipe.measure_every == 0 or step == end:
            measured = {
                "localization": token_accuracy(vlm, mixed, coordinates, run=2),
                "letters": token_accuracy(vlm, mixed, letters),
                "direct": token_accuracy(vlm, ask, letters),
                "zoomed": token_accuracy(vlm, view, letters),
            }
            if measured["localization"] >= recipe.pointing_first:
                weights = both
            reading = min(measured[name] for name in ("letters", "direct", "zoomed"))
            if not reached and measured["localization"] >= recipe.localization and reading >= recipe.reading:
                reached, end = True, min(step + recipe.decay, recipe.steps)
        report(step, end, measured)
    return {**measured, "steps": float(step), "met": float(reached)}
