"""The two supervised stages of the quick start, from random weights to a model with a nascent skill.

*Stage A* (`pretrain`) teaches what a base VLM can do before it has ever called an operation: describe a scene, point at
a box, read a letter it can see. Users of real checkpoints never see it.

*Stage B* (`WarmStart`) has two phases. *Form* teaches to write an operation: direct answers, single-pass zooms and
self-corrections, until calls are well formed, the most likely box is right and easy questions are still answered
directly. *Clumsy* demonstrations then make zooming a nascent skill, as it is for a real VLM after its warm start (arXiv
2505.15966, section 5): most demonstrated zooms miss, and the answer is read off whatever the view shows. It ends as
soon as sampled zooms hit rarely enough that zooming costs accuracy on easy questions, while the most likely box is
still right: worse than answering directly today, with the skill latent. This imbalance is engineered, and is what plain
reinforcement learning falls for.

All stages end by measurement on held-out samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import gymnasium
import numpy as np

from pxr_agents.agents import VLMAgent
from pxr_agents.chat import ChatFormat, Conversation
from pxr_agents.engines.transformers import TransformersEngine
from pxr_agents.rollout import rollout
from pxr_agents.statistics import episode_statistics
from pxr_agents.types import Episode, Job, Observation, Sampling, Tokens, episode_seed
from pxr_agents.vlm import VLM
from pxr_env.media import Box
from pxr_env.synthetic import COLOURS, LETTERS, cell_box
from pxr_env.types import Sample
from ..demonstrations import ScriptedTurn, answer_turn, demonstrate, zoom_turn
from ..logs import Report
from ..sft import Optimizers, TokenWeights, cross_entropy, token_accuracy
from .recipe import PhaseRecipe, PretrainRecipe, TraceRecipe, WarmStartRecipe

HELD_OUT = 1000
"""So many samples at the end of the training split only measure when a stage ends."""

OPENING = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": ['
"""How every zoom begins in the hermes dialect."""

# What varies in the texts: colours, numbers that stand alone, and the letters asked for.
ATOM = rf"{'|'.join(COLOURS)}|0|28|56|84|\b\d+\b|(?<=\{{)[{LETTERS}](?=\}})"

Check = Callable[[], tuple[dict[str, float], bool, list[Tokens]]]
"""Measures; returns the measurements, whether the phase is over, and the demonstrations to go on with."""


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
        box = target_cell(sample)
        if rng.random() < recipe.miss:
            cell, box = miss_cell(sample, rng)
            train_answer = recipe.answer_from_view
            if recipe.answer_from_view:
                shown = [b["letter"] for b in sample.metadata["boxes"] if tuple(b["cell"]) == cell]
                answer = shown[0] if shown else str(rng.choice(list(LETTERS)))
        turns.append(zoom_turn(env, box))
    turns.append(answer_turn(env, answer, train=train_answer))
    return demonstrate(env, chat, sample_id, turns)


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
        zoom, answer = zoom_turn(env, target_cell(base.sample)), answer_turn(env, base.sample.answers[0])
        colour = base.sample.metadata["boxes"][0]["colour"]
        texts += [observation["text"], zoom.text, answer.text, "Describe the image.", f"Where is the {colour} box?"]
        texts += [f"{colour}028\n", f"{colour}5684\n", "28, 0, 56, 84"]
    return texts


def coordinate_ids(env: gymnasium.Env[Any, Any], vlm: VLM) -> frozenset[int]:
    """Ids of the numbers that bound cells."""
    base: Any = env.unwrapped
    sample = base.data.get(base.data.sample_ids()[0])
    env.reset(options={"sample_id": sample.sample_id})
    grid = sample.sources[0].size[0] // sample.metadata["cell_size"]
    corners = [base.frame.from_source(cell_box(sample, (k, k)), base.views[0]) for k in range(grid)]
    return single_ids(vlm, {str(number) for corner in corners for number in corner})


def single_ids(vlm: VLM, texts: str | set[str]) -> frozenset[int]:
    """The ids of texts (of the letters of one) that are one token each; raises ValueError for one that is not."""
    encoded = {text: vlm.chat.encode_text(text) for text in texts}
    for text, ids in encoded.items():
        if len(ids) != 1:
            raise ValueError(f"{text!r} is {len(ids)} tokens of this tokenizer; the quick start needs it to be one")
    return frozenset(ids[0] for ids in encoded.values())


def pretrain(
    vlm: VLM, env: gymnasium.Env[Any, Any], recipe: PretrainRecipe, *, seed: int, report: Report
) -> dict[str, float]:
    """Stage A: train until localization and reading pass on held-out rows, or `recipe.steps` are done.

    Returns:
        The last measurements, and `met` (1.0 or 0.0): whether the criteria were reached.
    """
    rng = np.random.default_rng([seed, 1])
    rows = SceneRows(env, vlm, rng)
    pool = [rows.mixed() for _ in range(recipe.pool)]
    held_out, n = SceneRows(env, vlm, rng, held_out=True), recipe.held_out
    mixed = [held_out.mixed() for _ in range(n)]
    ask, view = [held_out.ask() for _ in range(n // 2)], [held_out.view() for _ in range(n // 2)]
    coordinates, letters = coordinate_ids(env, vlm), single_ids(vlm, LETTERS)

    def weighed(for_coordinates: float, for_letters: float) -> TokenWeights:
        groups = {"coordinates": (coordinates, for_coordinates), "letters": (letters, for_letters)}
        return TokenWeights(base=0.2, groups=groups)

    weights = weighed(2.0, 0.5)
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
            reading = {
                "letters": token_accuracy(vlm, mixed, letters),
                "direct": token_accuracy(vlm, ask, letters),
                "zoomed": token_accuracy(vlm, view, letters),
            }
            localization = token_accuracy(vlm, mixed, coordinates, run=2)
            measured = {"localization": localization, **reading}
            if localization >= recipe.pointing_first:
                weights = weighed(1.0, 2.0)
            passes = localization >= recipe.localization and min(reading.values()) >= recipe.reading
            if not reached and passes:
                reached, end = True, min(step + recipe.decay, recipe.steps)
        report(step, end, measured)
    return {**measured, "steps": float(step), "met": float(reached)}


class WarmStart:
    """Stage B: two phases over one model; what they share is the held-out samples and the ways to measure."""

    def __init__(
        self, vlm: VLM, envs: list[gymnasium.Env], recipe: WarmStartRecipe, *, seed: int, report: Report
    ) -> None:
        self.vlm, self.recipe, self._envs, self._report = vlm, recipe, envs, report
        self._held_out = held_out_ids(envs[0])[: recipe.held_out]
        self._seed, self._rng = seed, np.random.default_rng([seed, 2])
        self._rows = SceneRows(envs[0], vlm, self._rng)
        self._coordinates = coordinate_ids(envs[0], vlm)
        self._engine = TransformersEngine(vlm)
        held_out = SceneRows(envs[0], vlm, self._rng, held_out=True)
        self._clean_zooms = self._traces(TraceRecipe(zoom=1.0, correction=0.0), 128, held_out)
        self._pointing = [self._rows.where() for _ in range(recipe.pool)]

    def _traces(self, recipe: TraceRecipe, n: int, rows: SceneRows) -> list[Tokens]:
        env, chat = self._envs[0], self.vlm.chat
        return [search_trace(env, chat, rows.sample_id(), recipe, self._rng) for _ in range(n)]

    def form(self) -> dict[str, float]:
        """Teach the form of an operation; returns the last measurements and `met`."""
        recipe, phase = self.recipe, self.recipe.form
        pool = self._form_pool = self._traces(phase.traces, recipe.pool, self._rows)

        def check() -> tuple[dict[str, float], bool, list[Tokens]]:
            measured = self.measure()
            direct = measured.get("easy_direct", 0.0) >= recipe.direct
            return measured, direct and measured["valid"] >= recipe.valid and measured["box"] >= recipe.box, pool

        weights = TokenWeights(groups={"coordinates": (self._coordinates, 1.0)})
        return self._train(phase, pool, weights, check, done=0, total=phase.steps + recipe.clumsy.steps)

    def clumsy(self, offset: int) -> dict[str, float]:
        """Make zooming nascent after `offset` steps of form; returns the last measurements and `met`."""
        recipe, phase = self.recipe, self.recipe.clumsy
        pool = self._traces(phase.traces, recipe.pool, self._rows)
        low, high = recipe.hit_window

        def check() -> tuple[dict[str, float], bool, list[Tokens]]:
            measured = {**self.measure(), **self.measure_forced()}
            met = (
                measured["valid"] >= recipe.valid
                and measured["box"] >= recipe.latent_box
                and low <= measured["forced_hit"] <= high
                and measured.get("easy_direct", 0.0) - measured["forced_easy"] >= recipe.gap
            )
            too_clumsy = measured["box"] < recipe.latent_box + 0.1 or measured["forced_hit"] < low
            return measured, met, self._form_pool if too_clumsy else pool

        return self._train(phase, pool, TokenWeights(), check, done=offset, total=offset + phase.steps)

    def _train(
        self, phase: PhaseRecipe, pool: list[Tokens], weights: TokenWeights, check: Check, *, done: int, total: int
    ) -> dict[str, float]:
        """Steps on rows of `pool` until `check` is content or their limit is reached."""
        optimizers = Optimizers(self.vlm, lr=phase.lr)
        measured: dict[str, float] = {}
        for step in range(1, phase.steps + 1):
            n_pointing = int(self.recipe.batch_size * phase.pointing)
            n_traces = self.recipe.batch_size - n_pointing
            rows = [pool[i] for i in self._rng.integers(0, len(pool), n_traces)]
            rows += [self._pointing[i] for i in self._rng.integers(0, len(self._pointing), n_pointing)]
            optimizers.step(cross_entropy(self.vlm, rows, weights), min(1.0, step / 10))
            if step % phase.measure_every == 0:
                measured, met, pool = check()
                if met:
                    return {**measured, "steps": step, "met": 1.0}
            self._report(done + step, total, measured)
        return {**measured, "steps": phase.steps, "met": 0.0}

    def measure(self) -> dict[str, float]:
        """Sampled rollouts on held-out samples, and how often the most likely box is right."""
        episodes = self._roll()
        called = [e for e in episodes if e.steps and "<tool_call>" in e.steps[0].turn]
        direct = [
            e for e in episodes if e.needs_operation is False and not e.n_operations and not any(e.failures.values())
        ]
        statistics = episode_statistics(episodes)
        measured = {
            "box": token_accuracy(self.vlm, self._clean_zooms, self._coordinates, run=4),
            # As long as nobody calls anything, nothing shows that calls would be valid.
            "valid": float(np.mean([e.n_operations > 0 for e in called])) if called else 0.0,
            "usage": statistics["usage_rate"],
            "accuracy": statistics["accuracy"],
        }
        if direct:
            measured["easy_direct"] = float(np.mean([e.correct for e in direct]))
        return measured

    def measure_forced(self) -> dict[str, float]:
        """The same with the first token forced to begin an operation: less noise in what zooming is worth."""
        episodes = [e for e in self._roll(forced=True, repeats=2) if e.n_operations]
        statistics = episode_statistics(episodes) if episodes else {}
        return {"forced_hit": statistics.get("hit_rate", 0.0), "forced_easy": statistics.get("accuracy_easy", 0.0)}

    def _roll(self, *, forced: bool = False, repeats: int = 1) -> list[Episode]:
        self._engine.set_weights_version(self._engine.weights_version + 1)
        sampling = Sampling(max_tokens=self.recipe.max_tokens)
        agent = VLMAgent(self.vlm.chat, self._engine, sampling, opening=OPENING if forced else "")
        jobs = [
            Job(sample_id=sample_id, seed=episode_seed(self._seed, sample_id, repeat))
            for sample_id in self._held_out
            for repeat in range(repeats)
        ]
        return rollout(self._envs, agent, jobs)
