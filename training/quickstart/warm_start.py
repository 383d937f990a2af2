"""Stage B: the warm start of the quick start, in two phases that end by measurement on held-out samples.

*Form* teaches to write an operation: direct answers, single-pass zooms and self-corrections, until calls are
well formed, the most likely box is right and easy questions are still answered directly.

*Clumsy* demonstrations then make zooming a nascent skill, as it is for a real VLM after its warm start (arXiv
2505.15966, section 5): most demonstrated zooms miss, and the answer is read off whatever the view shows. It ends
as soon as sampled zooms hit rarely enough that zooming costs accuracy on easy questions, while the most likely
box is still right: worse than answering directly today, with the skill latent. This imbalance is engineered,
and is what plain reinforcement learning falls for.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

import gymnasium
import numpy as np
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from pxr_agents.agents import VLMAgent
from pxr_agents.engines.transformers import TransformersEngine
from pxr_agents.noise import episode_seed
from pxr_agents.rollout import rollout
from pxr_agents.statistics import episode_statistics
from pxr_agents.types import Episode, Job, Sampling, Tokens
from pxr_agents.vlm import VLM
from training.config import RECIPE, Share
from training.quickstart.pretrain import Report, Rows, coordinate_ids, held_out_ids
from training.sft import Optimizers, TokenWeights, cross_entropy, token_accuracy
from training.traces import TraceRecipe, search_trace


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class PhaseRecipe:
    """One phase: how long, how fast, and what share of rows are clean "where is" questions that keep pointing alive."""

    steps: PositiveInt
    """Most steps."""
    lr: PositiveFloat
    """Learning rate of AdamW."""
    measure_every: PositiveInt
    """Steps between measurements."""
    pointing: Share
    """Share of rows that are "where is" questions."""
    traces: TraceRecipe
    """What the demonstrations look like."""


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class WarmStartRecipe:
    """Constants of stage B and why."""

    batch_size: PositiveInt = 64
    """Rows of a step."""
    pool: PositiveInt = 2500
    """Demonstrations that steps are drawn from."""
    held_out: PositiveInt = 192
    """Samples that are measured on; training never sees them."""
    form: PhaseRecipe = field(
        default_factory=lambda: PhaseRecipe(
            steps=200, lr=8e-4, measure_every=10, pointing=0.4, traces=TraceRecipe(miss=0.2)
        )
    )
    """The first phase."""
    clumsy: PhaseRecipe = field(
        default_factory=lambda: PhaseRecipe(
            steps=150,
            lr=2e-4,
            measure_every=5,
            pointing=0.5,
            traces=TraceRecipe(miss=0.75, answer_from_view=True),
        )
    )
    """The second phase, whose demonstrations mostly miss."""
    valid: Share = 0.9
    """*form* ends when sampled calls are valid this often,"""
    box: Share = 0.8
    """the most likely box is right this often,"""
    direct: Share = 0.9
    """and easy questions are answered directly this often."""
    hit_window: tuple[float, float] = (0.20, 0.32)
    """*clumsy* ends when forced zooms hit at a rate inside it. Above, plain reinforcement learning finds zooming by
    itself and there is no trap; below, curiosity restores usage but has no skill to sharpen."""
    gap: Share = 0.4
    """How much better easy questions must be answered directly than by zooming."""
    latent_box: Share = 0.6
    """How often the most likely box must still be right; when it comes within 0.1 of that, or hits fall below the
    window, training goes back to *form*'s demonstrations until the next measurement."""
    max_tokens: PositiveInt = 16
    """Limit of a turn."""


class WarmStart:
    """The two phases over one model; what they share is the held-out samples and the ways to measure."""

    def __init__(
        self,
        vlm: VLM,
        envs: list[gymnasium.Env[Any, Any]],
        recipe: WarmStartRecipe,
        *,
        seed: int,
        report: Report,
    ) -> None:
        self.vlm, self.recipe, self._envs, self._report = vlm, recipe, envs, report
        self._held_out = held_out_ids(envs[0])[: recipe.held_out]
        self._seed, self._rng = seed, np.random.default_rng([seed, 2])
        self._rows = Rows(envs[0], vlm, self._rng)
        self._coordinates = coordinate_ids(envs[0], vlm)
        self._engine = TransformersEngine(vlm)
        clean = TraceRecipe(zoom=1.0, correction=0.0)
        held_out = Rows(envs[0], vlm, self._rng, held_out=True)
        self._clean_zooms = self._traces(clean, 128, held_out)
        self._pointing = [self._rows.where() for _ in range(recipe.pool)]

    def _traces(self, recipe: TraceRecipe, n: int, rows: Rows | None = None) -> list[Tokens]:
        env, chat, rows = self._envs[0], self.vlm.chat, rows or self._rows
        return [search_trace(env, chat, rows.sample_id(), recipe, self._rng) for _ in range(n)]

    def form(self) -> dict[str, float]:
        """Teach the form of an operation; returns the last measurements and `met`."""
        recipe, phase = self.recipe, self.recipe.form
        pool = self._traces(phase.traces, recipe.pool)
        self._form_pool = pool
        weights = TokenWeights(groups={"coordinates": (self._coordinates, 1.0)})
        optimizers = Optimizers(self.vlm, lr=phase.lr)
        measured: dict[str, float] = {}
        for step in range(1, phase.steps + 1):
            self._step(optimizers, pool, phase, weights, step)
            if step % phase.measure_every == 0:
                measured = self.measure()
                met = (
                    measured["valid"] >= recipe.valid
                    and measured["box"] >= recipe.box
                    and measured.get("easy_direct", 0.0) >= recipe.direct
                )
                if met:
                    return {**measured, "steps": step, "met": 1.0}
            self._report(step, phase.steps + recipe.clumsy.steps, measured)
        return {**measured, "steps": phase.steps, "met": 0.0}

    def clumsy(self, offset: int) -> dict[str, float]:
        """Make zooming nascent after `offset` steps of form; returns the last measurements and `met`."""
        recipe, phase = self.recipe, self.recipe.clumsy
        clumsy_pool = pool = self._traces(phase.traces, recipe.pool)
        optimizers = Optimizers(self.vlm, lr=phase.lr)
        low, high = recipe.hit_window
        measured: dict[str, float] = {}
        for step in range(1, phase.steps + 1):
            self._step(optimizers, pool, phase, TokenWeights(), step)
            if step % phase.measure_every == 0:
                measured = {**self.measure(), **self.measure_forced()}
                met = (
                    measured["valid"] >= recipe.valid
                    and measured["box"] >= recipe.latent_box
                    and low <= measured["forced_hit"] <= high
                    and measured.get("easy_direct", 0.0) - measured["forced_easy"] >= recipe.gap
                )
                if met:
                    return {**measured, "steps": step, "met": 1.0}
                too_clumsy = measured["box"] < recipe.latent_box + 0.1 or measured["forced_hit"] < low
                pool = self._form_pool if too_clumsy else clumsy_pool
            self._report(offset + step, offset + phase.steps, measured)
        return {**measured, "steps": phase.steps, "met": 0.0}

    def _step(
        self, optimizers: Optimizers, pool: list[Tokens], phase: PhaseRecipe, weights: TokenWeights, step: int
    ) -> None:
        n_pointing = int(self.recipe.batch_size * phase.pointing)
        n_traces = self.recipe.batch_size - n_pointing
        rows = [pool[i] for i in self._rng.integers(0, len(pool), n_traces)]
        rows += [self._pointing[i] for i in self._rng.integers(0, len(self._pointing), n_pointing)]
        optimizers.step(cross_entropy(self.vlm, rows, weights), min(1.0, step / 10))

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


OPENING = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": ['
"""How every zoom begins in the hermes dialect."""
